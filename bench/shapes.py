"""The models that are measured: real shapes with random weights, and the default model with its own.

What a token costs depends on the shape alone; forced lengths keep the values out of it. The random weights
are drawn so that the best token is well ahead of the second, hence peers that compute the same agree.
"""

import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bench import ROOT
from edge_s2s import default_bundle_path
from edge_s2s.bundle import open_bundle

DEFAULT = "default"
_T5 = {
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
# CTranslate2 reads normalize_before and add_final_layer_norm, which published checkpoints have.
_PUBLISHED = {"normalize_before": False, "add_final_layer_norm": False, "forced_eos_token_id": None}
_BART_IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}


def _layers(n: int, heads: int, d_ff: int) -> dict[str, int]:
    return {
        f"{stack}_{name}": value
        for stack in ("encoder", "decoder")
        for name, value in (("layers", n), ("attention_heads", heads), ("ffn_dim", d_ff))
    }


def _marian(vocab_size: int, d_model: int, n_layers: int, heads: int, d_ff: int) -> dict[str, Any]:
    ids = {"eos_token_id": 0, "bos_token_id": 0, "pad_token_id": vocab_size - 1}
    return {
        **_PUBLISHED,
        **_layers(n_layers, heads, d_ff),
        **ids,
        "vocab_size": vocab_size,
        "decoder_vocab_size": vocab_size,
        "d_model": d_model,
        "decoder_start_token_id": vocab_size - 1,
        "max_position_embeddings": 1024,
        "activation_function": "swish",
        "scale_embedding": True,
    }


# Name -> class of transformers without "Config", and its configuration.
SHAPES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "t5-small": ("T5", {**_T5, "vocab_size": 32128, "d_model": 512, "d_ff": 2048, "d_kv": 64,
                        "num_heads": 8, "num_layers": 6}),
    "marian": ("Marian", _marian(58101, 512, 6, 8, 2048)),
    "bart-base": ("Bart", {**_PUBLISHED, **_layers(6, 12, 3072), **_BART_IDS, "vocab_size": 50265,
                           "d_model": 768, "max_position_embeddings": 1024}),
}  # fmt: skip
TINY: Mapping[str, tuple[str, Mapping[str, Any]]] = {  # for tests
    "tiny-t5": ("T5", {**_T5, "vocab_size": 400, "d_model": 32, "d_ff": 64, "d_kv": 16, "num_heads": 2,
                       "num_layers": 1}),
    "tiny-marian": ("Marian", _marian(400, 32, 1, 2, 64)),
}  # fmt: skip
MODELS = (*SHAPES, DEFAULT)


def write_checkpoint(name: str, folder: Path) -> None:
    """A Hugging Face folder: the default bundle's weights, or a random model with all tokens of its shape."""
    import torch
    import transformers

    if name == DEFAULT:
        from edge_s2s_export.restore import restore

        restore(default_bundle_path(must_exist=True), folder, exist_ok=True)
        return
    family, config = {**SHAPES, **TINY}[name]
    torch.manual_seed(0)
    classes = {"T5": "T5ForConditionalGeneration", "Bart": "BartForConditionalGeneration"}
    model_class = getattr(transformers, classes.get(family, f"{family}MTModel"))
    model = model_class(getattr(transformers, f"{family}Config")(**config)).eval()
    with torch.no_grad():
        _fill(model)
    model.save_pretrained(folder)
    _tokenizer(config).save_pretrained(folder)


def _fill(model: Any) -> None:
    """Layers outweigh the embedding of the last token, which would else repeat; logits have deviation 4."""
    config = model.config
    is_t5 = config.model_type == "t5"
    embedding = 1.0 if is_t5 or not config.scale_embedding else config.d_model**-0.5
    for name, weight in model.named_parameters():
        if "embed_positions" in name or "relative_attention_bias" in name or weight.ndim == 1:
            continue
        if name.endswith(("shared.weight", "embed_tokens.weight", "lm_head.weight")):
            weight.normal_(std=embedding)
            continue
        gain = 4.0 if name.endswith((".o.weight", ".wo.weight", ".out_proj.weight", ".fc2.weight")) else 1.0
        weight.normal_(std=gain * weight.shape[1] ** -0.5)
        if name.endswith((".q.weight", ".k.weight")):
            weight *= config.d_kv**-0.25  # T5 does not divide scores by sqrt(d_kv)
    decoder = model.get_decoder()
    last = decoder.final_layer_norm if is_t5 else decoder.layers[-1].final_layer_norm
    last.weight.fill_(4.0 if is_t5 else 4.0 * config.d_model**-0.5 / embedding)


def _tokenizer(config: Mapping[str, Any]) -> Any:
    """Single characters and bytes, then names of tokens that no text has."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {"<s>": config.get("bos_token_id"), "<pad>": config["pad_token_id"], "</s>": config["eos_token_id"]}
    specials = {i: name for name, i in ids.items() if i is not None}  # eos last: Marian's bos is its eos
    free = [i for i in range(config["vocab_size"]) if i not in specials]
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    names += [f"token{i}" for i in range(len(free) - len(names))]
    vocab = {**{name: i for i, name in specials.items()}, **dict(zip(names, free, strict=True))}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Metaspace()])
    eos = ("</s>", config["eos_token_id"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[eos])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>" if "<s>" in vocab else None,  # CTranslate2 asks for BART's
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def sources(name: str, length: int, batch: int) -> list[list[int]]:
    """`batch` sources of exactly `length` token ids, EOS included, always the same ones.

    Of the default model pieces of the example dialogue, of a random model random tokens.
    """
    if name == DEFAULT:
        *body, eos = encode((ROOT / "examples" / "dialogue.txt").read_text(encoding="utf-8"))
        bodies: list[Sequence[int]] = [
            body[7 * row :] + body * (length // len(body) + 1) for row in range(batch)
        ]
    else:
        _, config = {**SHAPES, **TINY}[name]
        draw, eos = random.Random(0), config["eos_token_id"]
        special = {eos, config["pad_token_id"], config["decoder_start_token_id"]}
        plain = [token for token in range(config["vocab_size"]) if token not in special]
        bodies = [draw.choices(plain, k=length) for _ in range(batch)]
    return [[*body[: length - 1], eos] for body in bodies]


def encode(text: str) -> list[int]:
    """The input ids of a text for the default model, with its prefix."""
    ids: list[int] = default_tokenizer().encode("summarize dialogue: " + text).ids
    return ids


@cache
def default_tokenizer() -> Any:
    """The default model's, of the library tokenizers, which needs no exporter."""
    from tokenizers import Tokenizer

    with open_bundle(default_bundle_path(must_exist=True)) as bundle:
        return Tokenizer.from_str(bytes(bundle.read("tokenizer.json")).decode())
