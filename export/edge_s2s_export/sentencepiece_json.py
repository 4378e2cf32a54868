"""A SentencePiece model as tokenizer.json, piece by piece as SentencePiece itself segments.

The components do its steps one by one: charsmap (the runtime has its own, exact), runs of blanks, blanks at
the ends, "▁" before the text and in place of blanks; then unigram or BPE over the whole text.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sentencepiece import sentencepiece_model_pb2 as proto

from edge_s2s.charsmap import Charsmap

from .errors import ExportError
from .tokenizer_parts import added_token, byte_pair_model, document, replace, template

BLANK = "▁"
NEVER = -1000.0  # score of a piece that no text should have: whatever it says is cheaper to spell
UNIGRAM, BPE = 1, 2  # of trainer_spec.model_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # of a piece's type
HALVINGS = 20  # of runs of blanks: up to a million become one
# Unicode's White_Space but the blank. The library's Strip takes all of it, SentencePiece blanks alone.
WHITE_SPACE = (
    "\t\n\v\f\r\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
MARKS = [chr(0xFDD1 + i) for i in range(len(WHITE_SPACE))]  # noncharacters, which no text has


@dataclass(frozen=True)
class Pieces:
    """What a transformers tokenizer makes of the pieces of a SentencePiece model."""

    model: bytes
    ids: Mapping[str, int]  # of the pieces; those without an id are unknown words
    names: Mapping[int, str]  # of all ids
    special: frozenset[int]
    unk_id: int
    head: tuple[int, ...]
    tail: tuple[int, ...]


def pieces_of(tokenizer: Any, model: bytes, vocab: Mapping[str, int] | None = None) -> Pieces:
    """The pieces of `model` under the ids of `tokenizer`, or those of `vocab` if it has a separate one."""
    parsed = proto.ModelProto.FromString(model)
    added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    if vocab is None:
        names = [p.piece for p in parsed.pieces if p.type != UNKNOWN]
        ids = dict(zip(names, tokenizer.convert_tokens_to_ids(names), strict=True))
        ids = {name: i for name, i in ids.items() if i != tokenizer.unk_token_id}
        special |= {ids[p.piece] for p in parsed.pieces if p.type == CONTROL and p.piece in ids}
    else:
        added |= getattr(tokenizer, "id_to_lang_token", {})  # of M2M100, which lie beyond its vocabulary
        special |= getattr(tokenizer, "id_to_lang_token", {}).keys()
        ids = {name: i for name, i in vocab.items() if i not in special}
    text = -1  # no token's id
    ids_around = tokenizer.build_inputs_with_special_tokens([text])
    at = ids_around.index(text)
    return Pieces(
        model,
        ids,
        {**{i: name for name, i in ids.items()}, **added},
        frozenset(special),
        tokenizer.unk_token_id,
        tuple(ids_around[:at]),
        tuple(ids_around[at + 1 :]),
    )


def sentencepiece_json(pieces: Pieces, vocab_size: int, *, readable: bool = True) -> bytes:
    """tokenizer.json. Pieces without an id get one from `vocab_size` on, which the runtime reads as unknown.

    Ids that are not of this model have their names if the file shall be `readable`, for decoding; otherwise
    names that no text can have.
    """
    parsed = proto.ModelProto.FromString(pieces.model)
    _check(parsed)
    scores = {
        p.piece: p.score
        for p in parsed.pieces
        if p.type == NORMAL and pieces.ids.get(p.piece) not in pieces.special
    }
    never = {p.piece for p in parsed.pieces if p.type != NORMAL}
    n_ids = max(*pieces.names, *pieces.special, pieces.unk_id) + 1
    names = [f"<unused {i}>" for i in range(n_ids)]  # the blank in it keeps it from every text
    for i, name in pieces.names.items():
        if (name in scores and pieces.ids.get(name) == i) or name in never or i in pieces.special or readable:
            names[i] = name
    names[pieces.unk_id] = "<unk>"
    taken = {name: i for i, name in enumerate(names)}
    unknown = [name for name in scores if name not in pieces.ids]
    if unknown:
        names += [f"<unused {i}>" for i in range(n_ids, vocab_size)] + unknown
    model = _unigram if parsed.trainer_spec.model_type == UNIGRAM else _bpe
    assert len(taken) == n_ids, "two tokens of one name"
    return document(
        added_tokens=[added_token(i, names[i]) for i in sorted(pieces.special)],
        normalizer=_normalizer(parsed.normalizer_spec),
        post_processor=template([(names[i], i) for i in pieces.head], [(names[i], i) for i in pieces.tail]),
        decoder={
            "type": "Sequence",
            "decoders": [replace(BLANK, " "), {"type": "ByteFallback"}, {"type": "Fuse"}],
        },
        model=model(names, scores, pieces.unk_id, parsed.trainer_spec.byte_fallback),
    )


def _check(model: Any) -> None:
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    if trainer.model_type not in (UNIGRAM, BPE):
        raise ExportError(f"tokenizer: expected a unigram or BPE model, found type {trainer.model_type}")
    if trainer.treat_whitespace_as_suffix or not normalizer.escape_whitespaces:
        raise ExportError("tokenizer: expected pieces with ▁ before words, found another way to mark blanks")
    for piece in model.pieces:
        if piece.type == UNUSED or (piece.type == USER_DEFINED and not re.fullmatch("▁?<.*>", piece.piece)):
            raise ExportError(
                f"tokenizer: expected no piece with rules of its own but control tokens such as <mask>, "
                f"found {piece.piece!r}"
            )


def _unigram(
    names: Sequence[str], scores: Mapping[str, float], unk_id: int, byte_fallback: bool
) -> dict[str, Any]:
    vocab = [[name, scores.get(name, 0.0 if " " in name else NEVER)] for name in names]
    return {"type": "Unigram", "unk_id": unk_id, "vocab": vocab, "byte_fallback": byte_fallback}


def _bpe(
    names: Sequence[str], scores: Mapping[str, float], unk_id: int, byte_fallback: bool
) -> dict[str, Any]:
    """SentencePiece merges neighbours whose concatenation is a piece, the piece of best score first."""
    merges = [
        [piece[:cut], piece[cut:]]
        for piece in sorted(scores, key=lambda piece: -scores[piece])
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    vocab = {name: i for i, name in enumerate(names)}
    return byte_pair_model(vocab, merges, unk_token=names[unk_id], fuse_unk=True, byte_fallback=byte_fallback)


def _normalizer(spec: Any) -> dict[str, Any]:
    charsmap = bytes(spec.precompiled_charsmap)
    parts: list[dict[str, Any]] = []
    kept = WHITE_SPACE
    if charsmap:
        parts.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()})
        table = Charsmap(charsmap)
        kept = "".join(c for c in WHITE_SPACE if c in table.normalize(c))
    if spec.remove_extra_whitespaces:
        marked = [pair for pair in zip(WHITE_SPACE, MARKS, strict=True) if pair[0] in kept]
        parts += [replace("  ", " ")] * HALVINGS
        parts += [replace(space, mark) for space, mark in marked]
        parts.append({"type": "Strip", "strip_left": True, "strip_right": False})
        # A "▁" of the text itself is stripped at its end, too. No white space is left: one can stand for it.
        parts.append(replace(BLANK, WHITE_SPACE[0]))
        parts.append({"type": "Strip", "strip_left": False, "strip_right": True})
        parts.append(replace(WHITE_SPACE[0], BLANK))
        parts += [replace(mark, space) for space, mark in marked]
    if spec.add_dummy_prefix:
        parts.append({"type": "Prepend", "prepend": BLANK})
    parts.append(replace(" ", BLANK))
    return {"type": "Sequence", "normalizers": parts}
