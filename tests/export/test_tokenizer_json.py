import random

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Tokenizer

from edge_s2s_export.errors import ExportError
from edge_s2s_export.probe_texts import probe_texts
from edge_s2s_export.tokenizer_json import tokenizer_json
from tiny_folders import tiny_tokenizer

METASPACE = pre_tokenizers.Metaspace()
PRE_TOKENIZERS = {
    "metaspace": METASPACE,
    "whitespace split": pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), METASPACE]),
}


def flan_like(pre_tokenizer: pre_tokenizers.PreTokenizer) -> Tokenizer:
    """The parts that transformers gives a converted SentencePiece unigram model."""
    pieces = ["<unk>", "▁", "a", "b", "▁a", "▁b", "ab", "▁ab", "▁▁", "\n"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=0))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), "▁"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


def texts() -> list[str]:
    draw = random.Random(0)
    parts = ["a", "b", "ab", " ", "  ", *(" " * n for n in (3, 4, 5, 6, 7, 17, 1000)), "▁", "\n", "c"]
    return ["", " ", "  ", *("".join(draw.choices(parts, k=draw.randint(1, 9))) for _ in range(2000))]


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_without_the_regular_expression_the_tokens_are_the_same(name: str):
    original = flan_like(PRE_TOKENIZERS[name])
    written = tokenizer_json(PreTrainedTokenizerFast(tokenizer_object=original))
    assert b"Regex" not in written
    ours = Tokenizer.from_buffer(written)
    for text in texts():
        assert ours.encode(text).ids == original.encode(text).ids, repr(text)


def test_other_tokenizers_are_written_as_they_are():
    tokenizer = tiny_tokenizer()
    ours = Tokenizer.from_buffer(tokenizer_json(tokenizer))
    assert ours.to_str() == tokenizer.backend_tokenizer.to_str()
    assert [ours.encode(text).ids for text in probe_texts(20)] == tokenizer(probe_texts(20)).input_ids


def test_truncation_and_padding_are_switched_off():
    tokenizer = tiny_tokenizer()
    tokenizer(probe_texts(2), truncation=True, max_length=4, padding=True)
    ours = Tokenizer.from_buffer(tokenizer_json(tokenizer))
    assert (ours.truncation, ours.padding) == (None, None)


def test_slow_tokenizers_are_refused():
    slow = T5Tokenizer.__new__(T5Tokenizer)  # its constructor would want a SentencePiece file
    with pytest.raises(ExportError, match=r"expected a fast one, .* found T5Tokenizer"):
        tokenizer_json(slow)
