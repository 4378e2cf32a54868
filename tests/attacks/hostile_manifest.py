"""Attacks by manifest.json: as a text, by one value, by the names it lists."""

import hashlib
import json

from edge_s2s.manifest import seal
from hostile import MANIFEST, VALID, add_folder, make_document

# The manifest as a text.

DIGEST = json.loads(VALID[MANIFEST])["digest"].encode()
TEXTS: dict[str, bytes] = {
    "empty": b"",
    "NUL bytes": bytes(100),
    "not JSON": b"name = tiny",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "empty object": b"{}",
    "two documents": VALID[MANIFEST] * 2,
    "comment": b"// edge_s2s\n" + VALID[MANIFEST],
    "BOM": b"\xef\xbb\xbf" + VALID[MANIFEST],
    "UTF-16": VALID[MANIFEST].decode().encode("utf-16"),
    "invalid UTF-8": VALID[MANIFEST].replace(b'"tiny"', b'"tin\xff"'),
    "overlong UTF-8": VALID[MANIFEST].replace(b'"tiny"', b'"tin\xc0\xaf"'),
    "surrogate in UTF-8": VALID[MANIFEST].replace(b'"tiny"', b'"tin\xed\xa0\x80"'),
    "control character": VALID[MANIFEST].replace(b'"tiny"', b'"ti\x00ny"'),
    "duplicate key": VALID[MANIFEST].replace(b'"name"', b'"version": "9.9.9",\n  "name"'),
    "duplicate file": VALID[MANIFEST].replace(b'"LICENSE": {', b'"eval.json": {'),
    "duplicate key, escaped": VALID[MANIFEST].replace(b'"name"', b'"n\\u0061me": "x",\n  "name"'),
    "NaN": VALID[MANIFEST].replace(b"0.75", b"NaN"),
    "Infinity": VALID[MANIFEST].replace(b"0.75", b"Infinity"),
    "minus Infinity": VALID[MANIFEST].replace(b"0.75", b"-Infinity"),
    "too large a float": VALID[MANIFEST].replace(b"0.75", b"1e999"),
    "too long an integer": VALID[MANIFEST].replace(b"0.75", b"9" * 5000),
    "hexadecimal": VALID[MANIFEST].replace(b"0.75", b"0x1"),
    "trailing comma": VALID[MANIFEST].replace(b"\n}\n", b",\n}\n"),
    "single quotes": VALID[MANIFEST].replace(b'"', b"'"),
    "depth 9": VALID[MANIFEST].replace(b"0.75", b"[" * 8 + b"]" * 8),
    "depth 30000": b"[" * 30000 + b"]" * 30000,
    "open brackets": b"[" * 60000,
    "open objects": b'{"a":' * 12000,
    "an endless string": b'"' + b'\\"' * 30000,
    "two mebibytes": VALID[MANIFEST] + b" " * (2 << 20),
    "many small objects": b"[" + b"{}," * 21000 + b"{}]",
    "many keys": b"{" + b",".join(b'"%d":1' % i for i in range(6000)) + b"}",
    "wide text": b'{"a": "' + b"x" * 60000 + '👋"}'.encode(),
    "other line ends": VALID[MANIFEST].replace(b"\n", b"\r\n"),
    "a blank more": VALID[MANIFEST] + b" ",
    "digest of nothing": VALID[MANIFEST].replace(DIGEST, hashlib.sha256().hexdigest().encode()),
    "digest of zeros": VALID[MANIFEST].replace(DIGEST, b"0" * 64),
    "digest in capitals": VALID[MANIFEST].replace(DIGEST, DIGEST.upper()),
    "no digest": json.dumps(make_document()).encode(),
}
for kind, text in TEXTS.items():
    add_folder(f"manifest, {kind}", MANIFEST, {MANIFEST: text})


# The manifest as a document: one value changed, digest repaired.

