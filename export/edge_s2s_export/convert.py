"""The pipeline: a Hugging Face checkpoint becomes a checked bundle, or nothing is written."""

import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from edge_s2s import encoder_weights
from edge_s2s.bundle import SUFFIX, write_bundle
from edge_s2s.manifest import (
    RUNTIME_VERSION,
    TOKENIZER_TABLE,
    Dimensions,
    Encoder,
    EncoderKind,
    Features,
    FloatKind,
    GenerationDefaults,
    Licence,
    Manifest,
    Quantization,
    SpecialTokens,
)
from edge_s2s.weights import Key, TensorSpec, expected_tensors, write_weights

from . import families, gates, tokenizer_table
from .candidate import Candidate
from .errors import ExportError
from .generation_defaults import SAMPLING
from .golden import answers, golden_cases, rounded_otherwise
from .model_card import UNKNOWN_LICENCE, licence_text, model_card
from .model_spec import ModelSpec
from .onnx_encoder import export_encoder
from .probe_texts import probe_texts
from .quantize import quantize_tensors
from .smooth_quant import smooth
from .tokenizer_json import language_tokens, load_tokenizer, text_rules, tokenizer_files

HEAD_RESCORE = 8  # best logits that are recomputed with float activations in an int8 bundle
N_GATE_TEXTS = 20
N_SMOOTH_TEXTS = 64
N_SMOOTH_TOKENS = 32  # that the model writes for each of them
N_GOLDEN_TEXTS = 400  # to choose from
ENCODER_FILES: Mapping[EncoderKind, str] = {"onnx": "encoder.onnx", "native": encoder_weights.FILE}

Dtype = Literal["int8", "float32"]


@dataclass(frozen=True)
class Report:
    """What `convert` wrote, and what the gates measured."""

    path: Path
    size_bytes: int
    metrics: Mapping[str, float]


