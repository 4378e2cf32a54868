"""The smallest valid bundle: 20 KiB of made-up numbers for tests of the format.

Its model is never run, so encoder and tokenizer are placeholders.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edge_s2s.bundle import write_bundle
from edge_s2s.manifest import (
    Dimensions,
    Encoder,
    Features,
    GenerationDefaults,
    Licence,
    Manifest,
    Quantization,
    SpecialTokens,
)
from edge_s2s.weights import Key, Tensor, expected_tensors, write_weights


def tiny_keys(**changes: Key) -> dict[str, Key]:
    """Keys of a decoder with int8 weights; `generation_x` changes "generation.x"."""
    keys: dict[str, Key] = {
        "vocab_size": 20,
        "d_model": 8,
        "d_ff": 12,
        "n_layers": 2,
        "n_heads": 2,
        "d_head": 3,
        "max_source_len": 32,
        "max_target_len": 16,
        "embedding_norm": 0,
        "final_norm": 1,
        "linear_bias": 0,
        "tied_lm_head": 1,
        "final_logits_bias": 0,
        "position_bias_per_layer": 0,
        "head_rescore": 8,
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": -1,
        "norm_eps": 1e-6,
        "embedding_scale": 1.0,
        "weights_dtype": "int8",
        "norm": "rms",
        "norm_position": "pre",
        "position": "relative_bias",
        "ffn": "gated_gelu_tanh",
        "prefix": "résumé: ",
        "generation.num_beams": 4,
        "generation.num_return_sequences": 2,
        "generation.max_new_tokens": 12,
        "generation.min_new_tokens": 0,
        "generation.no_repeat_ngram_size": 3,
        "generation.early_stopping": 2,
        "generation.length_penalty": 0.75,
        "generation.repetition_penalty": 1.0,
        "generation.forced_bos_token_id": -1,
        "generation.forced_eos_token_id": 1,
    }
    return keys | {name.replace("generation_", "generation."): value for name, value in changes.items()}


def tiny_tensors(
    keys: Mapping[str, Key], *, n_distances: int = 5, n_positions: int = 16
) -> dict[str, Tensor]:
    """Every tensor, filled with 37 times a running number, folded into -127..127; floats are 1/64 of it."""
    tensors: dict[str, Tensor] = {}
    for seed, (name, spec) in enumerate(expected_tensors(keys).items()):
        n_free = n_positions if name == "position_embedding.weight" else n_distances
        shape = [n_free if n is None else n for n in spec.shape]
        values = ((np.arange(np.prod(shape)) + seed) * 37 % 255 - 127).reshape(shape)
        if name.endswith("_scale"):
            values = np.abs(values)
        tensors[name] = values.astype(np.int8) if spec.dtype == "int8" else (values / 64).astype(np.float32)
    return tensors


def tiny_files(keys: Mapping[str, Key]) -> dict[str, bytes]:
    """All files but the manifest."""
    cases = [{"text": "Tom said: “hi” 👋", "input_ids": [5, 6, 1], "token_ids": [7, 1]} for _ in range(8)]
    return {
        "encoder.onnx": b"\x08\x0a not a graph",
        "decoder.weights": write_weights(keys, tiny_tensors(keys)),
        "tokenizer.json": b"{}",
        "golden.json": json.dumps({"cases": cases}).encode(),
        "eval.json": b"{}",
        "LICENSE": b"",
        "MODEL_CARD.md": b"# tiny\n",
    }


def tiny_manifest(keys: Mapping[str, Key]) -> Manifest:
    """A manifest that fits the keys."""
    return Manifest(
        name="tiny",
        version="1.0.0",
        task="summarization",
        prefix=str(keys["prefix"]),
        languages=("en", "fr"),
        features=Features.from_keys(keys),
        dimensions=Dimensions.from_keys(keys, n_encoder_layers=2),
        special_tokens=SpecialTokens.from_keys(keys, unk=2),
        generation=GenerationDefaults.from_keys(keys, suppress_tokens=(3,), bad_words_ids=((4, 5), (6,))),
        quantization=Quantization.from_keys(
            keys, encoder_weights="int8", activations="dynamic, int8 per token"
        ),
        encoders=(Encoder("onnx", "encoder.onnx"),),
        min_runtime="0.1.0",
        licence=Licence("CC-BY-4.0", ("made-up numbers",)),
        created_by="tests",
        extensions={"later": {"mean": [0.5, 1e-07]}},
    )


def write_tiny_bundle(path: Path) -> Path:
    """Writes it to `path`, as a directory or .es2s, and returns `path`."""
    keys = tiny_keys()
    write_bundle(path, tiny_manifest(keys), tiny_files(keys))
    return path
