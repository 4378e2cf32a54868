"""A teacher's outputs become targets, except for those that would teach something wrong."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from edge_s2s_export.factory import pseudo_labels as module
from edge_s2s_export.factory.examples import Epochs, Example, shapes_of
from edge_s2s_export.factory.networks import Network, new_model
from edge_s2s_export.factory.pseudo_labels import (
    PseudoLabels,
    pseudo_labels,
    search_in_core,
    search_in_transformers,
)
from edge_s2s_export.factory.training import TrainingOptions, train

WORDS = [f"word{i}" for i in range(30)]
EOS = 1
OPTIONS = PseudoLabels(num_beams=2, max_new_tokens=12, batch_size=4)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    vocab = {name: i for i, name in enumerate(["<pad>", "</s>", "<unk>", *WORDS, "Anna", "Paris"])}
    words = Tokenizer(models.WordLevel(vocab, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="module")
def teacher(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory):
    """It repeats its source, mostly."""
    random = torch.Generator().manual_seed(0)
    draws = [torch.randint(3, 33, (4 + i % 5,), generator=random).tolist() for i in range(200)]
    examples = [Example([*ids, 1], [*ids, 1]) for ids in draws]
    model = new_model(Network(128, 128, 2, 2, 1), len(tokenizer), seed=1)
    stream = Epochs(examples, shapes_of((9,), 9, 576), seed=0)
    options = TrainingOptions(steps=80, dtype="float32")
    folder: Path = tmp_path_factory.mktemp("teacher")
    train(model, stream, options, folder)
    return model


SOURCES = [" ".join(WORDS[(3 * i + j) % 30] for j in range(4 + i % 5)) for i in range(11)]


def test_a_teacher_that_repeats_labels_with_what_it_repeats(teacher, tokenizer):
    done: list[int] = []
    labelled = pseudo_labels(teacher, tokenizer, SOURCES, OPTIONS, on_progress=done.append)
    right = sum(targets == (text,) for targets, text in zip(labelled.targets, SOURCES, strict=True))
    assert right >= 9
    assert done == [4, 8, 11]
    assert labelled == pseudo_labels(teacher, tokenizer, SOURCES, OPTIONS)


def test_the_core_finds_what_transformers_finds(teacher, tokenizer):
    """In float32, hence the same tokens; `search_parity` compares scores."""
    encoded = tokenizer(SOURCES, padding=True, return_tensors="pt", return_token_type_ids=False)
    settings: dict[str, Any] = {
        "max_new_tokens": 12,
        "num_beams": 3,
        "length_penalty": 1.5,
        "no_repeat_ngram_size": 2,
    }
    ours, theirs = (
        [
            row[: row.index(EOS) + 1] if EOS in row else row
            for row in search(teacher)(encoded, **settings).tolist()
        ]
        for search in (search_in_core, search_in_transformers)
    )
    assert ours == theirs


def test_samples_are_labels_each_once(teacher, tokenizer):
    options = replace(OPTIONS, samples=3, top_p=1.0)
    drawn = pseudo_labels(teacher, tokenizer, SOURCES[:5], options).targets
    best = pseudo_labels(teacher, tokenizer, SOURCES[:5], OPTIONS).targets
    for targets, first in zip(drawn, best, strict=True):
        assert len(set(targets)) == len(targets) <= 4
        assert targets[: len(first)] == first


def test_labels_are_decoded_with_the_options_of_their_names(teacher, tokenizer):
    circle = ["word3 word4 word5 word6 word7 word4"]
    [[repeated]] = pseudo_labels(teacher, tokenizer, circle, OPTIONS).targets
    assert repeated.split().count("word4") > 1
    [[once]] = pseudo_labels(teacher, tokenizer, circle, replace(OPTIONS, no_repeat_ngram_size=1)).targets
    assert len(set(once.split())) == len(once.split())

    def n_words(length_penalty: float) -> int:
        options = replace(OPTIONS, num_beams=4, length_penalty=length_penalty)
        labelled = pseudo_labels(teacher, tokenizer, SOURCES, options)
        return sum(len(text.split()) for targets in labelled.targets for text in targets)

    assert n_words(-3.0) < n_words(3.0)


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, teacher) -> Callable[..., Any]:
    """A teacher that answers every source with the given ids."""

    def answer(*ids: int) -> Any:
        def search(encoded: Any, **_settings: Any) -> torch.Tensor:
            return torch.tensor([[0, *ids]] * len(encoded["input_ids"]))

        monkeypatch.setattr(module, "search_in_core", lambda _model: search)
        return teacher

    return answer


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ([5, 6, 1], ""),
        ([5, 6], "no end"),
        ([1], "length"),
        ([*range(5, 25), 1], "length"),
        ([5, 5, 5, 5, 1], "loop"),
        ([5, 33, 1], ""),  # Anna is in the source
        ([5, 34, 1], "unsupported"),  # Paris is not
    ],
)
def test_what_would_teach_something_wrong_is_left_out(ids: list[int], reason: str, say, tokenizer):
    source = "word2 word3 Anna word4 word5 word6 word7"
    labelled = pseudo_labels(say(*ids), tokenizer, [source], OPTIONS)
    assert labelled.dropped == Counter({reason: 1} if reason else {})
    assert [len(targets) for targets in labelled.targets] == [0 if reason else 1]