def convert(
    source: str | Path,
    out: str | Path,
    *,
    dtype: Dtype = "int8",
    encoder: EncoderKind = "onnx",
    smooth_quant: float | None = None,
    kv_cache: FloatKind = "float32",
    name: str | None = None,
    model_version: str = "1.0.0",
    task: str = "text2text-generation",
    prefix: str = "",
    languages: Sequence[str] = (),
    licence: str = UNKNOWN_LICENCE,
    data: Sequence[str] = (),
    texts: Sequence[str] | None = None,
    replace: bool = False,
    on_step: Callable[[str, float], None] = lambda _step, _seconds: None,
) -> Report:
    """Converts `source`, a local Hugging Face folder or a hub id, into the bundle `out`.

    `out` is an .es2s file or a directory. `encoder` is what the bundle's runs on: ONNX Runtime, or the C core
    ("native"). `smooth_quant`, such as 0.5, smooths a T5 for int8 with that alpha, calibrated on texts.
    `kv_cache="float16"` halves the memory of the keys and values that a session keeps, in int8 bundles.
    `prefix` starts every input. `licence` is the SPDX expression of
    the weights, `data` one line for each data set they were trained on. `texts`, by default English ones
    written for this project, are what gates and golden cases use. `on_step` gets each finished step and its
    seconds.

    The same arguments give the same bytes. Raises `ExportError` if a bundle cannot hold the model,
    `GateError` if the result does not do what transformers does, and FileExistsError without `replace`.
    """
    if Path(out).exists() and not replace:
        raise FileExistsError(f"{out} exists; pass replace=True, or --replace, to replace it")
    if kv_cache == "float16" and dtype != "int8":
        raise ExportError("kv_cache: expected float32 with dtype float32, found float16")
    if not (parent := Path(out).absolute().parent).is_dir():
        raise ExportError(f"{out}: expected a folder to write it to, found none at {parent}")
    step = timer(on_step)
    with step("load the checkpoint"):
        model, tokenizer = load_checkpoint(source)
        all_texts = probe_texts(N_GOLDEN_TEXTS) if texts is None else list(texts)
        if smooth_quant is not None:
            _smooth(model, tokenizer, [prefix + text for text in all_texts[:N_SMOOTH_TEXTS]], smooth_quant)
        spec = families.describe(model, tokenizer)
        spec = dataclasses.replace(spec, keys={**spec.keys, "prefix": prefix})
    manifest = Manifest(
        name=name or re.sub("[^A-Za-z0-9._-]+", "-", Path(source).resolve().name).strip("-._"),
        version=model_version,
        task=task,
        prefix=prefix,
        languages=tuple(languages),
        features=Features.from_keys(spec.keys),
        dimensions=Dimensions.from_keys(spec.keys, n_encoder_layers=spec.n_encoder_layers),
        special_tokens=SpecialTokens.from_keys(spec.keys, unk=tokenizer.unk_token_id),
        generation=spec.generation,
        quantization=Quantization.from_keys(spec.keys, encoder_weights="float32", activations="float32"),
        encoders=(Encoder(encoder, ENCODER_FILES[encoder]),),
        min_runtime=RUNTIME_VERSION,
        licence=Licence(licence, tuple(data)),
        created_by=f"edge-s2s-export {RUNTIME_VERSION}",
        text=text_rules(tokenizer),
        language_tokens=language_tokens(tokenizer),
    )
    manifest.check()  # a wrong name or version, before the minutes that the rest takes
    if encoder == "native":
        check_defaults(manifest, spec.keys)
    with step("export the encoder"):
        files = {
            ENCODER_FILES[encoder]: _encoder_file(spec, encoder, "float32"),
            "decoder.weights": write_weights(spec.keys, spec.tensors),
            **tokenizer_files(tokenizer, spec.source_vocab_size),
        }
    candidate = Candidate(manifest, files)
    if encoder == "native":
        with step("compile the tokenizer"):
            table = tokenizer_table.compile_tokenizer(candidate.tokenizer, files, manifest)
            files[TOKENIZER_TABLE] = table
            gates.check_table(candidate, table, probe_texts(N_GOLDEN_TEXTS) if texts is None else texts)
    with step("run transformers"):
        _check_texts(candidate, all_texts)
        gate_texts = [prefix + text for text in all_texts[:N_GATE_TEXTS]]
        references = gates.run_transformers(model, tokenizer, spec, gate_texts)
    with step("check the float32 conversion"):
        metrics = {**gates.check_float(candidate, model, spec, references)}
    if dtype == "int8":
        with step("quantize"):
            keys = {**spec.keys, "weights_dtype": "int8", "head_rescore": HEAD_RESCORE}
            files[ENCODER_FILES[encoder]] = _encoder_file(spec, encoder, "int8")
            files["decoder.weights"] = write_weights(keys, _quantized(spec, keys))
            manifest = dataclasses.replace(
                manifest,
                features=Features.from_keys(keys),
                quantization=Quantization.from_keys(
                    keys, encoder_weights="int8", activations="dynamic, int8 per token"
                ),
            )
            candidate = Candidate(manifest, files)
        with step("check what int8 costs"):
            metrics |= gates.check_int8(candidate, references)
    if kv_cache == "float16":
        with step("check what the float16 cache costs"):
            keys = {**keys, "kv_cache_dtype": "float16"}
            files["decoder.weights"] = write_weights(keys, _quantized(spec, keys))
            narrow = dataclasses.replace(manifest.quantization, kv_cache="float16")
            manifest = dataclasses.replace(manifest, quantization=narrow)
            wide, candidate = candidate, Candidate(manifest, files)
            metrics |= gates.check_kv_cache(candidate, wide, references)
    with step("choose golden cases"):
        files["golden.json"] = golden_cases(
            answers(candidate, all_texts), confirm=partial(rounded_otherwise, candidate)
        )
    with step("write the bundle"):
        files["eval.json"] = _eval_json(metrics)
        files["LICENSE"] = licence_text(manifest).encode()
        files["MODEL_CARD.md"] = model_card(manifest, metrics).encode()
        write_bundle(out, manifest, files, replace=replace)
    return Report(Path(out), sum(map(len, files.values())), metrics)


