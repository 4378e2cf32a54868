"""The slow transformers tokenizer of every family, trained on a page of text in seconds, always the same."""

import io
import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BartTokenizer,
    ByT5Tokenizer,
    M2M100Tokenizer,
    MarianTokenizer,
    MBart50Tokenizer,
    MBartTokenizer,
    MT5Tokenizer,
    NllbTokenizer,
    PegasusTokenizer,
    T5Tokenizer,
)
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

from edge_s2s_export.probe_texts import probe_texts

MULTILINGUAL = [
    "La vache mange de l'herbe près du château, où l'été est déjà fini.",
    "Der Zug fährt um 12:30 Uhr von München über Köln nach Straßburg.",
    "Ședința s-a încheiat; președintele a plecat în România.",
    "Поезд отправляется завтра утром, билеты ещё есть.",
    "彼は明日の朝、東京駅で友達に会います。会議は三時から。",
    "我们明天早上在火车站见面,天气很好。",
    "القطار يغادر غدا صباحا من المحطة القديمة.",
    "रेलगाड़ी कल सुबह दिल्ली से चलेगी।",
    "기차는 내일 아침 서울에서 출발합니다.",
    "Σήμερα η συνάντηση είναι αύριο στις τρεις το απόγευμα.",
]
ASCII = "".join(map(chr, range(0x21, 0x7F)))


@cache
def sentencepiece_model(kind: str, *, vocab_size: int = 600, seed: int = 0, **options: Any) -> bytes:
    """A SentencePiece model; `kind` is unigram or bpe."""
    texts = [*probe_texts(150), *MULTILINGUAL * 3]
    random.Random(seed).shuffle(texts)
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts[: len(texts) * 3 // 4]),
        model_writer=buffer,
        model_type=kind,
        **{"vocab_size": vocab_size, "required_chars": ASCII, "hard_vocab_limit": False, **options},
        num_threads=1,
        minloglevel=2,
    )
    return buffer.getvalue()


T5_SPECIALS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}


def _file(folder: Path, name: str, data: bytes | Any) -> str:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return str(path)


def _t5(folder: Path) -> Any:
    model = sentencepiece_model("unigram", **T5_SPECIALS)
    return T5Tokenizer(_file(folder, "spiece.model", model), legacy=True)


def _t5_new(folder: Path) -> Any:
    model = sentencepiece_model("unigram", **T5_SPECIALS)
    return T5Tokenizer(_file(folder, "spiece.model", model), legacy=False)


def _mt5(folder: Path) -> Any:
    """As mT5's and UMT5's: bytes for what has no piece, extra ids that are pieces themselves."""
    model = sentencepiece_model(
        "unigram", vocab_size=900, byte_fallback=True, user_defined_symbols="▁<extra_id_0>", **T5_SPECIALS
    )
    return MT5Tokenizer(_file(folder, "spiece.model", model), extra_ids=0, legacy=True)


def _umt5(folder: Path) -> Any:
    """As UMT5's: no normalization but that of blanks."""
    model = sentencepiece_model(
        "unigram", vocab_size=900, byte_fallback=True, normalization_rule_name="identity", **T5_SPECIALS
    )
    return T5Tokenizer(_file(folder, "spiece.model", model), extra_ids=0, legacy=True)


def _byt5(_folder: Path) -> Any:
    return ByT5Tokenizer()


def _bart(folder: Path) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=800, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*probe_texts(150), *MULTILINGUAL], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab = {**model["vocab"], "<mask>": len(model["vocab"])}
    merges = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"])
    return BartTokenizer(_file(folder, "vocab.json", vocab), _file(folder, "merges.txt", merges.encode()))


def _mbart(folder: Path) -> Any:
    return MBartTokenizer(_file(folder, "m.model", sentencepiece_model("unigram")), src_lang="en_XX")


def _mbart50(folder: Path) -> Any:
    return MBart50Tokenizer(_file(folder, "m.model", sentencepiece_model("unigram")), src_lang="en_XX")


def _pegasus(folder: Path) -> Any:
    return PegasusTokenizer(_file(folder, "spiece.model", sentencepiece_model("unigram", **T5_SPECIALS)))


def _vocab(specials: list[str], *spm: bytes, leave_out: int = 0) -> dict[str, int]:
    """Piece -> id for the normal pieces of several models, in an order of its own."""
    pieces = sorted(
        {p.piece for data in spm for p in proto.ModelProto.FromString(data).pieces if p.type == 1}
    )
    random.Random(1).shuffle(pieces)
    return {name: i for i, name in enumerate([*specials, *pieces[leave_out:]])}


