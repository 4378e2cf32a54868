"""`edge-s2s generate`: JSON lines in, the same lines with results out, in order, each once.

A row has "source" (text) or "input_ids" (token ids). It may have "decoder_input_ids", with which its result
begins, and "options", an object with those of GenerationOptions that are other for it than for the rest. Its
output is the row with text, token_ids, score, finish_reason and origin; or with "error", a sentence, where
there can be no result. Finished rows are
appended, in one write for each batch, so after a crash at most the last line is torn. `resume` checks that
the complete rows belong to the input, cuts the torn one off, and goes on. Two processes never write one file.
"""

import dataclasses
import fcntl
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

from edge_s2s.constrained import Constraint
from edge_s2s.generation import Generation, GenerationOptions
from edge_s2s.model import Seq2SeqModel

BATCH_SIZE = 8
MAX_DEPTH = 100  # of lists and objects in each other: Python reads some that are too deep for it to write

_RESULT = ("text", "token_ids", "score", "finish_reason", "origin")
_OUTPUT = {*_RESULT, "error"}
_OPTION_NAMES = {field.name for field in dataclasses.fields(GenerationOptions)}

Values: TypeAlias = dict[str, object]
Progress: TypeAlias = Callable[[int], None]
"""Gets the number of rows that have just been finished."""


class Row(NamedTuple):
    """An input row; where there is an `error`, it cannot be used."""

    values: Values
    error: str | None = None
    line: int = 0


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
    constraint: Constraint | None = None,
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
            raise ValueError(
                f"row {number} of the output does not belong to row {number} of the input; "
                "give the output another name"
            )
        n_rows += 1
        n_failed += "error" in answer
    progress(n_rows)
    while batch := list(islice(rows, BATCH_SIZE)):
        answers = _answer(
            _Call(model, truncation, constraint), [_Request.of(row, options, model) for row in batch]
        )
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
            values = json.loads(line.decode("utf-8-sig"), parse_float=_number, parse_constant=_number)
        except UnicodeDecodeError as error:
            yield Row({}, f"line {number} is not UTF-8 at byte {error.start}")
        except (ValueError, RecursionError) as error:
            yield Row({}, f"line {number} is not JSON: {error}")
        else:
            if not isinstance(values, dict):
                yield Row({}, f"line {number}: expected a JSON object, found {type(values).__name__}")
            elif _is_deeper(values, MAX_DEPTH):
                yield Row({}, f"line {number}: expected at most {MAX_DEPTH} nested lists and objects")
            else:
                yield Row(values, _wrong_types(values), number)


def _wrong_types(values: Values) -> str | None:
    """What is wrong with what a row asks for, as far as its types tell; the model checks the rest."""
    if ("source" in values) == ("input_ids" in values):
        return 'expected one of "source" and "input_ids"'
    if "source" in values:
        source = values["source"]
        wrong = None if isinstance(source, str) else f"source: expected text, found {type(source).__name__}"
    else:
        wrong = _wrong_ids("input_ids", values["input_ids"])
    prefix = values.get("decoder_input_ids", "")
    return wrong or (None if isinstance(prefix, str) else _wrong_ids("decoder_input_ids", prefix))


def _wrong_ids(name: str, token_ids: object) -> str | None:
    if not isinstance(token_ids, list):
        return f"{name}: expected a list of integers, found {type(token_ids).__name__}"
    wrong = next((type(i).__name__ for i in token_ids if type(i) is not int), None)  # a bool is an int, too
    return wrong and f"{name}: expected a list of integers, found {wrong} in it"


class _Request(NamedTuple):
    """A row, and the options for it."""

    values: Values
    options: GenerationOptions
    error: str | None

    @classmethod
    def of(cls, row: Row, options: GenerationOptions, model: Seq2SeqModel) -> "_Request":
        """`options` give way to the row's own, which are checked here."""
        if row.error is not None or "options" not in row.values:
            return cls(row.values, options, row.error)
        try:
            options = _merged(options, row.values["options"])
            options.complete(model.manifest.generation, model.manifest.dimensions)
        except (TypeError, ValueError) as error:
            return cls(row.values, options, f"line {row.line}: options: {error}")
        return cls(row.values, options, None)


