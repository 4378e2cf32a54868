"""Each task asks for what it says, fits its shape, and is a function of its index."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from edge_s2s_export.factory.examples import IGNORED, PAD, Batch, Shape
from edge_s2s_export.factory.pretrain_tasks import INTERREGNA, SELECTED, PretrainTasks, TaskOptions

END, HIDDEN = 1, 2
SHAPE = Shape(rows=8, source_length=64, target_length=40)
DOCUMENTS = [
    [
        " ".join(f"w{document}-{sentence}-{word % 9}" for word in range(7 + sentence % 4))
        for sentence in range(9)
    ]
    for document in range(12)
]


class Words:
    """A tokenizer with a token for each word."""

    eos_token_id = END

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def __call__(self, texts, **_options):
        if isinstance(texts, str):
            return {"input_ids": self.tokens(texts)}
        return {"input_ids": [self.tokens(text) for text in texts]}

    def tokens(self, text: str) -> list[int]:
        return [self.ids.setdefault(word, len(self.ids) + 3) for word in text.split()]

    def get_vocab(self) -> dict[str, int]:
        return {f"▁{word}": id_ for word, id_ in self.ids.items()}

    def convert_tokens_to_ids(self, token: str) -> int:
        assert token == "<extra_id_0>"
        return HIDDEN


def tasks(**shares: float) -> SimpleNamespace:
    words = Words()
    options = TaskOptions(**{"rebuild": 0.0, "gap": 0.0, "select": 0.0, **shares})
    return SimpleNamespace(stream=PretrainTasks(DOCUMENTS, words, [SHAPE], options, seed=3), words=words)


def pairs(batch: Batch) -> list[tuple[list[int], list[int]]]:
    found = []
    for source, target in zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True):
        source = [token for token in source if token != PAD]
        target = [token for token in target if token != IGNORED]
        assert source.pop() == target.pop() == END
        assert END not in source + target
        found.append((source, target))
    return found


def sentences(words: Words) -> list[list[int]]:
    return [words.tokens(sentence) for document in DOCUMENTS for sentence in document]


def joined(target: list[int], words: Words) -> list[tuple[int, ...]]:
    """The sentences that a target consists of."""
    rest, found = list(target), []
    while rest:
        match = [sentence for sentence in sentences(words) if rest[: len(sentence)] == sentence]
        assert match, "a target that is no sequence of sentences"
        found.append(tuple(max(match, key=len)))
        rest = rest[len(found[-1]) :]
    return found


def test_rebuild_hides_some_of_the_source_and_asks_for_all_of_it():
    given = tasks(rebuild=1.0)
    n_source = n_target = 0
    for index in range(5):
        for source, target in pairs(given.stream(index)):
            joined(target, given.words)
            assert not Counter(token for token in source if token != HIDDEN) - Counter(target)
            n_source += sum(token != HIDDEN for token in source)
            n_target += len(target)
    assert 0.5 < n_source / n_target < 0.9


def test_gap_asks_for_sentences_of_which_most_are_gone():
    given = tasks(gap=1.0)
    prefix = given.words.tokens("summarize:")
    n_there = n_asked = 0
    for index in range(10):
        for source, target in pairs(given.stream(index)):
            assert source[: len(prefix)] == prefix
            there = "".join(f" {token}" for token in source)
            for sentence in joined(target, given.words):
                n_asked += 1
                n_there += "".join(f" {token}" for token in sentence) in there
            assert source.count(HIDDEN) <= len(joined(target, given.words))
    assert n_asked > 50
    assert 0.1 < n_there / n_asked < 0.5


def test_select_asks_for_the_sentence_that_the_prefix_names():
    given = tasks(select=1.0)
    seen = set()
    for index in range(5):
        for source, target in pairs(given.stream(index)):
            for prefix, chosen in SELECTED.items():
                beginning = given.words.tokens(prefix)
                if source[: len(beginning)] == beginning:
                    seen.add(prefix)
                    window = [list(one) for one in joined(source[len(beginning) :], given.words)]
                    assert target == chosen(window)
    assert seen == set(SELECTED)


def test_repair_takes_back_what_stands_before_an_interregnum():
    given = tasks(repair=1.0)
    interregna = [given.words.tokens(text) for text in INTERREGNA]
    spoken = [f" {' '.join(map(str, sentence))} " for sentence in sentences(given.words)]
    n_restarted = n_retraced = 0
    for index in range(20):
        for source, target in pairs(given.stream(index)):
            assert any(f" {' '.join(map(str, target))} " in sentence for sentence in spoken)
            repairs = [  # how many words of the target stand before the mistake, and of them again behind it
                (at, retraced)
                for at in range(len(target) + 1)
                for retraced in range(at + 1)
                for interregnum in interregna
                if source[:at] == target[:at] and ends_in(source[at:], interregnum + target[at - retraced :])
            ]
            assert repairs, "a source from which its target cannot be told"
            n_restarted += max(at for at, _ in repairs) == 0
            n_retraced += any(retraced for _, retraced in repairs)
    assert n_restarted > 160 * 0.15
    assert n_retraced > 160 * 0.3


def ends_in(tokens: list[int], end: list[int]) -> bool:
    return tokens[max(0, len(tokens) - len(end)) :] == end


def test_repair_breaks_off_between_words():
    class Halves(Words):
        """Each word is two tokens, of which the first begins it."""

        def tokens(self, text: str) -> list[int]:
            return [
                self.ids.setdefault(half, len(self.ids) + 3)
                for word in text.split()
                for half in (word, f"|{word}")
            ]

        def get_vocab(self) -> dict[str, int]:
            return {half if half[0] == "|" else f"▁{half}": id_ for half, id_ in self.ids.items()}

    words = Halves()
    stream = PretrainTasks(DOCUMENTS, words, [SHAPE], TaskOptions(0.0, 0.0, 0.0, repair=1.0), seed=3)
    names = {id_: half for half, id_ in words.ids.items()}
    for source, target in pairs(stream(0)):
        for text in (source, target):
            halves = [names[token] for token in text]
            assert halves[1::2] == [f"|{half}" for half in halves[::2]]


def test_a_batch_is_a_function_of_seed_and_index():
    first, second = tasks(rebuild=1, gap=1, select=1).stream, tasks(rebuild=1, gap=1, select=1).stream
    later = second(7)
    assert torch.equal(first(7).input_ids, later.input_ids)
    assert torch.equal(first(7).labels, later.labels)
    assert not torch.equal(first(8).input_ids, later.input_ids)


def test_rebuild_takes_the_shortest_shape_that_holds_its_targets():
    shapes = [Shape(2, 32, 40), Shape(3, 64, 40), Shape(4, 128, 40)]
    stream = PretrainTasks(DOCUMENTS, Words(), shapes, TaskOptions(1.0, 0.0, 0.0), seed=3)
    assert all(stream(index).input_ids.shape == (3, 64) for index in range(6))


def test_texts_that_fit_no_shape_are_refused():
    stream = PretrainTasks(DOCUMENTS, Words(), [Shape(2, 6, 6)], TaskOptions(1.0, 0.0, 0.0), seed=3)
    with pytest.raises(ValueError, match="sentences that fit 6 tokens of source"):
        stream(0)


def test_texts_of_one_sentence_are_refused():
    with pytest.raises(ValueError, match="two sentences or more"):
        PretrainTasks([["only one"]], Words(), [SHAPE], seed=0)
