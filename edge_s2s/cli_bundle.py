"""`edge-s2s info` and `edge-s2s verify`: what a bundle is, and whether it is all right on this machine."""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edge_s2s.bundle import Bundle, open_bundle
from edge_s2s.decoder import DecoderModel
from edge_s2s.errors import EdgeS2SError
from edge_s2s.generation import GenerationOptions
from edge_s2s.loading import default_bundle_path, load
from edge_s2s.manifest import TOKENIZER, Manifest
from edge_s2s.manifest import TOKENIZER_TABLE as TABLE
from edge_s2s.model import Seq2SeqModel
from edge_s2s.onnx_graph import check_onnx
from edge_s2s.providers import PROVIDERS
from edge_s2s.weights import FILE as WEIGHTS


def bundle_path(name: str) -> Path:
    """The path that a command line names; `default` is the shipped bundle."""
    return default_bundle_path(must_exist=True) if name == "default" else Path(name)


def info(arguments: argparse.Namespace) -> int:
    """`edge-s2s info`."""
    if (arguments.bundle is None) != arguments.providers:
        arguments.usage_error("expected BUNDLE or --providers")
    if arguments.providers:
        return _info_providers(arguments.json)
    with open_bundle(bundle_path(arguments.bundle)) as bundle:
        if arguments.json:
            print(json.dumps(bundle.manifest.to_document(), ensure_ascii=False))
        else:
            for name, value in _describe(bundle, bundle.manifest):
                print(f"{name:<16}{value}")
    return 0


def _info_providers(as_json: bool) -> int:
    from edge_s2s.devices import find_device  # imports ONNX Runtime

    found = {}
    for name, provider in PROVIDERS.items():
        try:
            device = find_device(provider, {})
        except EdgeS2SError as error:
            found[name] = {"runs": False, "detail": " ".join(str(error).split()).removeprefix(f"{name}: ")}
        else:
            what, where = provider.package or "onnxruntime", device.description or "its device"
            detail = f"{what} {device.version} on {where}"
            found[name] = {"runs": True, "detail": detail}
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        for name, values in found.items():
            print(f"{'✓' if values['runs'] else '✗'} {name:<10}{values['detail']}")
    return 0


def _describe(bundle: Bundle, manifest: Manifest) -> Iterator[tuple[str, str]]:
    dims, features, generation = manifest.dimensions, manifest.features, manifest.generation
    yield "name", f"{manifest.name} {manifest.version}"
    yield "digest", bundle.digest
    yield "task", f"{manifest.task} ({', '.join(manifest.languages)})"
    yield "licence", manifest.licence.weights
    for source in manifest.licence.data:
        yield "data", source
    yield "prefix", ascii(manifest.prefix)
    yield "encoder", f"{dims.n_encoder_layers} layers, {manifest.quantization.encoder_weights}"
    yield "decoder", f"{dims.n_layers} layers, {features.weights_dtype}, {features.ffn}, {features.position}"
    yield "sizes", f"d_model {dims.d_model}, d_ff {dims.d_ff}, {dims.n_heads} heads of {dims.d_head}"
    yield "vocabulary", f"{dims.vocab_size} tokens"
    yield "limits", f"{dims.max_source_len} source tokens, {dims.max_target_len} new tokens"
    changed = {
        field.name: value
        for field in dataclasses.fields(generation)
        if (value := getattr(generation, field.name)) not in (None, (), 0, 1, field.default)
    }
    yield "generation", ", ".join(f"{name} {value}" for name, value in changed.items())
    for name, entry in manifest.files.items():
        yield name, f"{entry.size} bytes, SHA-256 {entry.sha256[:16]}..."
    yield "made by", f"{manifest.created_by}; needs edge_s2s {manifest.min_runtime}"
    yield "path", f"{bundle.path}"


class _Check(NamedTuple):
    name: str
    ok: bool
    detail: str


