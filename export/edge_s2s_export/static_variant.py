"""Adds static encoders, which accelerators run, to a bundle.

The bundle keeps all that it has. Static encoders are made of its checkpoint, and must do what the encoder
that it has does, on sources that were not used for calibration, or nothing is written.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import onnxruntime as ort

from edge_s2s.bundle import open_bundle, write_bundle
from edge_s2s.decoder import Floats
from edge_s2s.manifest import Dimensions, Encoder
from edge_s2s.static_encoder import output_names, padded, unpadded

from . import families, gates
from .candidate import Candidate
from .convert import Report, load_checkpoint, timer
from .errors import ExportError
from .model_spec import ModelSpec
from .probe_texts import probe_texts
from .static_encoder import quantize_graph, static_graph

BUCKETS = (128, 256, 512)
N_CALIBRATION_SOURCES = 32  # for each bucket
N_GATE_SOURCES = 8
N_TEXTS = 400

Kind = Literal["static", "qnn-static"]
Scheme = Literal["a16w8", "a8w8"]
KINDS: tuple[Kind, ...] = ("static", "qnn-static")
SCHEMES: tuple[Scheme, ...] = ("a16w8", "a8w8")


def add_static_encoders(
    source: str | Path,
    bundle: str | Path,
    out: str | Path,
    *,
    kinds: Sequence[Kind] = KINDS,
    buckets: Sequence[int] = BUCKETS,
    scheme: Scheme = "a16w8",
    texts: Sequence[str] | None = None,
    replace: bool = False,
    on_step: Callable[[str, float], None] = lambda _step, _seconds: None,
) -> Report:
    """Writes `bundle` with static encoders of `kinds` as `out`; `source` is what it was converted from.

    There is a graph for each of `buckets`, up to the first that holds the model's longest source. `texts`, by
    default English ones, are what activations are calibrated on: the model's own kind of input is better.
    Raises `GateError` if a graph does not do what the bundle's encoder does.
    """
    if Path(out).exists() and not replace:
        raise FileExistsError(f"{out} exists; pass replace=True, or --replace, to replace it")
    step = timer(on_step)
    with step("load bundle and checkpoint"):
        with open_bundle(bundle) as opened:
            manifest = opened.manifest
            files = {name: bytes(opened.read(name)) for name in manifest.files}
        model, tokenizer = load_checkpoint(source)
        spec = families.describe(model, tokenizer)
        candidate = Candidate(manifest, files)
        _check_pair(spec, manifest.dimensions)
    texts = probe_texts(N_TEXTS) if texts is None else texts
    encoders = [encoder for encoder in manifest.encoders if encoder.kind not in kinds]
    for encoder in manifest.encoders:
        if encoder.kind in kinds:
            del files[encoder.file]
    metrics: dict[str, float] = {}
    for low, length in _buckets(buckets, manifest.dimensions.max_source_len):
        sources = calibration_sources(candidate, texts, low, length, N_CALIBRATION_SOURCES + N_GATE_SOURCES)
        gate_sources = sources[:: len(sources) // N_GATE_SOURCES][:N_GATE_SOURCES]
        feeds = [padded(candidate.embed(ids), length) for ids in sources if ids not in gate_sources]
        for kind in kinds:
            name = f"{kind}_{length}".replace("-", "_")
            with step(f"check {kind} {length} in float32"):
                graph = static_graph(spec.encoder_keys, spec.encoder_tensors, spec.keys, length, kind=kind)
                encode = _runs(graph.SerializeToString(), manifest.dimensions, length)
                metrics |= gates.check_static_float(candidate, encode, spec, gate_sources, name)
            with step(f"quantize {kind} {length}"):
                data = quantize_graph(graph, feeds, kind=kind, scheme=scheme)
            with step(f"check {kind} {length}"):
                encode = _runs(data, manifest.dimensions, length)
                metrics |= gates.check_static(candidate, encode, gate_sources, name)
            file = f"encoder.{kind}-{length}.onnx"
            files[file] = data
            encoders.append(Encoder(kind, file))
    with step("write the bundle"):
        report = json.loads(files["eval.json"])
        report["static_encoders"] = {name: float(f"{value:.4g}") for name, value in metrics.items()}
        files["eval.json"] = json.dumps(report, indent=1, sort_keys=True).encode() + b"\n"
        write_bundle(out, dataclasses.replace(manifest, encoders=tuple(encoders)), files, replace=replace)
    return Report(Path(out), sum(map(len, files.values())), metrics)


def calibration_sources(
    candidate: Candidate, texts: Sequence[str], low: int, length: int, n_sources: int
) -> list[list[int]]:
    """Token ids of sources that a bucket gets: more than `low` and up to `length` tokens, evenly spread."""
    sources, i = [], 0
    for n in range(n_sources):
        n_tokens = low + -(-(length - low) * (n + 1) // n_sources)
        joined = ""
        while len(input_ids := candidate.tokenizer.encode(joined or " ", max_len=n_tokens)) < n_tokens:
            joined += texts[i % len(texts)] + "\n"
            i += 1
        sources.append(input_ids)
    return sources


def _check_pair(spec: ModelSpec, dims: Dimensions) -> None:
    found = Dimensions.from_keys(spec.keys, n_encoder_layers=spec.n_encoder_layers)
    if found != dims:
        raise ExportError(f"checkpoint and bundle are not of one model: {found}, {dims}")


def _buckets(lengths: Sequence[int], max_source_len: int) -> Iterator[tuple[int, int]]:
    """What the bucket before holds, and the length, up to the first that holds the longest source."""
    low = 0
    for length in sorted(set(lengths)):
        if low < max_source_len:
            yield low, length
        low = length


def _runs(graph: bytes, dims: Dimensions, length: int) -> Callable[[Floats], Floats]:
    """A graph run by ONNX Runtime's CPU provider: rows of the embedding -> cross K/V."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(inputs_embeds: Floats) -> Floats:
        outputs = session.run(output_names(dims), padded(inputs_embeds, length))
        return unpadded(outputs, len(inputs_embeds), dims)

    return run
