"""The bundle's generation defaults, from transformers' `GenerationConfig`."""

from typing import Any

from transformers import GenerationConfig

from edge_s2s.generation import GenerationOptions
from edge_s2s.manifest import GenerationDefaults

from .errors import ExportError

MAX_NEW_TOKENS = 128  # if the source sets no length: transformers' own default of 20 would cut sentences

_SHARED = {
    "num_beams", "num_return_sequences", "early_stopping", "length_penalty", "repetition_penalty",
    "no_repeat_ngram_size", "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "bad_words_ids",
    "max_length", "max_new_tokens", "min_length", "min_new_tokens",
}  # fmt: skip
# Special tokens have their own place in a bundle; the rest cannot change a token.
_NO_EFFECT = {
    "bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id",
    "_from_model_config", "cache_implementation", "disable_compile", "transformers_version", "use_cache",
    "output_attentions", "output_hidden_states", "output_logits", "output_scores", "return_dict_in_generate",
}  # fmt: skip
_OPTIONAL = (  # in a manifest only where they are not off
    "begin_suppress_tokens", "encoder_repetition_penalty", "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty", "sequence_bias",
    "do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "num_beam_groups",
    "diversity_penalty", "renormalize_logits", "prompt_lookup_num_tokens",
)  # fmt: skip
SAMPLING = {"temperature", "top_k", "top_p", "min_p", "typical_p"}  # of no effect without do_sample
_CUTOFFS = {"epsilon_cutoff", "eta_cutoff"}


def generation_defaults(config: GenerationConfig, *, max_target_len: int) -> GenerationDefaults:
    """The same defaults as a manifest has them; `max_length` and `min_length` count the start token there.

    Raises `ExportError` for a setting that would change the output and that a bundle cannot express.
    """
    changed = config.to_diff_dict()
    ignored = _NO_EFFECT if config.do_sample else _NO_EFFECT | _CUTOFFS
    if unknown := sorted(set(changed) - _SHARED - set(_OPTIONAL) - ignored):
        found = ", ".join(f"{name}={changed[name]!r}" for name in unknown)
        known = ", ".join(sorted(_SHARED | set(_OPTIONAL)))
        raise ExportError(f"generation_config.json: remove {found}; a bundle's defaults can be {known}")
    max_length = changed.get("max_length", 1 + MAX_NEW_TOKENS)
    max_new_tokens = min(config.max_new_tokens or max_length - 1, max_target_len)
    min_new_tokens = config.min_new_tokens or max((config.min_length or 0) - 1, 0)
    rules = {name: value for name in _OPTIONAL if (value := changed.get(name)) is not None}
    try:
        options = GenerationOptions(**rules)
    except (TypeError, ValueError) as error:
        raise ExportError(f"generation_config.json: {error}") from error
    return GenerationDefaults(
        num_beams=config.num_beams,
        num_return_sequences=config.num_return_sequences,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min(min_new_tokens, max_new_tokens),
        early_stopping=config.early_stopping,
        length_penalty=float(config.length_penalty),
        repetition_penalty=float(config.repetition_penalty),
        no_repeat_ngram_size=config.no_repeat_ngram_size or 0,
        forced_bos_token_id=config.forced_bos_token_id,
        forced_eos_token_id=_single(config.forced_eos_token_id, "forced_eos_token_id"),
        suppress_tokens=tuple(config.suppress_tokens or ()),
        bad_words_ids=tuple(map(tuple, config.bad_words_ids or ())),
        **{name: getattr(options, name) for name in rules},
    )


def as_keys(defaults: GenerationDefaults) -> dict[str, int | float]:
    """The same as `generation.*` keys of `decoder.weights`, which holds single numbers only.

    Token lists and rules that are usually off stay in the manifest.
    """
    keys: dict[str, int | float] = {
        name: getattr(defaults, name)
        for name in ("num_beams", "num_return_sequences", "max_new_tokens", "min_new_tokens",
                     "no_repeat_ngram_size", "length_penalty", "repetition_penalty")
    }  # fmt: skip
    keys["early_stopping"] = {False: 0, True: 1, "never": 2}[defaults.early_stopping]
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        token: int | None = getattr(defaults, name)
        keys[name] = -1 if token is None else token
    return {f"generation.{name}": value for name, value in keys.items()}


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
