"""Training examples from plain text, without a label.

    rebuild   a noised text -> the text: spans are hidden or gone, sentences are out of order
              (BART, https://arxiv.org/abs/1910.13461)
    gap       a text without its central sentences -> these sentences (PEGASUS, https://arxiv.org/abs/1912.08777);
              some of them stay in, so that copying pays
    select    a text and a question -> its first, last or longest sentence
    repair    a sentence with words that a speaker takes back -> the sentence, or a part of it
              (LARD, https://arxiv.org/abs/2201.05041)

Like every stream, it gives a batch as a function of its index alone.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .examples import Batch, Example, Shape, collate

Random = np.random.Generator
Sentence = list[int]
Task = Callable[[Random, Shape], Example | None]

MAX_TRIES = 1000
HIDDEN = "<extra_id_0>"
BLANK = "▁"  # before a word, in its first piece
SHARE_HIDDEN = 0.3  # of the tokens, for `rebuild`
MEAN_SPAN = 4  # tokens
SHARE_SHUFFLED = 0.3  # of the texts, for `rebuild`
SHARE_CENTRAL = 0.25  # of a text's tokens, for `gap`
SHARE_LEFT_IN = 0.3  # of the central sentences
SELECTED: Mapping[str, Callable[[list[Sentence]], Sentence]] = {
    "first sentence: ": lambda sentences: sentences[0],
    "last sentence: ": lambda sentences: sentences[-1],
    "longest sentence: ": lambda sentences: max(sentences, key=len),
}

INTERREGNA = (  # what a speaker says between a mistake and its correction
    "no", "no no", "no wait", "no sorry", "or", "or rather", "or wait", "rather", "sorry", "wait", "uh", "um",
    "er", "oops", "I mean", "I meant", "actually", "instead", "make that", "scratch that",
)  # fmt: skip
SHARE_RESTARTED = 0.25  # of the repairs: the whole beginning is taken back
MAX_REPARANDUM = 6  # words that are taken back
MAX_RETRACED = 3  # words that are said again, so that one knows where the correction belongs


@dataclass(frozen=True)
class TaskOptions:
    """How often each task is drawn, and the prefix of `gap`, best that of the task to come."""

    rebuild: float = 0.4
    gap: float = 0.5
    select: float = 0.1
    repair: float = 0.0
    gap_prefix: str = "summarize: "


class PretrainTasks:
    """Batches of tasks on documents, which are lists of sentences, or of turns."""

    def __init__(
        self,
        documents: Iterable[Sequence[str]],
        tokenizer: Any,
        shapes: Sequence[Shape],
        options: TaskOptions = TaskOptions(),
        *,
        seed: int,
    ) -> None:
        self._documents = [
            sentences
            for document in documents
            if len(sentences := tokenizer(list(document), add_special_tokens=False)["input_ids"]) > 1
        ]
        if not self._documents:
            raise ValueError("expected at least one text of two sentences or more, found none")
        weights = np.array([sum(map(len, sentences)) for sentences in self._documents], float)
        self._likely = np.cumsum(weights / weights.sum())
        self._shapes, self._options, self._seed = shapes, options, seed
        rebuilt = [shape for shape in shapes if shape.source_length > shape.target_length]
        self._rebuilt = sorted(rebuilt or shapes, key=lambda shape: shape.source_length)[:1]
        self._end = tokenizer.eos_token_id
        self._hidden = tokenizer.convert_tokens_to_ids(HIDDEN)
        self._prefixes = {
            prefix: tokenizer(prefix.rstrip(), add_special_tokens=False)["input_ids"]
            for prefix in (options.gap_prefix, *SELECTED)
        }
        self._interregna = tokenizer(list(INTERREGNA), add_special_tokens=False)["input_ids"]
        self._begins_word = {id_ for piece, id_ in tokenizer.get_vocab().items() if piece.startswith(BLANK)}
        self._tasks: tuple[Task, ...] = (self._rebuild, self._gap, self._select, self._repair)
        shares = np.array([options.rebuild, options.gap, options.select, options.repair])
        self._shares = shares / shares.sum()

    def __call__(self, index: int) -> Batch:
        """The batch of that number."""
        random = np.random.default_rng([self._seed, index])
        task = self._tasks[int(random.choice(len(self._tasks), p=self._shares))]
        shapes = self._rebuilt if task == self._rebuild else self._shapes
        shape = shapes[int(random.integers(len(shapes)))]
        return collate([self._example(random, task, shape) for _ in range(shape.rows)], shape)

    def _example(self, random: Random, task: Task, shape: Shape) -> Example:
        for _ in range(MAX_TRIES):
            if (example := task(random, shape)) is not None:
                return Example([*example.source, self._end], [*example.target, self._end])
        raise ValueError(
            f"expected texts with sentences that fit {shape.source_length} tokens of source and"
            f" {shape.target_length} of target, found none in {MAX_TRIES} tries; give longer shapes, or"
            " texts of shorter sentences"
        )

    def _document(self, random: Random) -> list[Sentence]:
        at = int(np.searchsorted(self._likely, random.random()))
        document: list[Sentence] = self._documents[min(at, len(self._documents) - 1)]
        return document

    def _window(self, random: Random, n_tokens: int) -> list[Sentence]:
        """Neighbouring sentences of a document with at most so many tokens; the first one may be cut."""
        document = self._document(random)
        first = int(random.integers(len(document)))
        taken: list[Sentence] = []
        for sentence in document[first:] + document[:first][::-1]:
            if len(sentence) > n_tokens:
                break
            n_tokens -= len(sentence)
            taken.append(sentence)
        n_behind = min(len(taken), len(document) - first)
        return taken[n_behind:][::-1] + taken[:n_behind]

    def _rebuild(self, random: Random, shape: Shape) -> Example | None:
        room = min(shape.target_length - 1, shape.source_length - 1)
        sentences = self._window(random, room)
        if not sentences:
            return None
        order = np.arange(len(sentences))
        if random.random() < SHARE_SHUFFLED:
            random.shuffle(order)
        source = self._noised(random, [token for at in order for token in sentences[at]])
        return Example(source, [token for sentence in sentences for token in sentence])

    def _noised(self, random: Random, tokens: Sentence) -> Sentence:
        noised: Sentence = []
        at = 0
        while at < len(tokens):
            if random.random() < SHARE_HIDDEN / MEAN_SPAN:
                at += int(random.geometric(1 / MEAN_SPAN))
                if random.random() < 0.5:
                    noised.append(self._hidden)
            else:
                noised.append(tokens[at])
                at += 1
        return noised or [self._hidden]

    def _gap(self, random: Random, shape: Shape) -> Example | None:
        prefix = self._prefixes[self._options.gap_prefix]
        sentences = self._window(random, shape.source_length - len(prefix) - 1)
        chosen = _central(sentences, shape.target_length - 1)
        if len(sentences) < 4 or not chosen:
            return None
        source = list(prefix)
        for at, sentence in enumerate(sentences):
            gone = at in chosen and random.random() > SHARE_LEFT_IN
            source += [self._hidden] if gone else sentence
        return Example(source, [token for at in sorted(chosen) for token in sentences[at]])

    def _select(self, random: Random, shape: Shape) -> Example | None:
        name = list(SELECTED)[int(random.integers(len(SELECTED)))]
        prefix = self._prefixes[name]
        sentences = self._window(random, shape.source_length - len(prefix) - 1)
        if len(sentences) < 3:
            return None
        target = SELECTED[name](sentences)
        if len(target) >= shape.target_length:
            return None
        return Example(prefix + [token for sentence in sentences for token in sentence], target)

    def _repair(self, random: Random, shape: Shape) -> Example | None:
        document = self._document(random)
        room = min(shape.target_length, shape.source_length) - 1
        said = self._phrase(random, document, int(random.integers(min(4, room), room + 1)))
        reparandum = self._phrase(random, document, room)[: int(random.integers(MAX_REPARANDUM + 1))]
        restarted = random.random() < SHARE_RESTARTED
        at = 0 if restarted else int(random.integers(len(said) + 1))
        retraced = min(at, int(random.integers(MAX_RETRACED + 1)))
        interregnum = self._interregna[int(random.integers(len(self._interregna)))]
        words = [*said[:at], *reparandum, interregnum, *said[at - retraced :]]
        source = [token for word in words for token in word]
        if len(said) < 3 or len(source) >= shape.source_length:
            return None
        return Example(source, [token for word in said for token in word])

    def _phrase(self, random: Random, document: Sequence[Sentence], n_tokens: int) -> list[Sentence]:
        """Neighbouring words of a sentence with at most so many tokens, each word as its tokens."""
        words: list[Sentence] = []
        for token in document[int(random.integers(len(document)))]:
            if token in self._begins_word or not words:
                words.append([])
            words[-1].append(token)
        first = int(random.integers(max(1, len(words) - 3)))
        ends = np.cumsum([len(word) for word in words[first:]])
        return words[first : first + int(np.searchsorted(ends, n_tokens, "right"))]


def _central(sentences: Sequence[Sentence], room: int) -> set[int]:
    """The sentences that share most words with the others, up to `room` tokens and a share of the text."""
    words = [set(sentence) for sentence in sentences]
    counts = Counter(word for of_one in words for word in of_one)
    shared = [sum(counts[word] > 1 for word in of_one) for of_one in words]
    scores = [2 * n / (len(of_one) + len(counts)) for n, of_one in zip(shared, words, strict=True)]
    room = min(room, max(int(SHARE_CENTRAL * sum(map(len, sentences))), 12))
    chosen: set[int] = set()
    for at in sorted(range(len(sentences)), key=lambda at: (-scores[at], at)):
        if 6 <= len(sentences[at]) <= room:
            chosen.add(at)
            room -= len(sentences[at])
    return chosen
