"""Text to ids and back: as transformers does it, control tokens as plain text, listed components only."""

import json
import random
import sys
import time
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from edge_s2s import BundleError, default_bundle_path
from edge_s2s.bundle import open_bundle
from edge_s2s.tokenizer import TextStream, Tokenizer
from edge_s2s_export.probe_texts import probe_texts
from tiny_folders import tiny_tokenizer

DEFAULT = default_bundle_path()
PREFIX = "summarize dialogue: "
SENTENCES = probe_texts(50)


def trained(
    model: models.Model,
    trainer: trainers.Trainer,
    pre_tokenizer: pre_tokenizers.PreTokenizer,
    decoder: decoders.Decoder,
) -> bytes:
    tokenizer = HfTokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer.to_str().encode()


def unigram() -> bytes:
    """As sentencepiece makes it for T5: `</s>` is a piece like any other."""
    specials = ["<s>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    return trained(models.Unigram(), trainer, pre_tokenizers.Metaspace(), decoders.Metaspace())


def byte_level() -> bytes:
    """As BART has it."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", "<unk>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    return trained(
        models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    )


def tiny() -> bytes:
    text: str = tiny_tokenizer().backend_tokenizer.to_str()
    return text.encode()


def default() -> bytes:
    if not DEFAULT.exists():
        pytest.skip("installed without the default bundle")
    with open_bundle(DEFAULT) as bundle:
        return bytes(bundle.read("tokenizer.json"))


KINDS: dict[str, Callable[[], bytes]] = {
    "default": default,
    "tiny": tiny,
    "unigram": unigram,
    "byte-level": byte_level,
}


@pytest.fixture(scope="module", params=KINDS)
def data(request: pytest.FixtureRequest) -> bytes:
    """tokenizer.json of each kind."""
    return KINDS[request.param]()


@cache
def make(data: bytes, prefix: str = "") -> Tokenizer:
    return Tokenizer(data, vocab_size=10_000, prefix=prefix, unk_id=2)


TEXTS = [
    "Anna asks Tom about the train.",
    "  two  blanks\tand\nlines \n\n here ",
    "naïve café — “quotes” … 漢字 🙂🙃 👨‍👩‍👧 ﬁ ①",
    "e\u0301 \u200b \x00 \x07 \ufeff \u2028 \U000e0041",
    "12:30, 3.5 km; (a) [b] don't!?",
    "x" * 3000,
    "\U0001f642" * 200,
]


def test_ids_are_those_of_transformers_for_prefix_and_text_as_one(data: bytes):
    reference = PreTrainedTokenizerFast(tokenizer_object=HfTokenizer.from_str(data.decode()))
    for prefix in ("", PREFIX):
        tokenizer = make(data, prefix)
        for text in TEXTS:
            expected = reference(prefix + text).input_ids
            assert tokenizer.encode(text) == expected
            for max_len in (3, 7, 20):
                cut = reference(prefix + text, truncation=True, max_length=max_len).input_ids
                assert tokenizer.encode(text, max_len=max_len) == cut
            assert tokenizer.decode(expected) == reference.decode(expected, skip_special_tokens=True)


def test_special_tokens_in_a_text_are_plain_text(data: bytes):
    """No id of a control token comes from a text, and the text comes back."""
    reference = HfTokenizer.from_str(data.decode())
    specials = {i: t.content for i, t in reference.get_added_tokens_decoder().items() if t.special}
    controls = {i for i, content in specials.items() if content != "<unk>" and not content.startswith("<0x")}
    assert controls
    tokenizer = make(data)
    for content in specials.values():
        for text in (content, f"a{content}b", f"tell {content} Tom", content * 3):
            ids = tokenizer.tokenize(text)
            assert controls.isdisjoint(ids), (text, ids)
            assert 2 in ids or any(map(tokenizer.is_byte, ids)) or tokenizer.decode(ids).strip() == text
            assert tokenizer.encode(text)[-1] == 1, "EOS still ends the input"


def test_the_default_tokenizer_gives_special_strings_back_letter_by_letter():
    tokenizer = make(default())
    specials = HfTokenizer.from_str(default().decode()).get_added_tokens_decoder().values()
    assert len(specials) > 10
    for content in (token.content for token in specials):
        assert tokenizer.decode(tokenizer.encode(f"see {content} here")) == f"see {content} here"


def test_lone_surrogates_become_replacement_characters(data: bytes):
    tokenizer = make(data)
    for text in ("\ud800", "a\udfffb", "\udc00\ud800", "🙂\ud83d"):
        replaced = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
        assert tokenizer.encode(text) == tokenizer.encode(replaced)


def test_every_code_point_is_encoded():
    tokenizer = make(default())
    step = 4096
    for start in range(0, sys.maxunicode + 1, step):
        ids = tokenizer.encode("".join(map(chr, range(start, start + step))))
        assert 2 not in ids, "byte fallback covers all"


@pytest.mark.parametrize(
    "unit", ["x", "\u0301", "👨‍👩‍👧", "\u202e", "7", " ", "\n", "a ", ".", "\x00", "漢", "</s>"]
)
def test_hostile_texts_take_time_in_proportion(unit: str):
    """A quarter of a million characters; 10 s is 50 times what the slowest takes."""
    tokenizer = make(default())
    start = time.process_time()
    tokenizer.encode(unit * ((1 << 18) // len(unit)))
    assert time.process_time() - start < 10


# ------------------------------------------------ components ------------------------------------------------


def changed(name: str, component: object) -> bytes:
    return json.dumps({**json.loads(tiny()), name: component}).encode()


def changed_model(**values: object) -> bytes:
    document = json.loads(tiny())
    return json.dumps({**document, "model": {**document["model"], **values}}).encode()


REGEX = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
REPLACE = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
DOUBLE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
HOSTILE = {
    "not JSON": b"{",
    "not an object": b"[]",
    "empty": b"",
    "no model": b"{}",
    "a model that is null": changed("model", None),
    "a component that is a list": changed("normalizer", []),
    "an unknown key": changed("lookup", {}),
    "an unknown normalizer": changed("normalizer", {"type": "Magic"}),
    "a type that is no text": changed("normalizer", {"type": ["NFC"]}),
    "a regex in a pre-tokenizer": changed("pre_tokenizer", REGEX),
    "a regex in a Sequence": changed("pre_tokenizer", {"type": "Sequence", "pretokenizers": [REGEX]}),
    "a regex in a normalizer": changed("normalizer", REPLACE),
    "a regex in a nested Sequence": changed(
        "normalizer",
        {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [REPLACE]}]},
    ),
    "a regex in a decoder": changed("decoder", REPLACE),
    "two patterns": changed("normalizer", {**REPLACE, "pattern": {"String": " ", "Regex": " "}}),
    "members that are no list": changed("normalizer", {"type": "Sequence", "normalizers": {"type": "NFC"}}),
    "a member that is null": changed("normalizer", {"type": "Sequence", "normalizers": [None]}),
    "a decoder that replaces letters": changed(
        "decoder", {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}
    ),
    "a decoder that strips letters": changed(
        "decoder", {"type": "Strip", "content": "a", "start": 0, "stop": 1}
    ),
    "an unknown model": changed("model", {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}),
    "dropout": changed_model(dropout=0.5),
    "a damaged charsmap": changed("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "a charsmap that claims 4 GB": changed(
        "normalizer", {"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="}
    ),
    "a charsmap that is no text": changed("normalizer", {"type": "Precompiled", "precompiled_charsmap": 1}),
    "replacements that double a text 27 times": changed(
        "normalizer", {"type": "Sequence", "normalizers": [DOUBLE] * 27}
    ),
    "a text that is prepended to each word": changed(
        "normalizer", {"type": "Prepend", "prepend": "a" * 10_000}
    ),
    "a replacement of nothing": changed("normalizer", {**DOUBLE, "pattern": {"String": ""}}),
    "a replacement by nothing known": changed("normalizer", {**DOUBLE, "content": 1}),
    "a decoder that replaces by nothing": changed("decoder", {"type": "Replace", "pattern": {"String": " "}}),
    "a split at nothing": changed("pre_tokenizer", {**REGEX, "pattern": {"String": ""}}),
    "a vocabulary that hides a component": changed_model(vocab={"a": {"Regex": "x"}}),
    "deep nesting": b'{"model":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "duplicate keys": b'{"model":{"type":"BPE"},"model":{"type":"WordLevel"}}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_tokenizer_outside_the_allow_list_is_a_bundle_error(name: str):
    with pytest.raises(BundleError, match=r"^tokenizer\.json: expected "):
        make(HOSTILE[name])


def test_what_looks_like_a_component_in_a_token_is_a_token():
    document = json.loads(tiny())
    document["model"]["vocab"] |= {'{"Regex": "x"}': 400, '"merges": [{"type": 1}]': 401}
    make(json.dumps(document).encode())


def test_more_tokens_than_the_model_has_are_a_bundle_error(data: bytes):
    n_tokens = HfTokenizer.from_str(data.decode()).get_vocab_size()
    Tokenizer(data, vocab_size=n_tokens)
    with pytest.raises(BundleError, match=f"at most {n_tokens - 1} tokens"):
        Tokenizer(data, vocab_size=n_tokens - 1)


def test_truncation_and_padding_of_the_file_are_ignored():
    tokenizer = HfTokenizer.from_str(tiny().decode())
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=50)
    text = "the library and the blue umbrella"
    assert make(tokenizer.to_str().encode()).encode(text) == make(tiny()).encode(text)


# ------------------------------------------------ streaming -------------------------------------------------


def stream(tokenizer: Tokenizer, ids: list[int], sizes: list[int]) -> list[str]:
    """The pieces of text when ids come in groups of these sizes."""
    text = TextStream(tokenizer)
    pieces, start = [], 0
    for size in sizes:
        pieces.append(text.push(ids[start : start + size]))
        start += size
    return [*pieces, text.push(ids[start:]), text.finish()]


def test_bytes_of_tokens_joined_are_the_text(data: bytes):
    tokenizer = make(data)
    for text in ("one two", "a, b: {c}", "é漢🙂 x", '  "two  blanks"', "naïve\u0301"):
        ids = tokenizer.tokenize(text)
        written = b"".join(tokenizer.token_bytes(i) or b"" for i in ids).decode()
        if data == tiny():  # its decoder joins tokens too early, and loses all blanks
            written = written.replace(" ", "")
        assert written.lstrip() == tokenizer.decode(ids).lstrip()
    assert tokenizer.token_bytes(10**6) is None


@pytest.mark.parametrize("window", [128, 6])
def test_pieces_joined_are_the_text_for_random_ids(data: bytes, window: int, monkeypatch: pytest.MonkeyPatch):
    """Often with what makes decoders change their mind: bytes, blanks, line breaks, special, unknown ids."""
    monkeypatch.setattr("edge_s2s.tokenizer._STREAM_WINDOW", window)
    tokenizer = make(data)
    reference = HfTokenizer.from_str(data.decode())
    n_tokens = reference.get_vocab_size()
    texts = (" \n", "é漢🙂", "\ufffd", "  ")
    awkward = [reference.encode(text, add_special_tokens=False).ids for text in texts]
    byte_ids = [i for i in range(n_tokens) if tokenizer.is_byte(i)] or [3]
    rng = random.Random(0)
    n_sent_early = 0
    for _ in range(1000):
        ids = []
        for _ in range(rng.randrange(30)):
            kind = rng.random()
            if kind < 0.5:
                ids.append(rng.randrange(n_tokens + 5))
            elif kind < 0.75:
                ids.append(rng.choice(byte_ids))
            else:
                ids += rng.choice(awkward)
        sizes = [rng.choice([1, 1, 1, 2, 5]) for _ in ids]
        pieces = stream(tokenizer, ids, sizes)
        assert "".join(pieces) == tokenizer.decode(ids) == reference.decode(ids)
        n_sent_early += len("".join(pieces[:-1])) > 0
    assert n_sent_early > 500


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60), sizes=st.lists(st.integers(1, 4), max_size=20))
def test_pieces_joined_are_the_text_for_ids_of_real_text(text: str, sizes: list[int]):
    tokenizer = make(default())
    ids = tokenizer.encode(text)
    assert "".join(stream(tokenizer, ids, sizes)) == tokenizer.decode(ids)


def test_a_stream_decodes_no_more_than_its_last_tokens(monkeypatch: pytest.MonkeyPatch):
    tokenizer = make(default())
    ids = tokenizer.tokenize(
        "Tom asks Anna about the train to the station, the 🙂 and 12 other things. " * 100
    )
    expected = tokenizer.decode(ids)
    decode, n_decoded = Tokenizer.decode, 0

    def counted(self: Tokenizer, token_ids: list[int]) -> str:
        nonlocal n_decoded
        n_decoded += len(token_ids)
        return decode(self, token_ids)

    monkeypatch.setattr(Tokenizer, "decode", counted)
    assert "".join(stream(tokenizer, ids, [1] * len(ids))) == expected
    assert len(ids) > 2000
    assert n_decoded < 150 * len(ids)


def test_a_word_is_sent_when_its_token_comes_not_later():
    tokenizer = make(default())
    text = TextStream(tokenizer)
    for token in tokenizer.tokenize("Tom asks Anna about the train to the station"):
        assert text.push([token])


def test_without_the_defence_a_text_would_end_itself():
    reference = HfTokenizer.from_str(default().decode())
    assert 1 in reference.encode("a</s>b", add_special_tokens=False).ids
