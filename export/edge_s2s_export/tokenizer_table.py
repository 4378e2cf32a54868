"""`tokenizer.table`: tokenizer.json compiled for the C core, a file of the format of `decoder.weights`.

`edge_s2s.weights` specifies the format; keys and tensors are others. Numbers other than int8 and float32 are
rows of bytes, little-endian. The keys are integers:

    n_tokens          tokens with names
    vocab_size        ids from there on are read as unk_token_id (-1 = none)
    unknown_piece     what the model falls back to (-1 = nothing)
    unigram           1, or BPE; with byte_fallback and fuse_unk as in tokenizer.json
    bad_bytes         0 run, 1 each, 2 drop, as in manifest.TextRules
    has_head, has_tail, has_merges   whether there is such a tensor

and, of a Unigram model, the float unknown_score of a character without a piece. The tensors:

    names, name_ends u32      the names of all tokens, and where each ends
    kinds u8                  1 special, not text; 2 control, never made of a text; 4 a byte, named <0xAB>
    head, tail u32            ids around a text
    trie.labels u8, trie.first u32 [nodes + 1], trie.ids u32 (+ 1; 0 = none)    the pieces, level by level
    merges u32 [n, 4]         left, right, rank, merged; ascending
    scores f64                of a Unigram model
    byte_ids u32 [256]        with byte_fallback
    charsmap                  SentencePiece's
    encoding, decoding        steps: u8 operation, flag, two lengths, then two strings; or a zero for none
    classes.*, decomposition.*, combining.*, compositions    `unicode_tables`, where a step needs them

`csrc/tokenizer_steps.h` says what each step does. A tokenizer that these cannot express is refused.
"""

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_s2s.manifest import TARGET_TOKENIZER, TOKENIZER, Manifest
from edge_s2s.tokenizer import _BYTE_TOKEN, _CLEAN_UP, Tokenizer
from edge_s2s.weights import Key, write_table

from .errors import ExportError
from .unicode_tables import as_rows, class_tables, normalization_tables

BLANK = "▁"
MAX_STEPS = 128
_BAD_BYTES = ("run", "each", "drop")
_K_UNK_PENALTY = 10.0  # of the tokenizers library, below the lowest score

# csrc/tokenizer_steps.h
REPLACE, PREPEND, STRIP, NORMALIZE, CHARSMAP, SPLIT, SPLIT_BEFORE, BEGIN_PIECES = range(1, 9)
DIGITS, WORDS, WRITE_LETTERS, FUSE, STRIP_PIECE, WRITE_BLANKS, READ_LETTERS = range(9, 16)

Step = tuple[int, bool, str, str]


def compile_tokenizer(tokenizer: Tokenizer, files: Mapping[str, bytes], manifest: Manifest) -> bytes:
    """`tokenizer.table` for the runtime's tokenizer of the bundle with these files.

    Raises `ExportError` for what the C core cannot do.
    """
    document = json.loads(files[TOKENIZER])
    if TARGET_TOKENIZER in files or manifest.text.unknown_in_target:
        raise _refuse("a tokenizer for results of its own", "one for both")
    encoding = [
        *_steps("normalizer", document["normalizer"], _NORMALIZERS),
        *_steps("pre_tokenizer", document["pre_tokenizer"], _PRE_TOKENIZERS),
    ]
    decoding = _decoding(document["decoder"], manifest)
    names, kinds = _names(tokenizer, document["decoder"], manifest)
    keys: dict[str, Key] = {
        "n_tokens": len(names),
        "vocab_size": manifest.dimensions.n_source_tokens,
        "unk_token_id": -1 if (unk := manifest.special_tokens.unk) is None else unk,
        "bad_bytes": _BAD_BYTES.index(manifest.text.bad_bytes),
        "has_head": int(bool(tokenizer._head)),
        "has_tail": int(bool(tokenizer._tail)),
    }
    encoded = [name.encode() for name in names]
    tensors = {
        "names": as_rows(list(b"".join(encoded)), "u1"),
        "name_ends": as_rows([*accumulate(map(len, encoded))], "<u4"),
        "kinds": as_rows(kinds, "u1"),
        "encoding": _pack(encoding),
        "decoding": _pack(decoding),
    }
    for name, ids in (("head", tokenizer._head), ("tail", tokenizer._tail)):
        if ids:
            tensors[name] = as_rows(ids, "<u4")
    model = document["model"]
    for part in (_unigram if model["type"] == "Unigram" else _byte_pairs)(model, len(names)):
        keys |= part[0]
        tensors |= part[1]
    operations = {step[0] for step in encoding + decoding}
    if operations & {DIGITS, STRIP, WORDS}:
        tensors |= class_tables()
    if NORMALIZE in operations:
        tensors |= normalization_tables(_form(document["normalizer"]))
    if CHARSMAP in operations:
        tensors["charsmap"] = as_rows(list(_charsmap(document["normalizer"])), "u1")
    return write_table(keys, tensors)


