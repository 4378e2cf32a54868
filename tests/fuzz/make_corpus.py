"""Writes the inputs that all others grow from: `python tests/fuzz/make_corpus.py`, always the same."""

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from onnx import TensorProto, helper, numpy_helper
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from edge_s2s.charsmap import MAX_REPLACEMENT
from edge_s2s.manifest import TOKENIZER, seal
from edge_s2s.stored_zip import write_zip
from edge_s2s.tokenizer import Tokenizer as TextTokenizer
from edge_s2s.weights import Key, read_table, write_weights
from edge_s2s_export.probe_texts import probe_texts
from edge_s2s_export.tokenizer_table import compile_tokenizer
from hostile import make_document
from random_weights import random_encoder, random_weights
from readers import CORPUS
from test_charsmap import one_rule
from tiny_bundle import tiny_keys, tiny_manifest, tiny_tensors

SPECIALS = ["<pad>", "</s>", "<unk>"]
TEXTS = probe_texts(20)
TINY = {"vocab_size": 5, "d_model": 2, "d_ff": 3, "n_layers": 1, "n_heads": 1, "d_head": 2, "head_rescore": 2}


def zips() -> dict[str, bytes]:
    one, three = {"manifest.json": b"{}"}, {"manifest.json": b"{}", "a": b"x" * 70, "b.c": b""}
    return {"one": b"".join(write_zip(one)), "three": b"".join(write_zip(three))}


def documents() -> dict[str, bytes]:
    texts = [
        '{"a": [1, -2.5e3, true, null], "b": {"c": "\\u00e9\\ud83d\\udc4b\\n"}}',
        "[]",
        '"é👋"',
        "[[[[1]]]]",
    ]
    return {f"{i}": text.encode() for i, text in enumerate(texts)}


def manifests() -> dict[str, bytes]:
    plain = make_document()
    languages = {"ids": {"en": 5, "fr": 6}, "head": ["source", 1], "tail": [2], "source": "en",
                 "target": "fr", "target_is_first_token": True}  # fmt: skip
    rules = {"do_sample": True, "top_p": 0.9, "sequence_bias": [[[4], -1.0]], "num_beam_groups": 2}
    full = {**plain, "language_tokens": languages, "text": {"strip": True, "bad_bytes": "each"}}
    full["generation"] = {**plain["generation"], **rules}
    return {name: json.dumps(document).encode() for name, document in (("plain", plain), ("full", full))}


def weights() -> dict[str, bytes]:
    kinds: dict[str, dict[str, Any]] = {
        "int8": {},
        "float32": {"weights_dtype": "float32", "head_rescore": 0},
        "table": {"position": "table", "norm": "layer", "linear_bias": 1, "embedding_norm": 1,
                  "source_vocab_size": 3},
        "untied": {"tied_lm_head": 0, "final_logits_bias": 1, "position_bias_per_layer": 1, "ffn": "silu"},
    }  # fmt: skip
    keys = {name: tiny_keys(**{**TINY, **changes}) for name, changes in kinds.items()}
    return {name: write_weights(value, tiny_tensors(value)) for name, value in keys.items()}


def graphs() -> dict[str, bytes]:
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    filled = helper.make_node("ConstantOfShape", ["s"], ["c"], value=numpy_helper.from_array(np.ones(1)))
    nodes = [helper.make_node("Add", ["x", "w"], ["z"]), helper.make_node("Softmax", ["z"], ["y"], axis=-1)]
    models_ = {"add": nodes, "attribute": [*nodes, filled]}
    return {
        name: helper.make_model(helper.make_graph(nodes, "g", [x], [y], [weight])).SerializeToString()
        for name, nodes in models_.items()
    }


def charsmap() -> bytes:
    """SentencePiece's table of six rules."""
    rules = {"Å": "å", "ﬁ": "fi", "①": "1", "a\u0301": "á", "\t": " ", "x\ty": "z"}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "rules.tsv"
        rows = ["\t".join(" ".join(f"{ord(c):X}" for c in side) for side in rule) for rule in rules.items()]
        table.write_text("\n".join(rows) + "\n", encoding="utf-8")
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=80, hard_vocab_limit=False,
            normalization_rule_tsv=str(table), minloglevel=2,
        )  # fmt: skip
    return proto.ModelProto.FromString(model.getvalue()).normalizer_spec.precompiled_charsmap


def charsmaps() -> dict[str, bytes]:
    text = "aÅﬁ① a\u0301\tx\ty".encode()
    half = one_rule("é".encode()[0], b"x" * MAX_REPLACEMENT)
    return {
        "rules": bytes([len(text)]) + text + charsmap(),
        "none": b"\1a" + bytes(4),
        "half_a_character": b"\3" + "éa".encode() + half,
    }