def _marian(folder: Path, separate: bool = False) -> Any:
    """Source and target pieces of their own in one vocabulary, some of them in none."""
    source, target = (sentencepiece_model("unigram", vocab_size=500, seed=seed) for seed in (1, 2))
    specials = ["</s>", "<unk>", ">>fra<<", ">>deu<<"]
    vocab = _vocab(specials, source, *([] if separate else [target]), leave_out=20)
    files = {
        "source_spm": _file(folder, "source.spm", source),
        "target_spm": _file(folder, "target.spm", target),
        "vocab": _file(folder, "vocab.json", {**vocab, "<pad>": len(vocab)}),
    }
    if separate:
        other = _vocab(["</s>", "<unk>"], target)
        other |= {"<pad>": len(vocab)}
        files["target_vocab_file"] = _file(folder, "target_vocab.json", other)
    return MarianTokenizer(**files, separate_vocabs=separate)


def _marian_separate(folder: Path) -> Any:
    return _marian(folder, separate=True)


def _m2m100(folder: Path) -> Any:
    model = sentencepiece_model("bpe")
    vocab = _vocab(["<s>", "<pad>", "</s>", "<unk>"], model, leave_out=5)
    files = _file(folder, "vocab.json", vocab), _file(folder, "m.model", model)
    codes = [f"__{code}__" for code in FAIRSEQ_LANGUAGE_CODES["m2m100"]]
    return M2M100Tokenizer(*files, src_lang="en", additional_special_tokens=codes)


def _nllb(folder: Path) -> Any:
    return NllbTokenizer(_file(folder, "m.model", sentencepiece_model("bpe")), src_lang="eng_Latn")


FAMILIES: dict[str, Callable[[Path], Any]] = {
    "t5": _t5,
    "t5-not-legacy": _t5_new,
    "mt5": _mt5,
    "umt5": _umt5,
    "byt5": _byt5,
    "bart": _bart,
    "mbart": _mbart,
    "mbart-50": _mbart50,
    "pegasus": _pegasus,
    "marian": _marian,
    "marian-separate": _marian_separate,
    "m2m100": _m2m100,
    "nllb": _nllb,
}
"""Name -> a function that makes the tokenizer in a folder."""


def strings(n: int, seed: int = 0) -> list[str]:
    """`n` texts of all kinds: scripts, emoji, controls, blanks, marks, special tokens, language codes."""
    draw = random.Random(seed)
    words = [word for text in [*probe_texts(150), *MULTILINGUAL] for word in text.split()]
    specials = [
        *("</s>", "<s>", "<pad>", "<unk>", "<mask>", "<mask_1>", "<extra_id_0>", "<unk_5>", "<0x41>", "<n>"),
        *("en_XX", "ro_RO", "__en__", "eng_Latn", "fra_Latn", ">>fra<<", "<2fr>"),
    ]
    odd = [
        *(
            "🙂",
            "👨\u200d👩\u200d👧",
            "🇫🇷",
            "\u0301",
            "e\u0301",
            "①\u0308",
            "\u0327\u0301",
            "ﬁ",
            "ﷺ",
            "½",
            "Å",
            "१२",
            "١٢",
        ),
        *(
            "१२",
            "١٢",
            "ǅ",
            "ß",
            "İ",
            "ⅷ",
            "㍿",
            "가",
            "\u1100\u1161\u11a8",
            "▁",
            "\ufffd",
            "\u200b",
            "\u200d",
            "\ufeff",
        ),
        *("\x00", "\x07", "\x1b", "\x7f", "\x85", "\u2028", "\u202e", "\u00ad", "\U000e0041", "\u1680"),
        *("\u3000", "\u00a0", "\t", "\n", "\r\n", "  ", "   ", " " * 40),
    ]

    def part() -> str:
        kind = draw.random()
        if kind < 0.55:
            return draw.choice(words)
        if kind < 0.65:
            return draw.choice(specials)
        if kind < 0.8:
            return draw.choice(odd)
        if kind < 0.9:
            return chr(draw.choice([*range(0x20, 0x3000), *range(0x1F300, 0x1F700)]))
        return "".join(draw.choices("abcdefghij漢字éß", k=draw.choice([1, 3, 9, 60])))

    texts = ["", " ", "\n", "a", "a ", " a", "</s>", "x" * 5000, "ab" * 3000, "漢" * 3000, "\u0301" * 500]
    while len(texts) < n:
        joint = draw.choice([" ", " ", "", "  "])
        texts.append(joint.join(part() for _ in range(draw.randint(1, 12))))
    return texts[:n]
