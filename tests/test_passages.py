"""BM25: the formula, and what comes of it."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_s2s.passages import best_passages, scores_of

PASSAGES = ["the cat sat on the mat", "a dog, a dog, a dog", "cats and dogs", "the weather in Rome: the cat!"]
WORDS = st.lists(st.sampled_from("abcde"), max_size=12).map(" ".join)


def test_passages_come_in_their_order_and_only_those_with_a_word_of_the_question():
    assert best_passages("Where is the CAT?", PASSAGES, 9) == [0, 3]
    assert best_passages("dog", PASSAGES, 9) == [1]
    assert best_passages("cat dog", PASSAGES, 2) == [0, 1]


@pytest.mark.parametrize("question", ["", "?!", "elephants"])
def test_a_question_that_no_passage_answers_chooses_all(question: str):
    assert best_passages(question, PASSAGES, 2) == [0, 1, 2, 3]


@given(WORDS, st.lists(WORDS, min_size=1, max_size=6))
def test_scores_are_those_of_the_paper(question: str, passages: list[str]):
    documents = [passage.split() for passage in passages]
    mean = sum(map(len, documents)) / len(documents) or 1
    for score, words in zip(scores_of(question, passages), documents, strict=True):
        expected = 0.0
        for term in {*question.split()}:
            n_with = sum(term in other for other in documents)
            idf = math.log(1 + (len(documents) - n_with + 0.5) / (n_with + 0.5))
            tf = Counter(words)[term]
            expected += idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len(words) / mean))
        assert score == pytest.approx(expected)


def test_no_passages_have_no_best_ones():
    assert best_passages("a", [], 3) == []