def _merged(options: GenerationOptions, own: object) -> GenerationOptions:
    if not isinstance(own, dict):
        raise TypeError(f"expected an object, found {type(own).__name__}")
    if unknown := [name for name in own if name not in _OPTION_NAMES]:
        raise ValueError(f"{unknown[0]}: no such option; the names are those of GenerationOptions")
    given = GenerationOptions(**own)
    if given.num_return_sequences not in (None, 1):
        raise ValueError("num_return_sequences: expected 1, as a row has one result")
    changes = {name: value for name in own if (value := getattr(given, name)) is not None}
    return dataclasses.replace(options, **changes)


@contextmanager
def open_output(path: Path, *, resume: bool) -> Iterator[tuple[BinaryIO, Iterator[Values]]]:
    """The file to append to, and the rows that it has already; `resume` cuts off a torn last line.

    Without `resume` the file must not exist. It is locked: a second writer gets a ValueError.
    """
    if not resume and path.exists():
        raise ValueError(f"{path} exists; --resume goes on with it")
    with path.open("a+b" if resume else "x+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{path}: another process writes it; wait for its end") from error
        file.seek(0)
        yield file, _complete_rows(file)


def _complete_rows(file: BinaryIO) -> Iterator[Values]:
    """The rows of complete lines. At the end of them, and not before, a torn line is cut off."""
    size = 0
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            if not line.startswith(b"{"):  # no file of ours: leave it alone
                raise ValueError(f"line {number} of the output is no row; give the output another name")
            file.truncate(size)
            return
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"line {number} of the output is not JSON: {error}; give the output another name"
            ) from error
        size += len(line)
        yield values


def _answers(answer: object, row: Row | None) -> bool:
    """Whether `answer` is an output row for `row`."""
    if row is None or not isinstance(answer, dict) or not ("error" in answer or "text" in answer):
        return False
    return {k: v for k, v in answer.items() if k not in _OUTPUT} == {
        k: v for k, v in row.values.items() if k not in _OUTPUT
    }


class _Call(NamedTuple):
    """What is the same for all rows."""

    model: Seq2SeqModel
    truncation: bool
    constraint: Constraint | None


def _answer(call: _Call, requests: list[_Request]) -> list[Values]:
    """Answers in the order of the requests; those with equal options are decoded together."""
    alike: dict[GenerationOptions, list[_Request]] = {}
    for request in requests:
        if request.error is None:
            alike.setdefault(request.options, []).append(request)
    answers = {options: iter(_answer_alike(call, group)) for options, group in alike.items()}
    return [
        next(answers[request.options]) if request.error is None else _failed(request) for request in requests
    ]


def _answer_alike(call: _Call, requests: list[_Request]) -> list[Values]:
    try:
        return _generate(call, requests)
    except (TypeError, ValueError) as error:
        if len(requests) == 1:
            return [_failed(requests[0]._replace(error=str(error)))]
        alone = [_answer_alike(call, [request]) for request in requests]  # tells which it was
        return [answer for [answer] in alone]


def _generate(call: _Call, requests: list[_Request]) -> list[Values]:
    rows = [request.values for request in requests]
    results = call.model.generate(
        [row["source"] if "source" in row else row["input_ids"] for row in rows],  # type: ignore[arg-type]  # checked there
        requests[0].options,
        truncation=call.truncation,
        batch_size=BATCH_SIZE,
        constraint=call.constraint,
        decoder_input_ids=[row.get("decoder_input_ids") for row in rows],  # type: ignore[misc]  # there, too
    )
    return [_finished(row, best) for row, (best, *_) in zip(rows, results, strict=True)]


def _finished(row: Values, generation: Generation) -> Values:
    values = {name: value for name, value in row.items() if name != "error"}
    values |= {name: getattr(generation, name) for name in _RESULT}
    rare = {"truncated": generation.truncated, "reasons": generation.reasons}
    return values | {name: value for name, value in rare.items() if value}


def _failed(request: _Request) -> Values:
    return {**request.values, "error": request.error}


def _to_line(values: Values) -> bytes:
    try:
        return json.dumps(values, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a character, which JSON can only escape
        return json.dumps(values, allow_nan=False).encode() + b"\n"


def _number(text: str) -> float:
    """A fraction. Python reads NaN and 1e999, too, but JSON has no way to write them."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number")
    return value


def _is_deeper(values: Values, depth: int) -> bool:
    level: list[object] = [values]
    for _ in range(depth):
        lists = [value for value in level if isinstance(value, list)]
        objects = [value for value in level if isinstance(value, dict)]
        level = [*chain.from_iterable(lists), *chain.from_iterable(o.values() for o in objects)]
    return bool(level)
