"""Hugging Face folders with a tiny random model and a tokenizer trained on the spot: tests convert them."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from edge_s2s_export.probe_texts import probe_texts
from tiny_models import random_hf

MAX_NEW_TOKENS = 12
PREFIX = "tell: "  # of the bundles that conftest.py makes of such a folder


def make_tiny_folder(path: Path, seed: int = 0, *, kind: str = "t5-v1.1-tied", **config: Any) -> Path:
    """Writes config, weights, generation settings and tokenizer to `path`, and returns it.

    `kind` is one of `tiny_models.ALL_KINDS`; `config` overrides single values of its config.
    """
    tokenizer = tiny_tokenizer()
    sizes: dict[str, Any] = {"vocab_size": len(tokenizer)}
    if "t5" in kind:
        sizes["d_ff"] = 64
    else:  # its ids are those of the tokenizer
        sizes |= {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "decoder_start_token_id": 1}
        sizes["max_position_embeddings"] = 512
    model = random_hf(kind, seed, **{**sizes, **config})
    soften(model)
    model.generation_config.max_new_tokens = MAX_NEW_TOKENS
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def soften(model: Any) -> None:
    """Makes attention blunt: where it is sharp it multiplies the errors of int8."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith((".q.weight", ".q_proj.weight", "relative_attention_bias.weight")):
                weight *= 0.2
            elif name.endswith((".o.weight", ".wo.weight", ".out_proj.weight", ".fc2.weight")):
                weight *= 0.25 if "encoder." in name else 0.5


def tiny_tokenizer(n_tokens: int = 320) -> PreTrainedTokenizerFast:
    """BPE with byte fallback and the parts that the shipped tokenizer has."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Metaspace()])
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=n_tokens - 256, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(probe_texts(50), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab = {**model["vocab"], **{f"<0x{byte:02X}>": len(model["vocab"]) + byte for byte in range(256)}}
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer.model = models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
