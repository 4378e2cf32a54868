"""SentencePiece's normalization, compared with SentencePiece."""

import random

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto

from edge_s2s.charsmap import MAX_REPLACEMENT, Charsmap
from tiny_tokenizers import sentencepiece_model, strings


@pytest.mark.parametrize("rule", ["nmt_nfkc", "nfkc_cf"])
def test_texts_become_what_sentencepiece_makes_of_them(rule: str):
    model = sentencepiece_model(
        "unigram", normalization_rule_name=rule, add_dummy_prefix=False, remove_extra_whitespaces=False
    )
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    ours = Charsmap(proto.ModelProto.FromString(model).normalizer_spec.precompiled_charsmap)
    draw = random.Random(0)
    characters, marks = range_of(0x20, 0x3200), [*range_of(0x300, 0x370), *"aeiou①ﬁ"]
    texts = ["".join(draw.choices(draw.choice([characters, marks]), k=6)) for _ in range(1000)]
    for text in [*strings(100), *texts]:
        assert ours.normalize(text).replace(" ", "▁") == reference.normalize(text), repr(text)


def range_of(start: int, stop: int) -> list[str]:
    return [*map(chr, range(start, stop))]


@pytest.mark.parametrize(
    "data",
    [b"", b"abc", b"\xff\xff\xff\xff", b"\x03\0\0\0abc", b"\0\0\0\0" + b"a" * (MAX_REPLACEMENT + 1) + b"\0"],
)
def test_what_is_no_charsmap_is_a_value_error(data: bytes):
    with pytest.raises(ValueError, match="bytes"):
        Charsmap(data)


def test_random_bytes_never_crash_or_hang():
    draw = random.Random(0)
    for _ in range(20):
        units = draw.randbytes(4 * draw.randrange(1, 300))
        data = len(units).to_bytes(4, "little") + units + draw.randbytes(16) + b"\0"
        Charsmap(data).normalize("a text, ① é漢\u0301\0" * 3)
