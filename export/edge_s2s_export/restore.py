"""A bundle of a T5 as a Hugging Face folder again: to train it on, or to convert it otherwise.

    edge-s2s-export restore summarizer.es2s --out ./summarizer

Weights are what the bundle computes with, so those of an int8 bundle are its codes times their scales: to
convert them to int8 again changes no code. What the bundle alone has, its fitted confidence, golden cases and
evaluation, does not come along.
"""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

import edge_s2s.tokenizer
from edge_s2s.bundle import open_bundle
from edge_s2s.manifest import TOKENIZER, Manifest
from edge_s2s.onnx_graph import check_onnx
from edge_s2s.weights import Weights, read_weights

from . import families
from .errors import ExportError
from .families.layout import ACTIVATIONS
from .families.t5_layout import position_bias
from .generation_defaults import generation_defaults
from .tokenizer_json import text_rules

# Of the bundle, not of its checkpoint.
_IGNORED_KEYS = {"weights_dtype", "head_rescore", "prefix", "kv_cache_dtype"}
_PROJECTION = re.compile(r"projections\.(\d+)")


def restore(bundle: str | Path, out: str | Path, *, exist_ok: bool = False) -> Manifest:
    """Writes what `restored` makes of `bundle` to the folder `out`; returns the bundle's manifest.

    No Hugging Face folder has a place for the manifest's prefix and licence. Raises FileExistsError if `out`
    exists, unless `exist_ok`, and what `restored` raises.
    """
    if Path(out).exists() and not exist_ok:
        raise FileExistsError(f"{out} exists; choose a new folder")
    model, tokenizer, manifest = restored(bundle)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return manifest


def restored(bundle: str | Path) -> tuple[Any, Any, Manifest]:
    """The `T5ForConditionalGeneration` in float32 and the tokenizer of a bundle, a file or a directory.

    Raises `BundleError` for a damaged bundle, and `ExportError` for one that is no T5 with a fast tokenizer
    and an ONNX encoder as `convert` writes it.
    """
    with open_bundle(bundle) as opened:
        manifest = opened.manifest
        if [encoder.kind for encoder in manifest.encoders[:1]] != ["onnx"]:
            raise ExportError(f"{bundle}: expected an encoder for ONNX Runtime, found none")
        weights = read_weights(bytes(opened.read("decoder.weights")))
        encoder = bytes(opened.read(file := manifest.encoders[0].file))
        check_onnx(memoryview(encoder), file)
        tokenizer = _tokenizer(manifest, bytes(opened.read(TOKENIZER)))
    try:
        model = _model(manifest, weights, onnx.load_from_string(encoder).graph)
        model.generation_config = _generation_config(manifest)
        _check(model, tokenizer, manifest, weights)
    except (DecodeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ExportError(f"{bundle}: expected a T5 that convert has written; {error}") from error
    return model, tokenizer, manifest


def _tokenizer(manifest: Manifest, data: bytes) -> Any:
    tokens = manifest.special_tokens
    n_tokens = manifest.dimensions.vocab_size
    edge_s2s.tokenizer.Tokenizer(data, vocab_size=n_tokens, unk_id=tokens.unk)  # checks it
    tokenizer = Tokenizer.from_str(data.decode())
    ids = {"pad_token": tokens.pad, "eos_token": tokens.eos, "unk_token": tokens.unk}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=manifest.text.clean_up_spaces,
        **{name: tokenizer.id_to_token(token) for name, token in ids.items() if token is not None},
    )


def _generation_config(manifest: Manifest) -> GenerationConfig:
    ours, tokens = manifest.generation, manifest.special_tokens
    config = GenerationConfig(
        decoder_start_token_id=tokens.decoder_start, eos_token_id=tokens.eos, pad_token_id=tokens.pad
    )
    plain = generation_defaults(config, max_target_len=manifest.dimensions.max_target_len)
    for name in (field.name for field in fields(ours)):
        if (value := getattr(ours, name)) != getattr(plain, name):
            setattr(config, name, value)
    config.validate(strict=True)  # it would not be saved
    return config


def _model(manifest: Manifest, weights: Weights, graph: onnx.GraphProto) -> Any:
    """A `T5ForConditionalGeneration`; raises what torch and transformers raise if anything does not fit."""
    keys = weights.keys
    state = dict(_encoder_state(graph)) | dict(_decoder_state(weights))
    bias = state["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    n_encoder_layers = sum(name.endswith(".layer.1.DenseReluDense.wo.weight") for name in state)
    config = T5Config(
        vocab_size=keys["vocab_size"],
        d_model=keys["d_model"],
        d_kv=keys["d_head"],
        d_ff=keys["d_ff"],
        num_layers=n_encoder_layers,
        num_decoder_layers=keys["n_layers"],
        num_heads=keys["n_heads"],
        layer_norm_epsilon=keys["norm_eps"],
        relative_attention_num_buckets=len(bias),
        relative_attention_max_distance=weights.tensors["position_bias"].shape[1] - 1,
        feed_forward_proj=_feed_forward(str(keys["ffn"])),
        tie_word_embeddings=bool(keys["tied_lm_head"]),
        dropout_rate=0.0,
        decoder_start_token_id=manifest.special_tokens.decoder_start,
        eos_token_id=manifest.special_tokens.eos,
        pad_token_id=manifest.special_tokens.pad,
    )
    model = T5ForConditionalGeneration(config).eval()
    table = model.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    with torch.no_grad():  # each bucket's own number in its place tells which distances it holds
        table.copy_(torch.arange(len(table))[:, None].expand_as(table))
        buckets = position_bias(model.decoder.block[0], config)[0].round().long().numpy()
    bias_by_bucket = np.zeros(table.shape, np.float32)  # one without a distance is never read
    bias_by_bucket[buckets] = _values(weights, "position_bias").T
    state["decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = bias_by_bucket
    for tied in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        state[tied] = state["shared.weight"]
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["shared.weight"]
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    return model


def _feed_forward(ffn: str) -> str:
    """transformers' `feed_forward_proj` for our `ffn`."""
    gate, plain = ("gated-", ffn.removeprefix("gated_")) if ffn.startswith("gated_") else ("", ffn)
    if (gate, plain) == ("gated-", "gelu_tanh"):
        return "gated-gelu"  # as it is published; transformers knows which gelu is meant
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items()) if theirs != "gelu"}
    return gate + names[plain]


