"""Fuzz targets of what reads files and texts in Python.

A target takes any bytes and returns. Refusing them by BundleError is its right; every other exception is a
finding, and so is accepting what an independent reader understands differently. Each has a mutator that knows
its format.
"""

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import onnx

from edge_s2s.charsmap import MAX_REPLACEMENT, Charsmap
from edge_s2s.decoder import DecoderModel
from edge_s2s.errors import BundleError
from edge_s2s.manifest import Manifest, seal
from edge_s2s.onnx_graph import OPERATORS, check_onnx
from edge_s2s.stored_zip import read_zip
from edge_s2s.strict_json import parse_json
from edge_s2s.tokenizer import TextStream, Tokenizer
from edge_s2s.weights import read_weights
from mutants import damage_model, damage_weights, damage_zip, mutate_json, resealed_weights

CORPUS = Path(__file__).parent / "corpus"
TOKENIZERS = ("unigram.json", "byte_level.json", "byte_fallback.json")  # of the corpus, for texts
SPECIALS, UNK = {"<pad>": 0, "</s>": 1}, 2  # of all of them
VOCAB_SIZE = 400


@dataclass(frozen=True)
class Target:
    """What is done with an input, and how another one is made of it."""

    check: Callable[[bytes], None]
    mutate: Callable[[bytes, random.Random], bytes]


# ---- checks ----


def check_zip(data: bytes) -> None:
    """What we accept, zipfile reads the same way."""
    with suppress(BundleError):
        files = read_zip(memoryview(data), "x.es2s")
        with zipfile.ZipFile(io.BytesIO(data)) as reader:
            assert reader.namelist() == list(files)
            for info in reader.infolist():
                info.CRC = zipfile.crc32(files[info.filename])  # ours is compared by nobody: SHA-256 decides
                assert reader.read(info) == files[info.filename]


def check_json(data: bytes) -> None:
    """What we accept, json reads the same way."""
    with suppress(BundleError):
        parsed = parse_json(data, "x.json", 1 << 20)
        assert parsed == json.loads(data)


def check_manifest(data: bytes) -> None:
    """With a digest that is right. What we accept, we write, and read again."""
    with suppress(ValueError, AttributeError):  # it is no object, or no JSON
        data = seal({name: value for name, value in json.loads(data).items() if name != "digest"})
    with suppress(BundleError):
        manifest = Manifest.from_bytes(data)
        assert Manifest.from_bytes(manifest.to_bytes()) == manifest


def check_weights(data: bytes) -> None:
    """With a hash that is right. The reader in C accepts the same files."""
    data = resealed_weights(data)
    assert accepts(read_weights, data) == accepts(DecoderModel, data)


def accepts(read: Callable[[bytes], object], data: bytes) -> bool:
    try:
        read(data)
    except BundleError:
        return False
    return True


def check_onnx_graph(data: bytes) -> None:
    """Where we see nothing forbidden, protobuf sees nothing forbidden."""
    with suppress(BundleError):
        check_onnx(memoryview(data), "encoder.onnx")
        model = onnx.ModelProto()
        with suppress(Exception):  # whatever protobuf refuses, ONNX Runtime refuses
            model.ParseFromString(data)
        assert not model.functions
        assert not model.training_info
        assert not model.graph.sparse_initializer
        assert all(opset.domain in ("", "ai.onnx") for opset in model.opset_import)
        tensors = [*model.graph.initializer]
        for node in model.graph.node:
            assert node.op_type in OPERATORS or not node.op_type
            assert node.domain in ("", "ai.onnx")
            for attribute in node.attribute:
                assert not attribute.HasField("g")
                assert not attribute.graphs
                assert not attribute.HasField("sparse_tensor")
                assert not attribute.sparse_tensors
                tensors += [attribute.t, *attribute.tensors]
        assert not any(tensor.external_data or tensor.data_location for tensor in tensors)


def check_charsmap(data: bytes) -> None:
    """A byte n, n bytes of text, a table. A text grows by no more than was promised."""
    n_text = 1 + next(iter(data), 0)
    text = data[1:n_text].decode(errors="replace")
    try:
        charsmap = Charsmap(data[n_text:])
    except ValueError:
        return
    assert len(charsmap.normalize(text)) <= MAX_REPLACEMENT * len(text)


