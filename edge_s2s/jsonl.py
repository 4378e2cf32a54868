"""`edge-s2s generate`: JSON lines in, the same lines with results out, in order, each once.

A row has "source" (text) or "input_ids" (token ids). Its output is the row with text, token_ids, score,
finish_reason and origin; or with "error", a sentence, where there can be no result. Finished rows are
appended, in one write for each batch, so after a crash at most the last line is torn. `resume` checks that
the complete rows belong to the input, cuts the torn one off, and goes on.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

from edge_s2s.generation import Generation, GenerationOptions
from edge_s2s.model import Seq2SeqModel

BATCH_SIZE = 8

_RESULT = ("text", "token_ids", "score", "finish_reason", "origin")
_OUTPUT = {*_RESULT, "error"}

Values: TypeAlias = dict[str, object]
Progress: TypeAlias = Callable[[int], None]
"""Gets the number of rows that have just been finished."""


class Row(NamedTuple):
    """An input row; where there is an `error`, it cannot be used."""

    values: Values
    error: str | None = None


class Counts(NamedTuple):
    """How many rows there are in the output, and how many of them have an error."""

    rows: int
    failed: int


def generate_rows(
    model: Seq2SeqModel,
    lines: Iterable[bytes],
    out: BinaryIO,
    options: GenerationOptions,
    *,
    truncation: bool = False,
    kept: Iterable[Values] = (),
    progress: Progress = lambda n_rows: None,
) -> Counts:
    """Writes a line to `out` for each row of `lines`, except for the first ones, which `kept` answers.

    Raises ValueError if `kept` are not answers to the first rows.
    """
    rows = read_rows(lines)
    n_rows = n_failed = 0
    for number, answer in enumerate(kept, 1):
        if not _answers(answer, next(rows, None)):
            raise ValueError(f"row {number} of the output does not belong to row {number} of the input")
        n_rows += 1
        n_failed += "error" in answer
    progress(n_rows)
    while batch := list(islice(rows, BATCH_SIZE)):
        answers = _answer(model, batch, options, truncation)
        out.write(b"".join(_to_line(answer) for answer in answers))
        out.flush()
        n_rows += len(answers)
        n_failed += sum("error" in answer for answer in answers)
        progress(len(answers))
    return Counts(n_rows, n_failed)


def read_rows(lines: Iterable[bytes]) -> Iterator[Row]:
    """The rows of lines that are not blank."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse_constant)
        except UnicodeDecodeError as error:
            yield Row({}, f"line {number} is not UTF-8 at byte {error.start}")
        except (ValueError, RecursionError) as error:
            yield Row({}, f"line {number} is not JSON: {error}")
        else:
            if not isinstance(values, dict):
                yield Row({}, f"line {number}: expected a JSON object, found {type(values).__name__}")
            elif ("source" in values) == ("input_ids" in values):
                yield Row(values, 'expected one of "source" and "input_ids"')
            else:
                yield Row(values)


@contextmanager
def open_output(path: Path, *, resume: bool) -> Iterator[tuple[BinaryIO, Iterator[Values]]]:
    """The file to append to, and the rows that it has already; `resume` cuts off a torn last line.

    Without `resume` the file must not exist.
    """
    if not resume and path.exists():
        raise ValueError(f"{path} exists; --resume goes on with it")
    with path.open("a+b" if resume else "x+b") as file:
        file.seek(0)
        yield file, _complete_rows(file)


def _complete_rows(file: BinaryIO) -> Iterator[Values]:
    """The rows of complete lines. At the end of them, and not before, a torn line is cut off."""
    size = 0
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            if not line.startswith(b"{"):  # no file of ours: leave it alone
                raise ValueError(f"line {number} of the output is no row")
            file.truncate(size)
            return
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} of the output is not JSON: {error}") from error
        size += len(line)
        yield values


def _answers(answer: object, row: Row | None) -> bool:
    """Whether `answer` is an output row for `row`."""
    if row is None or not isinstance(answer, dict) or not ("error" in answer or "text" in answer):
        return False
    return {k: v for k, v in answer.items() if k not in _OUTPUT} == {
        k: v for k, v in row.values.items() if k not in _OUTPUT
    }


def _answer(
    model: Seq2SeqModel, rows: list[Row], options: GenerationOptions, truncation: bool
) -> list[Values]:
    good = [row for row in rows if row.error is None]
    try:
        results = iter(_generate(model, good, options, truncation))
        return [next(results) if row.error is None else _failed(row, row.error) for row in rows]
    except (TypeError, ValueError):  # of some row: one at a time tells which
        return [_answer_alone(model, row, options, truncation) for row in rows]


def _answer_alone(model: Seq2SeqModel, row: Row, options: GenerationOptions, truncation: bool) -> Values:
    if row.error is not None:
        return _failed(row, row.error)
    try:
        [answer] = _generate(model, [row], options, truncation)
    except (TypeError, ValueError) as error:
        return _failed(row, str(error))
    return answer


def _generate(
    model: Seq2SeqModel, rows: list[Row], options: GenerationOptions, truncation: bool
) -> list[Values]:
    sources = [row.values["source"] if "source" in row.values else row.values["input_ids"] for row in rows]
    results = model.generate(sources, options, truncation=truncation, batch_size=BATCH_SIZE)  # type: ignore[arg-type]  # checked there
    return [_finished(row, best) for row, (best, *_) in zip(rows, results, strict=True)]


def _finished(row: Row, generation: Generation) -> Values:
    values = {name: value for name, value in row.values.items() if name != "error"}
    values |= {name: getattr(generation, name) for name in _RESULT}
    return values | {"truncated": True} if generation.truncated else values


def _failed(row: Row, error: str) -> Values:
    return {**row.values, "error": error}


def _to_line(values: Values) -> bytes:
    try:
        return json.dumps(values, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a character, which JSON can only escape
        return json.dumps(values, allow_nan=False).encode() + b"\n"


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")
