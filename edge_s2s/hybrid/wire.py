"""What the protocols have in common: a request in, an answer out, and JSON that nobody is trusted with.

A protocol is a module with the four functions of `Protocol`; `PROTOCOLS` in `client.py` names them.
"""

import json
import math
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from edge_s2s.errors import CloudError
from edge_s2s.hybrid.config import CloudConfig

T = TypeVar("T")
Json: typing.TypeAlias = Mapping[str, object]


@dataclass(frozen=True)
class CloudRequest:
    """A text, and how long its answer may be."""

    text: str
    max_new_tokens: int
    timeout_s: float
    """What is left when the request is sent, for servers that want to know"""


@dataclass(frozen=True)
class CloudAnswer:
    """What an endpoint answered; of a stream, one event of it."""

    text: str
    finish_reason: Literal["eos", "length"] | None = None
    """None: not said"""
    model: str | None = None
    n_tokens: int | None = None
    """Of request and answer, as the endpoint counts them"""


class Protocol(typing.Protocol):
    """How a request is written and an answer read; both raise CloudError `invalid_response`."""

    STREAMS: bool
    """Whether answers can come in pieces"""

    def request_path(self, config: CloudConfig, *, stream: bool) -> str:
        """After `base_url`."""

    def request_body(self, config: CloudConfig, request: CloudRequest, *, stream: bool) -> Json:
        """What is sent."""

    def read_answer(self, config: CloudConfig, document: Json) -> CloudAnswer:
        """A whole answer."""

    def read_event(self, config: CloudConfig, document: Json) -> CloudAnswer:
        """One event of a stream."""


def invalid(message: str) -> CloudError:
    """The error of an answer that is not what its protocol says."""
    return CloudError("invalid_response", message)


def parse(data: bytes) -> Json:
    """A JSON object: UTF-8, unique keys, finite numbers. An `error` in it is a CloudError."""
    try:
        document = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise invalid(f"the answer is not JSON: {type(error).__name__}") from error
    if not isinstance(document, dict):
        raise invalid(f"the answer is not a JSON object but {type(document).__name__}")
    if document.get("error"):
        raise invalid(f"the endpoint reports an error: {error_message(document)}")
    return document


def error_message(document: Json) -> str:
    """What an error of any of the protocols says, shortened and with control characters escaped."""
    error = document.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return ascii(message)[:200] if isinstance(message, str) else "no message"


def get(document: Json, name: str, kind: type[T]) -> T:
    """A value of an answer, which must be there and of this type."""
    value = document.get(name)
    if not isinstance(value, kind):
        raise invalid(f'the answer has no "{name}" of type {kind.__name__}')
    return value


def only(document: Json, name: str) -> Json:
    """The first object of a list."""
    values = get(document, name, list)
    if not values or not isinstance(values[0], dict):
        raise invalid(f'"{name}" of the answer has no object')
    first: Json = values[0]
    return first


def optional_str(document: Json, name: str) -> str | None:
    """A text that may be left out."""
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(f'"{name}" of the answer is not a text')
    return value


def events(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The data of server-sent events (HTML standard, 9.2), up to `[DONE]` or the end."""
    buffer, searched = bytearray(), 0
    data: list[bytes] = []
    for chunk in chunks:
        buffer += chunk
        start = 0
        while (end := buffer.find(b"\n", max(start, searched))) >= 0:
            line = bytes(buffer[start:end]).removesuffix(b"\r")
            start = end + 1
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                if (event := b"\n".join(data)) == b"[DONE]":
                    return
                yield event
                data = []
        del buffer[:start]
        searched = len(buffer)
    if data and (event := b"\n".join(data)) != b"[DONE]":
        yield event


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("a key occurs twice")
    return document


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError("a number is not finite")
    return number
