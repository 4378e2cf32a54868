"""edge_s2s itself: int8, the encoder in the C core, the KV cache in float16.

The bundle has no gates behind it, which judge texts: a random model has none. Where the exporter is not
installed, only the bundle that ships with the package can be measured.
"""

import json
import shutil
import time
from pathlib import Path

import edge_s2s
from bench.peers import BUNDLE, MAX_NEW_TOKENS, Ids, Loaded


def prepare(checkpoint: Path, folder: Path) -> None:
    """Converts the checkpoint, as `edge-s2s-export convert --encoder native --kv-cache float16` does."""
    try:
        from edge_s2s_export.convert import load_checkpoint
    except ImportError:
        if checkpoint.is_dir():
            raise
        shutil.copy(checkpoint, folder / BUNDLE)
        return
    model, tokenizer = load_checkpoint(checkpoint)
    _write(model, tokenizer, folder / BUNDLE)


def _write(model: object, tokenizer: object, path: Path) -> None:
    from edge_s2s.bundle import write_bundle
    from edge_s2s.encoder_weights import FILE as ENCODER
    from edge_s2s.encoder_weights import expected_tensors as expected_encoder_tensors
    from edge_s2s.encoder_weights import write_encoder_weights
    from edge_s2s.manifest import (
        RUNTIME_VERSION,
        Dimensions,
        Encoder,
        Features,
        Licence,
        Manifest,
        Quantization,
        SpecialTokens,
    )
    from edge_s2s.weights import expected_tensors, write_weights
    from edge_s2s_export import families
    from edge_s2s_export.convert import HEAD_RESCORE
    from edge_s2s_export.quantize import quantize_tensors
    from edge_s2s_export.tokenizer_json import text_rules, tokenizer_files

    spec = families.describe(model, tokenizer)
    keys = {
        **spec.keys,
        "weights_dtype": "int8",
        "head_rescore": HEAD_RESCORE,
        "kv_cache_dtype": "float16",
    }
    encoder_keys = {**spec.encoder_keys, "weights_dtype": "int8"}
    expected = expected_tensors(keys)
    of_encoder = expected_encoder_tensors(encoder_keys, spec.keys)
    tensors = quantize_tensors(spec.tensors, {n for n, t in expected.items() if t.dtype == "int8"})
    encoder = quantize_tensors(spec.encoder_tensors, {n for n, t in of_encoder.items() if t.dtype == "int8"})
    case = {"text": "-", "input_ids": [keys["eos_token_id"]], "token_ids": [keys["eos_token_id"]]}
    manifest = Manifest(
        name="bench",
        version="1.0.0",
        task="text2text-generation",
        prefix="",
        languages=(),
        features=Features.from_keys(keys),
        dimensions=Dimensions.from_keys(keys, n_encoder_layers=spec.n_encoder_layers),
        special_tokens=SpecialTokens.from_keys(keys, unk=tokenizer.unk_token_id),  # type: ignore[attr-defined]
        generation=spec.generation,
        quantization=Quantization.from_keys(keys, encoder_weights="int8", activations="int8 per token"),
        encoders=(Encoder("native", ENCODER),),
        min_runtime=RUNTIME_VERSION,
        licence=Licence("LicenseRef-unknown", ()),
        created_by="bench",
        text=text_rules(tokenizer),
    )
    files = {
        ENCODER: write_encoder_weights(encoder_keys, encoder, keys),
        "decoder.weights": write_weights(keys, tensors),
        "golden.json": json.dumps({"cases": [case]}).encode(),
        **tokenizer_files(tokenizer, spec.source_vocab_size),
    }
    write_bundle(path, manifest, files, replace=True)


def load(folder: Path, threads: int, isa: str | None = None) -> Loaded:
    """Opens the bundle."""
    model = edge_s2s.load(folder / BUNDLE, num_threads=threads, isa=isa)

    def generate(sources: Ids, n_tokens: int | None, num_beams: int) -> Ids:
        options = edge_s2s.GenerationOptions(
            num_beams=num_beams,
            max_new_tokens=n_tokens or MAX_NEW_TOKENS,
            min_new_tokens=n_tokens or 0,
            no_repeat_ngram_size=0,
        )
        results = model.generate(sources, options, batch_size=len(sources))
        return [list(best.token_ids) for best, *_ in results]

    def encode(sources: Ids) -> float:
        options = edge_s2s.GenerationOptions(num_beams=1, max_new_tokens=1, min_new_tokens=1)
        results = model.generate(sources, options, batch_size=len(sources))
        return sum(best.stats.encoder_ms for best, *_ in results) / 1000

    return Loaded(generate, encode)


def steps(
    folder: Path, threads: int, source_len: int, n_steps: int, isa: str | None
) -> dict[str, list[float]]:
    """Milliseconds of single steps over 1 and over 4 rows (beams), which take turns."""
    import numpy as np

    from edge_s2s.bundle import open_bundle
    from edge_s2s.decoder import DecoderModel
    from edge_s2s.weights import FILE

    rows = (1, 4)
    with open_bundle(folder / BUNDLE) as bundle:
        model = DecoderModel(bundle.read(FILE), num_threads=threads, isa=isa, verify=False, is_mapped=True)
    dims = model.dims
    shape = (dims.n_layers, 2, dims.n_heads, source_len, dims.d_head)
    cross_kv = np.random.default_rng(0).standard_normal(shape, np.float32)
    sessions = [model.session(1, n, source_len, n_steps) for n in rows]
    for session in sessions:
        session.set_source(0, cross_kv)
    times: dict[str, list[float]] = {str(n): [] for n in rows}
    for step in range(n_steps):
        for n, session in zip(rows, sessions, strict=True):
            tokens = [dims.decoder_start_token_id if step == 0 else 2 + (step + row) % 64 for row in range(n)]
            start = time.perf_counter()
            session.step(tokens)
            times[str(n)].append(1000 * (time.perf_counter() - start))
    return times


def bytes_per_token(folder: Path, source_len: int) -> int:
    """What a step has to read: all matrices of the decoder, and keys and values of the source."""
    from edge_s2s.bundle import open_bundle

    with open_bundle(folder / BUNDLE) as bundle:
        dims, weights = bundle.manifest.dimensions, bundle.weights
        tied = weights.keys["tied_lm_head"]
        unread = ("encoder_embedding.", "position", *(() if tied else ("embedding.",)))
        matrices = sum(t.nbytes for name, t in weights.tensors.items() if not name.startswith(unread))
    n_bytes = 2 if bundle.manifest.quantization.kv_cache == "float16" else 4
    return matrices + 2 * n_bytes * dims.n_layers * dims.n_heads * dims.d_head * source_len