def _encoder_state(graph: onnx.GraphProto) -> Iterator[tuple[str, np.ndarray]]:
    """transformers' names and values. Matrices have lost theirs; the nodes that use them keep the path."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for name, value in constants.items():
        if name.startswith("encoder.") and name.endswith(".weight"):
            yield name, value
    for node in graph.node:
        if node.op_type not in ("MatMul", "MatMulInteger") or node.input[1] not in constants:
            continue
        matrix = constants[node.input[1]].astype(np.float32)  # [in, out]
        if node.op_type == "MatMulInteger":
            matrix = matrix * constants[node.input[1].removesuffix(".q8") + ".scale"]
        path = node.output[0].partition("/MatMul")[0].strip("/").replace("/", ".")
        if projection := _PROJECTION.fullmatch(path):
            layer, is_v = divmod(int(projection[1]), 2)
            path = f"decoder.block.{layer}.layer.1.EncDecAttention.{'kv'[is_v]}"
        yield f"{path}.weight", np.ascontiguousarray(matrix.T)


def _decoder_state(weights: Weights) -> Iterator[tuple[str, np.ndarray]]:
    keys = weights.keys
    yield "shared.weight", _values(weights, "embedding.weight")
    output_scale = 1.0
    if keys["tied_lm_head"]:  # t5_layout folds it into the norm
        output_scale = float(keys["d_model"]) ** 0.5
    else:
        yield "lm_head.weight", _values(weights, "lm_head.weight")
    yield "decoder.final_layer_norm.weight", _values(weights, "final_norm.weight") * np.float32(output_scale)
    for i in range(int(keys["n_layers"])):
        ours, theirs = f"layers.{i}", f"decoder.block.{i}.layer"
        heads = np.split(_values(weights, f"{ours}.self_attn.qkv.weight"), 3)
        for name, value in zip("qkv", heads, strict=True):
            yield f"{theirs}.0.SelfAttention.{name}.weight", value
        yield f"{theirs}.0.SelfAttention.o.weight", _values(weights, f"{ours}.self_attn.o.weight")
        yield f"{theirs}.0.layer_norm.weight", _values(weights, f"{ours}.self_attn_norm.weight")
        for name in "qo":
            value = _values(weights, f"{ours}.cross_attn.{name}.weight")
            yield f"{theirs}.1.EncDecAttention.{name}.weight", value
        yield f"{theirs}.1.layer_norm.weight", _values(weights, f"{ours}.cross_attn_norm.weight")
        up = _values(weights, f"{ours}.ffn.up.weight")
        if str(keys["ffn"]).startswith("gated_"):
            for name, value in zip(("wi_0", "wi_1"), np.split(up, 2), strict=True):
                yield f"{theirs}.2.DenseReluDense.{name}.weight", value
        else:
            yield f"{theirs}.2.DenseReluDense.wi.weight", up
        yield f"{theirs}.2.DenseReluDense.wo.weight", _values(weights, f"{ours}.ffn.down.weight")
        yield f"{theirs}.2.layer_norm.weight", _values(weights, f"{ours}.ffn_norm.weight")


def _values(weights: Weights, name: str) -> np.ndarray:
    """float32; an int8 tensor's codes times the scale of their row."""
    values = weights.tensors[name].astype(np.float32)
    scale = weights.tensors.get(f"{name}_scale")
    return values if scale is None else values * scale[:, None]


def _check(model: Any, tokenizer: Any, manifest: Manifest, weights: Weights) -> None:
    """Raises ValueError if `convert` would not make the bundle's own decoder and manifest of it again."""
    spec = families.describe(model, tokenizer)
    expected = {name: value for name, value in weights.keys.items() if name not in _IGNORED_KEYS}
    found = {name: value for name, value in spec.keys.items() if name not in _IGNORED_KEYS}
    parts: list[tuple[str, Any, Any]] = [
        ("encoder layers", manifest.dimensions.n_encoder_layers, spec.n_encoder_layers),
        *((name, expected.get(name, 0), found.get(name, 0)) for name in sorted({*expected, *found})),
        ("generation defaults", manifest.generation, spec.generation),
        ("text rules", manifest.text, text_rules(tokenizer)),
        ("language tokens", dict(manifest.language_tokens.ids), {}),
    ]
    for name, ours, theirs in parts:
        if ours != theirs:
            raise ValueError(f"{name}: the bundle has {ours}, what comes back {theirs}")
    for name, tensor in spec.tensors.items():
        _check_tensor(name, _values(weights, name), tensor)


def _check_tensor(name: str, expected: np.ndarray, found: np.ndarray) -> None:
    """The last norm alone is multiplied and divided by sqrt(d_model), which may round: an ulp each."""
    tolerance = 2 * np.finfo(np.float32).eps if name == "final_norm.weight" else 0.0
    if not np.allclose(expected, found, rtol=tolerance, atol=0.0):
        raise ValueError(f"{name} differs")