REMOVED = object()
VALUES: list[tuple[str, object]] = [
    *[(key, REMOVED) for key in make_document()],
    *[
        (f"{section}.{key}", REMOVED)
        for section in ("features", "dimensions", "special_tokens", "generation", "quantization", "licence")
        for key in make_document()[section]
    ],
    ("surprise", 1),
    ("features.rotary", 1),
    ("generation.do_sample", 1),
    ("licence.url", "http://x"),
    ("schema", "edge-s2s-bundle/2"),
    ("schema", "edge-s2s-bundle/1.1"),
    ("schema", "edge-s2s-bundle/0"),
    ("schema", "edge-s2s-bundle/9999"),
    ("schema", "gguf/1"),
    ("schema", 1),
    ("schema", ["edge-s2s-bundle/1"]),
    ("min_runtime", "0.1.1"),
    ("min_runtime", "0.2.0"),
    ("min_runtime", "99.0.0"),
    ("min_runtime", "1"),
    ("min_runtime", ""),
    ("min_runtime", "0.1.0-rc1"),
    ("min_runtime", 1),
    ("min_runtime", "\u0660.\u0661.\u0660"),
    ("version", "one"),
    ("version", "1.0.0.0"),
    ("version", "1.0.0\n"),
    ("version", 1.0),
    ("name", ""),
    ("name", "../tiny"),
    ("name", "a" * 65),
    ("name", "\x1b[31mred"),
    ("name", None),
    ("task", ""),
    ("task", "\x1b]0;title\x07"),
    ("task", "a" * 501),
    ("created_by", "two\nlines"),
    ("languages", "en"),
    ("languages", [1]),
    ("languages", [""]),
    ("languages", {"en": 1}),
    ("licence.weights", ""),
    ("licence.weights", None),
    ("licence.data", "text"),
    ("licence.data", ["\u202e"]),
    ("encoders", []),
    ("encoders", {}),
    ("encoders", [{"kind": "qnn-static", "file": "encoder.onnx"}]),
    ("encoders", [{"kind": "onnx", "file": "encoder2.onnx"}]),
    ("encoders", [{"kind": "onnx"}]),
    ("encoders", [{"kind": "onnx", "file": "../encoder.onnx"}]),
    ("encoders", [{"kind": "onnx", "file": 3}]),
    ("extensions", []),
    ("extensions_required", ["calibration"]),
    ("extensions_required", ["drift"]),
    ("extensions_required", [1]),
    ("extensions_required", "drift"),
    ("files", {}),
    ("files", []),
    ("files.LICENSE", 0),
    ("files.LICENSE.size", -1),
    ("files.LICENSE.size", 1),
    ("files.LICENSE.size", 0.0),
    ("files.LICENSE.size", False),
    ("files.LICENSE.size", "0"),
    ("files.LICENSE.size", (1 << 40) + 1),
    ("files.LICENSE.size", 1 << 64),
    ("files.LICENSE.mode", 511),
    ("files.LICENSE.sha256", ""),
    ("files.LICENSE.sha256", "0" * 63),
    ("files.LICENSE.sha256", "0" * 64),
    ("files.LICENSE.sha256", hashlib.sha256().hexdigest().upper()),
    ("files.LICENSE.sha256", None),
    ("files.decoder~weights", REMOVED),
    ("files.tokenizer~json", REMOVED),
    ("files.golden~json", REMOVED),
    ("dimensions.n_encoder_layers", 0),
    ("dimensions.n_encoder_layers", 257),
    ("dimensions.n_encoder_layers", -1),
    ("special_tokens.unk", 20),
    ("special_tokens.unk", -1),
    ("special_tokens.unk", "<unk>"),
    ("generation.suppress_tokens", [20]),
    ("generation.suppress_tokens", [-1]),
    ("generation.suppress_tokens", 3),
    ("generation.bad_words_ids", [[]]),
    ("generation.bad_words_ids", [3]),
    ("generation.bad_words_ids", [[20]]),
    ("generation.begin_suppress_tokens", [20]),
    ("generation.encoder_repetition_penalty", 0.0),
    ("generation.encoder_repetition_penalty", 2),
    ("generation.encoder_no_repeat_ngram_size", -1),
    ("generation.exponential_decay_length_penalty", [3]),
    ("generation.exponential_decay_length_penalty", [3, 1.5, 2.0]),
    ("generation.exponential_decay_length_penalty", [3.0, 1.5]),
    ("generation.exponential_decay_length_penalty", [-1, 1.5]),
    ("generation.exponential_decay_length_penalty", [3, -1.5]),
    ("generation.sequence_bias", [[[], 1.0]]),
    ("generation.sequence_bias", [[[20], 1.0]]),
    ("generation.sequence_bias", [[[2], 1e7]]),
    ("generation.sequence_bias", [[2, 1.0]]),
    ("quantization.activations", 8),
    ("quantization.encoder_weights", "int4"),
    ("quantization.kv_cache", "float8"),
    # what decoder.weights says too, and says differently
    ("prefix", ""),
    ("prefix", "résumé:"),
    ("prefix", "{{7*7}}"),
    ("prefix", None),
    ("features.weights_dtype", "float32"),
    ("features.norm", "layer"),
    ("features.norm_position", "post"),
    ("features.norm_eps", 1e-5),
    ("features.norm_eps", 0),
    ("features.position", "table"),
    ("features.ffn", "relu"),
    ("features.embedding_scale", 2.0),
    ("features.embedding_norm", 1),
    ("features.embedding_norm", False),
    ("features.final_norm", 0),
    ("features.linear_bias", 1),
    ("features.tied_lm_head", 0),
    ("features.final_logits_bias", 1),
    ("features.position_bias_per_layer", 1),
    ("dimensions.vocab_size", 21),
    ("dimensions.vocab_size", -20),
    ("dimensions.vocab_size", 1 << 70),
    ("dimensions.d_model", 16),
    ("dimensions.d_ff", 0),
    ("dimensions.n_layers", 3),
    ("dimensions.n_heads", 1),
    ("dimensions.d_head", 6),
    ("dimensions.max_source_len", 33),
    ("dimensions.max_target_len", 1 << 31),
    ("dimensions.d_model", "8"),
    ("dimensions.d_model", 8.0),
    ("dimensions.d_model", [8]),
    ("dimensions", [8]),
    ("special_tokens.decoder_start", 1),
    ("special_tokens.decoder_start", None),
    ("special_tokens.eos", None),
    ("special_tokens.eos", -1),
    ("special_tokens.pad", 0),
    ("generation.num_beams", 1),
    ("generation.num_beams", -4),
    ("generation.num_return_sequences", 4),
    ("generation.max_new_tokens", 1 << 31),
    ("generation.min_new_tokens", -1),
    ("generation.early_stopping", True),
    ("generation.early_stopping", "always"),
    ("generation.early_stopping", 2),
    ("generation.length_penalty", 1),
    ("generation.repetition_penalty", 0.0),
    ("generation.no_repeat_ngram_size", -1),
    ("generation.forced_bos_token_id", 0),
    ("generation.forced_eos_token_id", None),
    ("quantization.weights", "float32"),
    ("quantization.weights", "int4"),
    ("quantization.head_rescore", 0),
    ("quantization.kv_cache", "float16"),
]