def _refuse(found: str, expected: str) -> ExportError:
    return ExportError(
        f"tokenizer: the C core expects {expected}, found {found}; convert it with --encoder onnx"
    )


# ------------------------------------------------- Steps ------------------------------------------------


def _members(component: Any) -> list[dict[str, Any]]:
    """A component, or the members of a Sequence, in it too."""
    if component is None:
        return []
    if component["type"] != "Sequence":
        return [component]
    key = next(key for key in component if key in ("normalizers", "pretokenizers", "decoders"))
    return [part for member in component[key] for part in _members(member)]


def _steps(
    kind: str, component: Any, known: Mapping[str, Callable[[dict[str, Any]], list[Step]]]
) -> list[Step]:
    steps: list[Step] = []
    for part in _members(component):
        if part["type"] not in known:
            raise _refuse(f"{kind} {part['type']}", f"one of {', '.join(known)}")
        steps += known[part["type"]](part)
    return steps


def _form(normalizer: Any) -> str:
    forms = {part["type"] for part in _members(normalizer)} & {"NFC", "NFD", "NFKC", "NFKD"}
    if len(forms) != 1:
        raise _refuse(f"normalizers {', '.join(sorted(forms))}", "one Unicode normalization")
    return str(forms.pop())


def _charsmap(normalizer: Any) -> bytes:
    parts = [part for part in _members(normalizer) if part["type"] == "Precompiled"]
    return base64.b64decode(parts[0]["precompiled_charsmap"])


def _replace(part: dict[str, Any]) -> list[Step]:
    return [(REPLACE, False, part["pattern"]["String"], part["content"])]


_NORMALIZERS: Mapping[str, Callable[[dict[str, Any]], list[Step]]] = {
    "NFC": lambda _part: [(NORMALIZE, True, "", "")],
    "NFD": lambda _part: [(NORMALIZE, False, "", "")],
    "NFKC": lambda _part: [(NORMALIZE, True, "", "")],
    "NFKD": lambda _part: [(NORMALIZE, False, "", "")],
    "Precompiled": lambda _part: [(CHARSMAP, False, "", "")],
    "Prepend": lambda part: [(PREPEND, False, part["prepend"], "")],
    "Replace": _replace,
    "Strip": lambda part: [(STRIP, part["strip_left"], "", "x" if part["strip_right"] else "")],
}


def _split(part: dict[str, Any]) -> list[Step]:
    if part["behavior"] != "Isolated" or part["invert"]:
        raise _refuse(f"pre_tokenizer Split, {part['behavior']}", "Split that isolates what it finds")
    return [(SPLIT, False, part["pattern"]["String"], "")]


