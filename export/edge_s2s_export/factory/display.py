"""What a build shows: a line for each stage, and a progress bar with loss, speed and time left."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from tqdm import tqdm

from .training import Progress


class Display:
    """Writes to a stream; bars only where it is a terminal, else a line each now and then."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream

    def stage(self, name: str, what: str) -> None:
        """A stage begins, goes on, is done or was there already."""
        self.say(f"{name:<28} {what}")

    def say(self, line: str) -> None:
        """A line of its own."""
        print(line, file=self._stream, flush=True)

    @contextmanager
    def training(self, name: str, n_steps: int) -> Iterator[Callable[[Progress], None]]:
        """Gives the function that shows where a run is."""
        with tqdm(total=n_steps, desc=name, unit="step", file=self._stream, mininterval=1.0) as bar:

            def show(progress: Progress) -> None:
                bar.set_postfix_str(
                    f"loss {progress.loss:.3f}, valid {progress.valid_loss:.3f},"
                    f" wrong source {progress.wrong_source_loss:.3f},"
                    f" {progress.tokens_per_second / 1000:.1f} k tokens/s",
                    refresh=False,
                )
                bar.update(progress.step - bar.n)

            yield show

    @contextmanager
    def counting(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Gives the function that is told how many are done."""
        with tqdm(total=total, desc=name, unit="row", file=self._stream, mininterval=1.0) as bar:

            def show(n: int) -> None:
                bar.update(n - bar.n)

            yield show
