"""The bundle's generation defaults, from transformers' `GenerationConfig`."""

from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig

from .errors import ExportError

MAX_NEW_TOKENS = 128  # if the source sets no length: transformers' own default of 20 would cut sentences

_ALWAYS: dict[str, Any] = {  # name -> the value that means "off" or the library's default
    "num_beams": 1,
    "num_return_sequences": 1,
    "early_stopping": False,
    "length_penalty": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "suppress_tokens": [],
    "bad_words_ids": [],
}
_LENGTHS = {"max_length", "max_new_tokens", "min_length", "min_new_tokens"}
# Special tokens have their own place in a bundle; the rest cannot change a token.
_NO_EFFECT = {
    "bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id",
    "_from_model_config", "cache_implementation", "disable_compile", "transformers_version", "use_cache",
    "output_attentions", "output_hidden_states", "output_logits", "output_scores", "return_dict_in_generate",
}  # fmt: skip
_SAMPLING = {"temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"}


def generation_defaults(config: GenerationConfig, *, max_target_len: int) -> dict[str, Any]:
    """The `generation` object of a manifest: transformers' names and meanings, every name present.

    `max_length` and `min_length` count the start token; they become `max_new_tokens` and `min_new_tokens`.
    Raises `ExportError` for a setting that would change the output and that a bundle cannot express.
    """
    changed = config.to_diff_dict()
    ignored = _NO_EFFECT if config.do_sample else _NO_EFFECT | _SAMPLING
    unknown = sorted(set(changed) - set(_ALWAYS) - _LENGTHS - ignored)
    if unknown:
        found = ", ".join(f"{name}={changed[name]!r}" for name in unknown)
        known = ", ".join(sorted(set(_ALWAYS) | _LENGTHS))
        raise ExportError(f"generation_config.json: remove {found}; a bundle's defaults can be {known}")
    defaults = {name: off if (v := getattr(config, name)) is None else v for name, off in _ALWAYS.items()}
    max_length = changed.get("max_length", 1 + MAX_NEW_TOKENS)
    max_new_tokens = config.max_new_tokens or max_length - 1
    min_new_tokens = config.min_new_tokens or max(config.min_length - 1, 0)
    defaults["max_new_tokens"] = min(max_new_tokens, max_target_len)
    defaults["min_new_tokens"] = min(min_new_tokens, max_target_len)
    defaults["forced_eos_token_id"] = _single(defaults["forced_eos_token_id"], "forced_eos_token_id")
    return defaults


def as_keys(defaults: Mapping[str, Any]) -> dict[str, int | float]:
    """The same defaults as `generation.*` keys of `decoder.weights`, which holds single numbers only.

    Token lists (`suppress_tokens`, `bad_words_ids`) stay in the manifest.
    """
    early_stopping = {False: 0, True: 1, "never": 2}[defaults["early_stopping"]]
    keys: dict[str, int | float] = {"generation.early_stopping": early_stopping}
    for name in ("num_beams", "num_return_sequences", "no_repeat_ngram_size"):
        keys[f"generation.{name}"] = int(defaults[name])
    for name in ("max_new_tokens", "min_new_tokens"):
        keys[f"generation.{name}"] = int(defaults[name])
    for name in ("length_penalty", "repetition_penalty"):
        keys[f"generation.{name}"] = float(defaults[name])
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        keys[f"generation.{name}"] = -1 if defaults[name] is None else int(defaults[name])
    return keys


def special_token_keys(config: Any, generation_config: GenerationConfig) -> dict[str, int]:
    """`decoder_start_token_id`, `eos_token_id` and `pad_token_id`, -1 for none.

    `generation_config.json` wins over `config.json`, as in transformers.
    """
    ids = {}
    for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id"):
        from_generation = getattr(generation_config, name, None)
        value = getattr(config, name, None) if from_generation is None else from_generation
        ids[name] = _single(value, name)
    if ids["decoder_start_token_id"] is None:
        raise ExportError("config.json: decoder_start_token_id is missing; the decoder needs a first token")
    return {name: -1 if value is None else value for name, value in ids.items()}


def _single(value: int | list[int] | None, name: str) -> int | None:
    """transformers allows a list of ids where a bundle holds one."""
    if not isinstance(value, list):
        return value
    if len(set(value)) != 1:
        raise ExportError(f"generation_config.json: {name}={value!r}, expected one id")
    return value[0]
