"""What a model has to beat: outputs that anybody gets without one."""

import random
import re
from collections.abc import Callable, Sequence

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def lead(source: str, n_sentences: int) -> str:
    """The first lines of a dialogue, or the first sentences of a text in one line."""
    lines = [line for line in source.splitlines() if line.strip()]
    sentences = lines if len(lines) > 1 else _SENTENCE_END.split(source.strip())
    return " ".join(sentences[:n_sentences])


def shuffled(outputs: Sequence[str]) -> list[str]:
    """A model's outputs, each for another source: what its phrases alone are worth."""
    order = [*range(len(outputs))]
    random.Random(0).shuffle(order)
    places = {place: order[(at + 1) % len(order)] for at, place in enumerate(order)}
    return [outputs[places[i]] for i in range(len(outputs))]


def baselines(sources: Sequence[str], outputs: Sequence[str], template: str) -> dict[str, list[str]]:
    """Name -> outputs. `outputs` are the model's, `template` a sentence that fits everything."""
    of_source: dict[str, Callable[[str], str]] = {
        "source": lambda source: source,
        "lead-1": lambda source: lead(source, 1),
        "lead-3": lambda source: lead(source, 3),
    }
    if template:
        of_source["template"] = lambda _source: template
    named = {name: [make(source) for source in sources] for name, make in of_source.items()}
    return {**named, "shuffled": shuffled(outputs)}
