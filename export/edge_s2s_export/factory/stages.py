"""Stages: functions of hashed inputs that fill a folder, each run once and able to go on after a kill.

The folder of a finished stage is `NAME-HASH` in the work folder, where HASH stands for everything that its
contents depend on. Until then it is `.NAME-HASH`: what a stage finds there is its own unfinished work. It
takes its final name in one step, so a folder with that name is complete, whenever a process was killed.

Under `torchrun` or `accelerate launch` the first process does the work. The others wait for its folders, but
for the stages that all of them fill together: training. They need the same file system.
"""

import errno
import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from pathlib import Path

from edge_s2s_export.errors import ExportError

LOCK = "lock"
MIN_FREE_BYTES = 16 << 20
_POLL_SECONDS = 0.1
_PACKAGES = ("edge_s2s", "torch", "transformers", "tokenizers", "onnxruntime")


def is_main_process() -> bool:
    """Of the processes of one launch, as torchrun and Accelerate number them."""
    return int(os.environ.get("RANK", "0")) == 0


class Work:
    """A work folder; one process, or one launch of several, uses it at a time."""

    def __init__(self, folder: Path, *, on_stage: Callable[[str, str], None] = lambda _name, _what: None):
        """`on_stage` gets a stage's name and "cached", "begins", "goes on" or "done"."""
        self.folder = folder
        self._on_stage = on_stage
        self._known: set[Path] = set()  # that were spoken of
        self.is_main = is_main_process()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder; raises `ExportError` if another process works in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ExportError(
                    f"{self.folder}: another process builds here; wait for it, or give another --work"
                ) from error
            yield

    def stage(
        self,
        name: str,
        inputs: Mapping[str, object],
        make: Callable[[Path], None],
        *,
        together: bool = False,
    ) -> Path:
        """The folder that `make` fills from `inputs`; if it is there already, nothing is done.

        `inputs` are numbers, texts, dataclasses, lists and mappings of them, and folders of other stages,
        which count by their hash. `together`: all processes of a launch call `make`, in which only the first
        one writes. Raises `ExportError` if the disk is full.
        """
        done = self.folder / f"{name}-{_hash(name, inputs)}"
        if done.is_dir():
            if done not in self._known:
                self._on_stage(name, "cached")
                self._known.add(done)
            return done
        unfinished = done.with_name(f".{done.name}")
        if not self.is_main:
            if together:
                _wait_for(lambda: unfinished.is_dir() or done.is_dir())
                if not done.is_dir():
                    make(unfinished)
            _wait_for(done.is_dir)
            return done
        self._on_stage(name, "goes on" if unfinished.is_dir() else "begins")
        with _full_disk_is_one_sentence(self.folder):
            unfinished.mkdir(exist_ok=True)
            make(unfinished)
            _sync(unfinished)
            unfinished.rename(done)
            _sync(self.folder)
        self._known.add(done)
        self._on_stage(name, "done")
        return done


def _wait_for(is_there: Callable[[], bool]) -> None:
    """Until the first process is so far; should it fail, its launcher ends the others."""
    while not is_there():
        time.sleep(_POLL_SECONDS)


def _hash(name: str, inputs: Mapping[str, object]) -> str:
    versions = {package: version(package) for package in _PACKAGES}
    text = json.dumps([name, versions, _plain(inputs)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return value.name  # of another stage: its hash is in it
    if is_dataclass(value) and not isinstance(value, type):
        return {type(value).__name__: _plain(asdict(value))}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a stage's input: expected data, found {type(value).__name__}")


@contextmanager
def _full_disk_is_one_sentence(folder: Path) -> Iterator[None]:
    """Libraries say it in many ways: torch raises a RuntimeError, safetensors an error of its own."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        if _says_full(error) or _is_full(folder):
            raise ExportError(
                f"{folder}: no space left for this stage; free some, or give another --work, and run the same"
                " command again: finished stages and checkpoints are kept"
            ) from error
        raise


def _says_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _is_full(folder: Path) -> bool:
    """By asking for space: quotas and limits count, too."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, MIN_FREE_BYTES)
    except OSError as error:
        return _says_full(error)
    return False


def _sync(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
