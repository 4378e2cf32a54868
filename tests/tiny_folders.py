"""Hugging Face folders with a tiny random T5 and a tokenizer trained on the spot, for tests that convert."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from edge_s2s_export.probe_texts import probe_texts
from tiny_models import random_t5

MAX_NEW_TOKENS = 12
PREFIX = "tell: "  # of the bundles that conftest.py makes of such a folder


def make_tiny_folder(path: Path, seed: int = 0, *, kind: str = "t5-v1.1-tied", **config: Any) -> Path:
    """Writes config, weights, generation settings and tokenizer to `path`, and returns it.

    `kind` is one of `tiny_models.KINDS`; `config` overrides single values of its T5Config.
    """
    tokenizer = tiny_tokenizer()
    model = random_t5(kind, seed, **{"vocab_size": len(tokenizer), "d_ff": 64, **config}).hf
    with torch.no_grad():
        for name, weight in model.named_parameters():  # sharp attention would multiply the errors of int8
            if name.endswith((".q.weight", "relative_attention_bias.weight")):
                weight *= 0.2
            elif name.startswith("encoder.") and name.endswith((".o.weight", ".wo.weight")):
                weight *= 0.25
            elif name.endswith((".o.weight", ".wo.weight")):
                weight *= 0.5
    model.generation_config.max_new_tokens = MAX_NEW_TOKENS
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


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