def timer(on_step: Callable[[str, float], None]) -> Callable[[str], Any]:
    """A context manager around each step, which then tells its name and seconds."""

    @contextmanager
    def step(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        on_step(name, time.perf_counter() - start)

    return step


def load_checkpoint(source: str | Path) -> tuple[Any, Any]:
    """Model in float32 and tokenizer. transformers reads the local folder, or the hub."""
    if (path := Path(source)).suffix == SUFFIX and path.is_file():
        raise ExportError(f"{source}: a bundle; edge-s2s-export restore makes a Hugging Face folder of it")
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        expected = "a Hugging Face folder with config.json, or a hub id and a network connection"
        raise ExportError(f"{source}: expected {expected}; {error}") from error
    families.family_of(config)
    try:
        tokenizer = load_tokenizer(source)
        model = AutoModelForSeq2SeqLM.from_pretrained(source, dtype=torch.float32).eval()
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{source}: expected weights and a tokenizer beside config.json; {error}"
        ) from error
    return model, tokenizer


def _smooth(model: Any, tokenizer: Any, texts: Sequence[str], alpha: float) -> None:
    def calibrate() -> None:
        for text in texts:
            input_ids = tokenizer(text, return_tensors="pt").input_ids
            model.generate(input_ids, max_new_tokens=N_SMOOTH_TOKENS, num_beams=1, do_sample=False)

    try:
        smooth(model, calibrate, alpha=alpha)
    except ValueError as error:
        raise ExportError(str(error)) from error


def _check_texts(candidate: Candidate, texts: Sequence[str]) -> None:
    if not texts:
        raise ExportError("texts: expected at least one, found none")
    limit = candidate.manifest.dimensions.max_source_len
    for text in texts:
        if (n_tokens := len(candidate.tokenizer.encode(text))) > limit:
            raise ExportError(f"texts: expected at most {limit} tokens each, found {n_tokens}: {text[:60]!r}")


def check_defaults(manifest: Manifest, keys: Mapping[str, Key]) -> None:
    """The C core alone must answer as the package does: its defaults are keys, it reads no manifest.

    Raises `ExportError` for a default that the keys of decoder.weights do not say.
    """
    ours, languages = manifest.generation, manifest.language_tokens
    core = GenerationDefaults.from_keys(keys)
    names = {field.name for field in dataclasses.fields(ours)} - (set() if ours.do_sample else SAMPLING)
    others = sorted(name for name in names if getattr(ours, name) != getattr(core, name))
    if languages.target_is_first_token and languages.target and core.forced_bos_token_id is None:
        others.append("a target language")
    if others:
        raise ExportError(
            f"generation_config.json: the C core has no default for {', '.join(others)}; remove it, and set "
            "it in every call, or convert with --encoder onnx"
        )


def _encoder_file(spec: ModelSpec, kind: EncoderKind, dtype: Dtype) -> bytes:
    if kind == "onnx":
        return export_encoder(spec.encoder, dtype=dtype)
    keys = {**spec.encoder_keys, "weights_dtype": dtype}
    matrices = _int8_matrices(encoder_weights.expected_tensors(keys, spec.keys))
    tensors = quantize_tensors(spec.encoder_tensors, matrices)
    return encoder_weights.write_encoder_weights(keys, tensors, spec.keys)


def _quantized(spec: ModelSpec, keys: Mapping[str, Key]) -> dict[str, Any]:
    return quantize_tensors(spec.tensors, _int8_matrices(expected_tensors(keys)))


def _int8_matrices(expected: Mapping[str, TensorSpec]) -> set[str]:
    return {name for name, tensor in expected.items() if tensor.dtype == "int8"}


def _eval_json(metrics: Mapping[str, float]) -> bytes:
    """What was measured, and with which versions. No date: the same input gives the same bytes."""
    packages = ("torch", "transformers", "optimum", "optimum-onnx", "onnx", "onnxruntime", "tokenizers")
    document = {
        "gates": {name: float(f"{value:.4g}") for name, value in metrics.items()},
        "versions": {package: version(package) for package in packages},
    }
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
