"""A trained tokenizer gives texts back, names are one token each, and the runtime reads what it exports."""

from types import SimpleNamespace

import pytest

from edge_s2s.manifest import Languages, TextRules
from edge_s2s_export.errors import ExportError
from edge_s2s_export.factory.recipe import TokenizerOptions
from edge_s2s_export.factory.tokenizer_training import check_fits, train_tokenizer
from edge_s2s_export.probe_texts import probe_texts

NAMES = ("#Person1#", "#Person2#")
TEXTS = [f"{NAMES[i % 2]}: {text}" for i, text in enumerate(probe_texts(200))]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, TokenizerOptions(vocab_size=640, names=NAMES, n_extra_ids=4))


@pytest.mark.parametrize(
    "text",
    [
        "#Person1#: Hi, Mr. Smith. (#Person2#)'s 12:30 €5 你 café.\n#Person2#: ok",
        "two  blanks, 😀 and a word nobody_knows",
        "name[The Vaults], priceRange[more than £30]",
    ],
)
def test_texts_come_back(tokenizer, text: str):
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_names_are_one_token_with_and_without_a_blank_and_their_neighbours_are_not(tokenizer):
    tokens = tokenizer.tokenize("#Person1# saw #Person2#, (#Person1#) and #Person3# #Person1#'s")
    assert [token for token in tokens if "Person1" in token] == ["▁#Person1#", "#Person1#", "▁#Person1#"]
    assert "▁#Person2#" in tokens
    assert not any("Person3" in token for token in tokens)


def test_ids_are_special_then_extra_then_bytes(tokenizer):
    names = tokenizer.convert_ids_to_tokens(range(9))
    extra = [f"<extra_id_{i}>" for i in range(4)]
    assert names == ["<pad>", "</s>", "<unk>", *extra, "<0x00>", "<0x01>"]
    assert 500 < len(tokenizer) <= 640
    assert tokenizer("a")["input_ids"][-1] == 1


def test_digits_are_single_in_every_text(tokenizer):
    assert not any(
        sum(character.isdigit() for character in token) > 1
        for token in tokenizer.tokenize("2024 12:30 1,200 x123y 100 100 100")
    )


def test_no_text_has_unknown_tokens(tokenizer):
    assert 2 not in tokenizer("ᚠ 漢字 \u200b \x07 😀")["input_ids"]


def test_the_same_texts_give_the_same_tokenizer(tokenizer):
    again = train_tokenizer(TEXTS, TokenizerOptions(vocab_size=640, names=NAMES, n_extra_ids=4))
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_the_runtime_has_the_same_tokens(tokenizer):
    from edge_s2s.manifest import FileEntry
    from edge_s2s.tokenizer import open_tokenizers
    from edge_s2s_export.tokenizer_json import tokenizer_files

    files = tokenizer_files(tokenizer, len(tokenizer))
    manifest = SimpleNamespace(
        prefix="",
        files={name: FileEntry(0, "") for name in files},
        dimensions=SimpleNamespace(vocab_size=len(tokenizer), n_source_tokens=len(tokenizer)),
        special_tokens=SimpleNamespace(pad=0, eos=1, decoder_start=0, unk=2),
        text=TextRules(),
        language_tokens=Languages(),
    )
    ours, _ = open_tokenizers(manifest, lambda name: files[name])
    for text in TEXTS[:40]:
        ids = tokenizer(text)["input_ids"]
        assert ours.encode(text) == ids
        assert ours.decode(ids) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 100}, "vocab_size: expected at least 291"),
        ({"names": ("Mr. X",)}, "names without blanks"),
        ({"names": ("",)}, "names without blanks"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message: str):
    with pytest.raises(ExportError, match=message):
        train_tokenizer(TEXTS, TokenizerOptions(**options))


def test_a_tokenizer_that_does_not_fit_is_refused(tokenizer):
    config = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 1}
    check_fits(tokenizer, SimpleNamespace(config=SimpleNamespace(**config)), "here")
    for change, message in (
        ({"vocab_size": 99}, "at most 99 tokens"),
        ({"eos_token_id": 2}, "the model's 2"),
    ):
        model = SimpleNamespace(config=SimpleNamespace(**config | change))
        with pytest.raises(ExportError, match=f"^here: expected .*{message}"):
            check_fits(tokenizer, model, "here")
