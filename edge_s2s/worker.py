"""Work in a thread of its own, while the caller waits in Python and may leave at any time."""

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar

from edge_s2s.decoder import Cancellation

T = TypeVar("T")


def in_thread(
    work: Callable[[Cancellation, Callable[[list[int]], None]], T],
) -> Generator[list[int], None, T]:
    """Runs `work` in a thread; yields what it emits, returns what it returns, raises what it raises.

    The caller stays in Python, so Ctrl-C reaches it at once; leaving the generator cancels the work.
    """
    cancellation = Cancellation()
    messages: SimpleQueue[list[int] | _Returned | _Raised] = SimpleQueue()

    def run() -> None:
        try:
            messages.put(_Returned(work(cancellation, messages.put)))
        except BaseException as error:  # raised again where the result is awaited
            messages.put(_Raised(error))

    thread = threading.Thread(target=run, name="edge_s2s")
    try:
        thread.start()  # in here, as Ctrl-C may come when it runs already
        while isinstance(message := messages.get(), list):
            yield message
        if isinstance(message, _Raised):
            raise message.error
        return message.value  # type: ignore[return-value]  # what work returned
    finally:
        cancellation.cancel()
        if thread.is_alive():
            thread.join()


def run_to_end(generator: Generator[object, None, T]) -> T:
    """Runs a generator to its end and returns its value."""
    try:
        while True:
            next(generator)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        generator.close()


@dataclass(frozen=True)
class _Returned:
    value: object


@dataclass(frozen=True)
class _Raised:
    error: BaseException