def change_value(document: dict, where: str, value: object) -> None:
    """Sets or removes the value at `where`, keys joined by dots; ~ stands for a dot within a key."""
    *parents, last = (part.replace("~", ".") for part in where.split("."))
    for key in parents:
        document = document[key]
    if value is REMOVED:
        del document[last]
    else:
        document[last] = value


def describe(value: object) -> str:
    text = ascii(value)
    return "removed" if value is REMOVED else text if len(text) < 60 else f"{text[:50]}..."


HASH_ERRORS = [
    ("files.LICENSE.size", 1),
    ("files.LICENSE.sha256", "0" * 64),
]  # well-formed, but not the file's
for where, value in VALUES:
    document = make_document()
    change_value(document, where, value)
    blamed = "LICENSE" if (where, value) in HASH_ERRORS else MANIFEST
    add_folder(f"manifest, {where} {describe(value)}", blamed, {MANIFEST: seal(document)})

document = make_document()
document["files"] |= {f"file{i}": document["files"]["LICENSE"] for i in range(64)}
add_folder("manifest, 71 files", MANIFEST, {MANIFEST: seal(document)})


# Names that would leave the bundle, hide in it, or mean two files on another system.

NAMES = {
    "parent": "../encoder.onnx",
    "deep parent": "a/../../b",
    "absolute": "/etc/passwd",
    "folder": "a/b",
    "empty": "",
    "dot": ".",
    "dots": "..",
    "hidden": ".hidden",
    "backslash": "..\\x",
    "drive": "C:x",
    "stream": "a:b",
    "NUL": "a\0b",
    "newline": "a\nb",
    "blank at the end": "a ",
    "tilde": "~",
    "minus": "-rf",
    "Unicode twin": "\uff2cICENSE",
    "accent": "é",
    "65 bytes": "a" * 65,
    "the manifest": MANIFEST,
    "MANIFEST": "Manifest.json",
    "case twin": "license",
}
for kind, name in NAMES.items():
    document = make_document()
    document["files"][name] = document["files"]["LICENSE"]
    add_folder(f"listed name, {kind}", MANIFEST, {MANIFEST: seal(document)})