def check_tokenizer(data: bytes) -> None:
    """A tokenizer that loads gives ids and texts, or says that the bundle is at fault."""
    with suppress(BundleError):
        tokenizer = Tokenizer(data, vocab_size=VOCAB_SIZE, prefix="tell: ", unk_id=UNK)
        for text in ("", "Tom: \u201chi\u201d \U0001f44b <pad></s> 12", "a\u0301\ufb01  \n\t\x00"):
            ids = tokenizer.encode(text)
            assert all(0 <= token < VOCAB_SIZE for token in tokenizer.tokenize(text))
            assert isinstance(tokenizer.decode(ids), str)


@cache
def tokenizer_file(name: str) -> bytes:
    return (CORPUS / "tokenizer" / name).read_bytes()


@lru_cache(100)
def open_tokenizer(name: str, prefix: str) -> Tokenizer:
    return Tokenizer(tokenizer_file(name), vocab_size=VOCAB_SIZE, prefix=prefix, unk_id=UNK)


def check_encode(data: bytes) -> None:
    """A byte chooses the tokenizer; then a prefix, a line break, a text, which is never a control token."""
    name = TOKENIZERS[next(iter(data), 0) % len(TOKENIZERS)]
    prefix, _, text = data[1:4000].decode(errors="surrogateescape").partition("\n")
    tokenizer = open_tokenizer(name, prefix)
    ids = tokenizer.encode(text)
    assert ids[-1] == SPECIALS["</s>"]
    assert not {*ids[:-1]} & {*SPECIALS.values()}
    assert all(0 <= token < VOCAB_SIZE for token in ids)
    stream = TextStream(tokenizer)
    assert "".join([*(stream.push([token]) for token in ids), stream.finish()]) == tokenizer.decode(ids)


# ---- mutators ----


def damage_bytes(data: bytes, choose: random.Random) -> bytes:
    """Bytes flipped, set, dropped, doubled or taken from elsewhere."""
    out = bytearray(data) or bytearray(1)
    for _ in range(choose.choice([1, 1, 2, 8])):
        at, size = choose.randrange(len(out)), choose.choice([1, 2, 4, 8, 30])
        match choose.randrange(5):
            case 0:
                out[at] ^= 1 << choose.randrange(8)
            case 1:
                out[at : at + size] = choose.choice([b"\0", b"\xff", b"\x80", b"\x7f"]) * size
            case 2:
                del out[at : at + size]
                out = out or bytearray(1)
            case 3:
                out[at:at] = out[at : at + size]
            case _:
                out[at:at] = choose.randbytes(size)
    return bytes(out)


def by_format(damage: Callable[[bytes, random.Random], bytes]) -> Callable[[bytes, random.Random], bytes]:
    """Mostly by what is known of the format; blindly at times, and where an input has lost its form."""

    def mutate(data: bytes, choose: random.Random) -> bytes:
        if choose.random() < 0.8:
            with suppress(ValueError, LookupError, TypeError, struct.error):
                return damage(data, choose)
        return damage_bytes(data, choose)

    return mutate


def damage_json(data: bytes, choose: random.Random) -> bytes:
    text = json.dumps(mutate_json(json.loads(data), choose), ensure_ascii=choose.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def damage_onnx(data: bytes, choose: random.Random) -> bytes:
    return damage_model(data, choose, plain=choose.random() < 0.3)


def damage_text(data: bytes, choose: random.Random) -> bytes:
    """Pieces that tokenizers treat in their own way, put somewhere."""
    pieces = ["</s>", "<pad>", "<unk>", "<0x41>", "<0x", "\u2581", "{", "}", "{x}", "%s", "\0", "\n", " " * 9,
              "\u0301", "\U0001f44b", "\ufffd", "\ufeff", "\ud83d", "\xad", "\u200d", "abc"]  # fmt: skip
    out = data
    for _ in range(choose.choice([1, 1, 3])):
        at = choose.randrange(len(out) + 1)
        out = out[:at] + choose.choice(pieces).encode("utf-8", "surrogatepass") + out[at:]
    return out


TARGETS = {
    "zip": Target(check_zip, by_format(damage_zip)),
    "json": Target(check_json, by_format(damage_json)),
    "manifest": Target(check_manifest, by_format(damage_json)),
    "weights": Target(check_weights, by_format(damage_weights)),
    "onnx": Target(check_onnx_graph, by_format(damage_onnx)),
    "charsmap": Target(check_charsmap, damage_bytes),
    "tokenizer": Target(check_tokenizer, by_format(damage_json)),
    "encode": Target(check_encode, by_format(damage_text)),
}


def corpus(target: str) -> list[bytes]:
    """The inputs that are kept, in the order of their names."""
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]