def _metaspace(part: dict[str, Any]) -> list[Step]:
    mark, scheme = part["replacement"], part["prepend_scheme"]
    if scheme == "first":
        raise _refuse("pre_tokenizer Metaspace, first", "Metaspace that prepends always or never")
    steps: list[Step] = [(REPLACE, False, " ", mark)]
    if scheme == "always":
        steps.append((BEGIN_PIECES, False, mark, ""))
    if part["split"]:
        steps.append((SPLIT_BEFORE, False, mark, ""))
    return steps


def _byte_level(part: dict[str, Any]) -> list[Step]:
    steps: list[Step] = [(BEGIN_PIECES, False, " ", "")] if part["add_prefix_space"] else []
    if part["use_regex"]:
        steps.append((WORDS, False, "", ""))
    return [*steps, (WRITE_LETTERS, False, "", "")]


_PRE_TOKENIZERS: Mapping[str, Callable[[dict[str, Any]], list[Step]]] = {
    "ByteLevel": _byte_level,
    "Digits": lambda part: [(DIGITS, part["individual_digits"], "", "")],
    "Metaspace": _metaspace,
    "Split": _split,
}


def _strip_piece(part: dict[str, Any]) -> list[Step]:
    if part["stop"]:
        raise _refuse("decoder Strip at the end", "Strip at the start")
    return [(STRIP_PIECE, False, part["content"], "x" * part["start"])] if part["start"] else []


_DECODERS: Mapping[str, Callable[[dict[str, Any]], list[Step]]] = {
    "ByteFallback": lambda _part: [],  # comes first: the kinds of tokens say so
    "ByteLevel": lambda _part: [(READ_LETTERS, False, "", "")],
    "Fuse": lambda _part: [(FUSE, False, "", "")],
    "Metaspace": lambda part: [(WRITE_BLANKS, part["prepend_scheme"] != "never", part["replacement"], "")],
    "Replace": _replace,
    "Strip": _strip_piece,
}


def _decoding(decoder: Any, manifest: Manifest) -> list[Step]:
    rules = manifest.text
    if rules.bad_bytes != "run":
        steps: list[Step] = []  # names have blanks already, so that byte tokens keep theirs
    elif decoder is None:
        raise _refuse("no decoder", "a decoder")
    else:
        if any(part["type"] == "ByteFallback" for part in _members(decoder)[1:]):
            raise _refuse("decoder ByteFallback after another one", "it to be the first")
        steps = _steps("decoder", decoder, _DECODERS)
    if rules.strip:
        steps += [(FUSE, False, "", ""), (STRIP, True, "x", "x")]
    if rules.clean_up_spaces:
        steps += [(FUSE, False, "", ""), *((REPLACE, False, *pair) for pair in _CLEAN_UP)]
    return steps


def _pack(steps: Sequence[Step]) -> npt.NDArray[np.int8]:
    data = b""
    for operation, flag, *texts in steps:
        a, b = (text.encode() for text in texts)
        if max(len(a), len(b)) > 255:
            raise _refuse(f"a text of {max(len(a), len(b))} bytes to replace or split at", "at most 255")
        data += bytes([operation, flag, len(a), len(b)]) + a + b
    if len(steps) > MAX_STEPS:
        raise _refuse(f"{len(steps)} steps", f"at most {MAX_STEPS}")
    return as_rows(list(data or b"\0"), "u1")


# ------------------------------------------------- Model ------------------------------------------------


def _names(tokenizer: Tokenizer, decoder: Any, manifest: Manifest) -> tuple[list[str], list[int]]:
    """The name of each id, "" where it has none, and what kind of token it is."""
    library = tokenizer._tokenizer
    ids = [*library.get_vocab(with_added_tokens=True).values()]
    names = [library.id_to_token(i) or "" for i in range(max(ids) + 1)]
    joins_bytes = manifest.text.bad_bytes != "run" or any(
        part["type"] == "ByteFallback" for part in _members(decoder)
    )
    kinds = []
    for i, name in enumerate(names):
        kind = 1 * (i in tokenizer._special_ids) | 2 * (i in tokenizer._control_ids)
        kinds.append(kind | 4 * (joins_bytes and _BYTE_TOKEN.fullmatch(name) is not None))
        if manifest.text.bad_bytes != "run" and i not in tokenizer._control_ids:
            names[i] = name.replace(BLANK, " ")
    return names, kinds