def verify(arguments: argparse.Namespace) -> int:
    """`edge-s2s verify`."""
    checks = []
    for check in _checks(bundle_path(arguments.bundle), arguments.num_threads):
        checks.append(check)
        if not arguments.json:
            print(f"{'✓' if check.ok else '✗'} {check.name}: {check.detail}", flush=True)
    ok = all(check.ok for check in checks)
    if arguments.json:
        print(json.dumps({"ok": ok, "checks": [check._asdict() for check in checks]}, ensure_ascii=False))
    return int(not ok)


def _checks(path: Path, num_threads: int | None) -> Iterator[_Check]:
    """Each check, up to the first without which the next ones have no meaning."""
    try:
        bundle = open_bundle(path)
    except EdgeS2SError as error:
        yield _Check("files", False, str(error))
        return
    with bundle:
        n_bytes = sum(entry.size for entry in bundle.manifest.files.values())
        yield _Check(
            "files", True, f"{len(bundle.manifest.files)} with {n_bytes} bytes, every SHA-256 is right"
        )
        yield _Check(
            "weights", True, f"{len(bundle.weights.tensors)} tensors, every name, type and shape is right"
        )
        try:
            n_static = _check_static_encoders(bundle)
        except EdgeS2SError as error:
            yield _Check("static encoders", False, str(error))
            return
        if n_static:
            yield _Check("static encoders", True, f"{n_static} graphs of operators that they may have")
        try:
            model = load(path, num_threads=num_threads)
        except EdgeS2SError as error:
            yield _Check("model", False, str(error))
            return
        yield _Check("model", True, "tokenizer, encoder and decoder load and fit together")
        with model:
            if TABLE in bundle.manifest.files:
                yield _table_check(bundle, model)
            yield from _golden_checks(bundle, model)


def _check_static_encoders(bundle: Bundle) -> int:
    """How many graphs for accelerators there are; BundleError if one has what it may not have."""
    kinds = {kind for provider in PROVIDERS.values() for kind in provider.encoder_kinds}
    files = [encoder.file for encoder in bundle.manifest.encoders if encoder.kind in kinds]
    for file in files:
        check_onnx(bundle.read(file), file)
    return len(files)


def _table_check(bundle: Bundle, model: Seq2SeqModel) -> _Check:
    """The C core's tokenizer must read and write the golden texts as the exporter saw tokenizer.json do."""
    try:
        core = DecoderModel(bundle.read(WEIGHTS), tokenizer=bundle.read(TABLE))
    except EdgeS2SError as error:
        return _Check(TABLE, False, str(error))
    cases = bundle.golden()
    for i, case in enumerate(cases):
        if (found := tuple(core.tokenize(case.text))) != case.input_ids:
            expected = f"expected input ids {list(case.input_ids)} for golden {i}"
            return _Check(TABLE, False, f"{expected}, found {list(found)}")
        for ids in (case.input_ids, case.token_ids):
            if (text := core.detokenize(ids)) != (written := model.decode(ids)):
                return _Check(TABLE, False, f"expected {written!r} for tokens of golden {i}, found {text!r}")
    return _Check(TABLE, True, f"the same ids and texts as {TOKENIZER} for {len(cases)} golden texts")


def _golden_checks(bundle: Bundle, model: Seq2SeqModel) -> Iterator[_Check]:
    """What the exporter saw must come out on this machine: input ids, and how greedy search begins."""
    greedy = GenerationOptions(
        num_beams=1, num_return_sequences=1, num_beam_groups=1, diversity_penalty=0.0, do_sample=False
    )
    for i, case in enumerate(bundle.golden()):
        name = f"golden {i}"
        input_ids = tuple(model.encode(case.text))
        [[generation]] = model.generate([list(case.input_ids)], greedy)
        if input_ids != case.input_ids:
            yield _Check(name, False, f"expected input ids {list(case.input_ids)}, found {list(input_ids)}")
        elif (begin := generation.token_ids[: len(case.token_ids)]) != case.token_ids:
            found = list(begin)
            yield _Check(name, False, f"expected tokens {list(case.token_ids)}, found {found}")
        else:
            yield _Check(name, True, generation.text)
