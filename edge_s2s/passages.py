"""Which passages of a text a question is about: Okapi BM25 (Robertson and Zaragoza 2009)."""

import math
import re
from collections import Counter
from collections.abc import Sequence

K1, B = 1.2, 0.75  # how soon a word's count saturates; how much the length of a passage matters
_WORDS = re.compile(r"\w+")


def best_passages(question: str, passages: Sequence[str], n: int) -> list[int]:
    """Indices of at most `n` passages with the highest scores, in their order; all if none has any."""
    scores = scores_of(question, passages)
    best = sorted((i for i, score in enumerate(scores) if score > 0), key=lambda i: (-scores[i], i))
    return sorted(best[:n]) or [*range(len(passages))]


def scores_of(question: str, passages: Sequence[str]) -> list[float]:
    """A score for each passage, 0 for one without any word of the question."""
    asked = {*_words(question)}
    counts = []
    lengths = []
    for passage in passages:
        words = _words(passage)
        counts.append(Counter(word for word in words if word in asked))
        lengths.append(len(words))
    mean = sum(lengths) / max(len(lengths), 1) or 1
    rarity = {word: _rarity(sum(word in count for count in counts), len(passages)) for word in asked}
    return [
        sum(rarity[word] * n * (K1 + 1) / (n + K1 * (1 - B + B * length / mean)) for word, n in count.items())
        for count, length in zip(counts, lengths, strict=True)
    ]


def _rarity(n_with: int, n: int) -> float:
    """Inverse document frequency, never below 0 as in Lucene."""
    return math.log(1 + (n - n_with + 0.5) / (n_with + 0.5))


def _words(text: str) -> list[str]:
    return _WORDS.findall(text.lower())