def finished(tokenizer: Tokenizer, *, byte_level: bool) -> dict[str, Any]:
    """With what stands around a model in all of them, as JSON."""
    kind = pre_tokenizers.ByteLevel(add_prefix_space=False) if byte_level else pre_tokenizers.Metaspace()
    tokenizer.pre_tokenizer = kind
    tokenizer.decoder = decoders.ByteLevel() if byte_level else decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(SPECIALS)
    document: dict[str, Any] = json.loads(tokenizer.to_str())
    return document


def bpe(*, byte_level: bool) -> dict[str, Any]:
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    made.pre_tokenizer = pre_tokenizers.ByteLevel() if byte_level else pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=290 if byte_level else 80,
        initial_alphabet=alphabet,
        special_tokens=SPECIALS,
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    return finished(made, byte_level=byte_level)


def unigram() -> dict[str, Any]:
    characters = sorted({*"".join(TEXTS), "\u2581"})
    pieces = [*characters, "\u2581the", "\u2581a", "er", "in"]
    scores = [(piece, 0.0) for piece in SPECIALS] + [(p, -3.0 - i / 16) for i, p in enumerate(pieces)]
    made = Tokenizer(models.Unigram(scores, unk_id=2))
    made.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap()), normalizers.Strip()])
    return finished(made, byte_level=False)


def tokenizers() -> dict[str, bytes]:
    fallback = bpe(byte_level=False)
    n_tokens = len(fallback["model"]["vocab"])
    fallback["model"]["vocab"] |= {f"<0x{byte:02X}>": n_tokens + byte for byte in range(256)}
    fallback["model"]["byte_fallback"] = True
    fallback["normalizer"] = {"type": "NFKC"}
    members = [{"type": "ByteFallback"}, {"type": "Fuse"}, fallback["decoder"]]
    fallback["decoder"] = {"type": "Sequence", "decoders": members}
    files = {"unigram": unigram(), "byte_fallback": fallback, "byte_level": bpe(byte_level=True)}
    return {f"{name}.json": json.dumps(file, ensure_ascii=False).encode() for name, file in files.items()}


def tables() -> dict[str, bytes]:
    """Compiled tokenizers, each with a text behind it; without Unicode's tables, they are small."""
    made: dict[str, bytes] = {}
    for name, data in tokenizers().items():
        document = json.loads(data)
        parts = (document["normalizer"] or {}).get("normalizers", [])
        document["normalizer"] = parts[0] if parts else None
        data = json.dumps(document).encode()
        vocab_size = Tokenizer.from_str(data.decode()).get_vocab_size()
        manifest = tiny_manifest(tiny_keys(vocab_size=vocab_size))
        tokenizer = TextTokenizer(data, vocab_size=vocab_size, unk_id=2)
        table = compile_tokenizer(tokenizer, {TOKENIZER: data}, manifest)
        made[name.removesuffix(".json")] = table + "Tom's: “hi” 👋 </s> a\u0301 Å ﬁ\t<0x41>  12 ".encode()
    return made


def bundles() -> dict[str, bytes]:
    """What the core reads of a bundle: the smallest table, an encoder and a decoder of its vocabulary."""
    made = {}
    table = tables()["unigram"]
    table = table[: int.from_bytes(table[24:32], "little")]
    vocab_size = read_table(table, "tokenizer.table")[1]["vocab_size"]
    sizes = {"vocab_size": vocab_size, "d_model": 4, "d_ff": 5, "n_layers": 1, "n_heads": 1, "d_head": 4}
    kinds: dict[str, dict[str, Key]] = {
        "t5": {},
        "bart": {"position": "table", "norm": "layer", "norm_position": "post", "linear_bias": 1,
                 "embedding_norm": 1, "final_norm": 0, "final_logits_bias": 1, "ffn": "gelu_erf"},
    }  # fmt: skip
    for name, features in kinds.items():
        decoder = random_weights({**sizes, **features})
        files = {"decoder.weights": decoder, "tokenizer.table": table}
        files["encoder.weights"] = random_encoder({**sizes, **features}, decoder)
        made[name] = b"".join(write_zip({"manifest.json": seal(make_document(files)), **files}))
    return made


def texts() -> dict[str, bytes]:
    text = "tell: \nTom: “hi” 👋 </s> a\u0301 Å ﬁ\t<0x41> ".encode()
    return {f"{i}": bytes([i]) + text for i in range(3)}


def main() -> None:
    made = {"zip": zips, "json": documents, "manifest": manifests, "weights": weights, "onnx": graphs,
            "charsmap": charsmaps, "tokenizer": tokenizers, "table": tables,
            "bundle": bundles, "encode": texts}  # fmt: skip
    for target, make in made.items():
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for name, data in make().items():
            (CORPUS / target / name).write_bytes(data)


if __name__ == "__main__":
    main()
