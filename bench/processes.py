"""The processes that are measured, each with one peer in it; all but the one that is asked stand still."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

from bench import ROOT
from bench.peers import Setting

WORKER = (sys.executable, "-m", "bench.worker")  # in the folder ROOT


def environment(threads: int) -> dict[str, str]:
    """Of a worker: as many threads in every library, no look-up in a network, the folder ROOT importable."""
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"},
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)),
        **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), "1"),
        "TOKENIZERS_PARALLELISM": "false",
    }


class PeerError(RuntimeError):
    """A peer's process ended, or its answer is not what was asked for."""


@dataclass(frozen=True)
class Entrant:
    """Who takes part: a peer, its files, and how it is set."""

    label: str
    peer: str
    folder: Path
    threads: int
    setting: Setting = field(default_factory=dict)

    def start(self) -> "Process":
        """Its process, once the model is loaded."""
        variables = {name: value for name, value in self.setting.items() if name.isupper()}
        arguments = [f"{name}={value}" for name, value in self.setting.items() if not name.isupper()]
        command = [*WORKER, self.peer, str(self.folder), str(self.threads), *arguments]
        # A pipe that nobody reads would stop who writes much.
        errors = tempfile.TemporaryFile()  # noqa: SIM115  # `Process` closes it
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(self.threads) | variables,
            stdin=pipe,
            stdout=pipe,
            stderr=errors,
            text=True,
        )
        return Process(self, process, errors)


class Process:
    """A running entrant. Use it as a context manager."""

    def __init__(self, entrant: Entrant, process: subprocess.Popen[str], errors: IO[bytes]) -> None:
        self.entrant = entrant
        self.process = process
        self._errors = errors
        self.hello = self._read()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    def ask(self, call: str, **arguments: Any) -> dict[str, Any]:
        """Wakes it up, has it do one call, and stops it again: threads that spin after work stop, too."""
        assert self.process.stdin is not None
        texts = _tokens(self.entrant.folder)
        if texts and "sources" in arguments:
            arguments["sources"] = [[texts[token] for token in source] for source in arguments["sources"]]
        with self.awake():
            with contextlib.suppress(BrokenPipeError):  # `_read` says why
                self.process.stdin.write(json.dumps({"call": call, **arguments}) + "\n")
                self.process.stdin.flush()
            answer = self._read()
        if texts and call == "generate":
            ids = _ids(self.entrant.folder)
            answer["result"] = [[ids[text] for text in row] for row in answer["result"]]
        return answer

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """It runs within the block alone."""
        self.process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGSTOP)

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.communicate()
            self._errors.seek(0)
            message = self._errors.read().decode(errors="replace")
            last = message.strip().splitlines()[-1:] or ["it said nothing"]
            raise PeerError(f"{self.entrant.label} ended with {self.process.returncode}: {last[0]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def __enter__(self) -> "Process":
        self.process.send_signal(signal.SIGSTOP)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.communicate()
        self._errors.close()


@cache
def _tokens(folder: Path) -> list[str] | None:
    file = folder / "tokens.json"
    found: list[str] | None = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    return found


@cache
def _ids(folder: Path) -> dict[str, int]:
    return {text: token for token, text in enumerate(_tokens(folder) or [])}


class Neighbour:
    """A process that keeps one core busy, while it may."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        self._process.send_signal(signal.SIGSTOP)
        self.pid = self._process.pid

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Busy within the block."""
        self._process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> "Neighbour":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.wait()