Parts = Iterable[tuple[dict[str, Key], dict[str, npt.NDArray[np.int8]]]]


def _byte_pairs(model: Mapping[str, Any], n_tokens: int) -> Parts:
    for option in ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(option):
            raise _refuse(f"a BPE model with {option}", "one without")
    vocab: dict[str, int] = model["vocab"]
    yield _trie(vocab)
    yield _fallback(vocab, bool(model["byte_fallback"]))
    unknown = -1 if model["unk_token"] is None else vocab[model["unk_token"]]
    merges = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        merges[vocab[left], vocab[right]] = (rank, vocab[left + right])
    keys: dict[str, Key] = {
        "unigram": 0,
        "fuse_unk": int(model["fuse_unk"]),
        "unknown_piece": unknown,
        "has_merges": int(bool(merges)),
    }
    rows = [[*pair, *merges[pair]] for pair in sorted(merges)]
    yield keys, {"merges": as_rows(np.array(rows, "<u4"), "<u4", 4)} if merges else {}


def _unigram(model: Mapping[str, Any], n_tokens: int) -> Parts:
    pieces = model["vocab"]
    vocab = {piece: i for i, (piece, _) in enumerate(pieces)}
    if model["unk_id"] is None:
        raise _refuse("a Unigram model without an unknown piece", "one with it")
    yield _trie(vocab)
    yield _fallback(vocab, bool(model.get("byte_fallback")))
    scores = [float(score) for _, score in pieces]
    keys: dict[str, Key] = {
        "unigram": 1,
        "fuse_unk": 1,
        "unknown_piece": model["unk_id"],
        "unknown_score": min(scores) - _K_UNK_PENALTY,
    }
    yield keys, {"scores": as_rows([*scores, *[0.0] * (n_tokens - len(scores))], "<f8")}


def _fallback(
    vocab: Mapping[str, int], wanted: bool
) -> tuple[dict[str, Key], dict[str, npt.NDArray[np.int8]]]:
    """Bytes for what has no piece: all of them or, as the library has it, mostly none."""
    ids = [vocab.get(f"<0x{byte:02X}>", -1) for byte in range(256)]
    if not wanted or max(ids) < 0:
        return {"byte_fallback": 0}, {}
    if min(ids) < 0:
        raise _refuse(f"a model that falls back to bytes but lacks <0x{ids.index(-1):02X}>", "all bytes")
    return {"byte_fallback": 1}, {"byte_ids": as_rows(ids, "<u4")}


def _trie(vocab: Mapping[str, int]) -> tuple[dict[str, Key], dict[str, npt.NDArray[np.int8]]]:
    """Nodes numbered level by level, so that the children of each are neighbours."""
    pieces = sorted((piece.encode(), i) for piece, i in vocab.items() if piece)
    labels, first, ids = [0], [], [0]
    level = [(0, len(pieces))]  # of pieces that begin alike
    depth = 0
    while level:
        next_level = []
        for start, end in level:
            first.append(len(labels))
            while start < end and len(pieces[start][0]) == depth:
                start += 1  # this node's own piece
            while start < end:
                byte, begin = pieces[start][0][depth], start
                while start < end and pieces[start][0][depth] == byte:
                    start += 1
                labels.append(byte)
                own = pieces[begin]
                ids.append(own[1] + 1 if len(own[0]) == depth + 1 else 0)
                next_level.append((begin, start))
        level, depth = next_level, depth + 1
    first.append(len(labels))
    tensors = {
        "trie.labels": as_rows(labels, "u1"),
        "trie.first": as_rows(first, "<u4"),
        "trie.ids": as_rows(ids, "<u4"),
    }
    return {}, tensors
