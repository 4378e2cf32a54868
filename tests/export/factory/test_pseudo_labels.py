"""A teacher's outputs become targets, except for those that would teach something wrong."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from edge_s2s_export.factory.examples import Epochs, Example, shapes_of
from edge_s2s_export.factory.networks import Network, new_model
from edge_s2s_export.factory.pseudo_labels import PseudoLabels, pseudo_labels
from edge_s2s_export.factory.training import TrainingOptions, train

WORDS = [f"word{i}" for i in range(30)]
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


class Says:
    """A model that answers every source with the same words."""

    device = torch.device("cpu")

    def __init__(self, *ids: int) -> None:
        self.ids = [0, *ids]

    def eval(self) -> "Says":
        return self

    def generate(self, input_ids: torch.Tensor, **_options: object) -> torch.Tensor:
        return torch.tensor([self.ids] * len(input_ids))


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
def test_what_would_teach_something_wrong_is_left_out(ids: list[int], reason: str, tokenizer):
    source = "word2 word3 Anna word4 word5 word6 word7"
    labelled = pseudo_labels(Says(*ids), tokenizer, [source], OPTIONS)
    assert labelled.dropped == Counter({reason: 1} if reason else {})
    assert [len(targets) for targets in labelled.targets] == [0 if reason else 1]
