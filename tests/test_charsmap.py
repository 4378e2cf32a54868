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


def one_rule(byte: int, replacement: bytes) -> bytes:
    """A charsmap whose trie has one branch, of one byte."""
    units = [0] * 512
    units[0] = 0x100 << 10  # the root's branches are at 0x100 ^ byte
    units[0x100 ^ byte] = 1 << 10 | 0x100 | byte  # a rule ends here; its replacement is named next to it
    trie = b"".join(unit.to_bytes(4, "little") for unit in units)
    return len(trie).to_bytes(4, "little") + trie + replacement + b"\0"


def test_a_text_grows_by_no_more_than_the_longest_replacement():
    """A rule for a part of a character would replace each of its bytes."""
    longest = b"x" * MAX_REPLACEMENT
    assert Charsmap(one_rule(ord("a"), longest)).normalize("aé") == "x" * MAX_REPLACEMENT + "é"
    first, second = "é".encode()
    for byte in (first, second):
        assert Charsmap(one_rule(byte, longest)).normalize("éa") == "éa"
