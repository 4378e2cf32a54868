"""Writes a bundle again and again, each time with another fault. Run with file_faults.so preloaded.

    LD_PRELOAD=file_faults.so python write_with_faults.py FOLDER {directory,es2s} {new,replace}

Prints JSON: how many file-system calls one write makes, what was tried, and every promise that was broken.
"""

import ctypes
import dataclasses
import errno
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from edge_s2s import BundleError
from edge_s2s.bundle import open_bundle, write_bundle
from tiny_bundle import tiny_files, tiny_keys, tiny_manifest

FAULTS = {  # name -> the shim's kind of fault, and errno
    "killed": (3, 0),
    "no space": (1, errno.ENOSPC),
    "I/O error": (1, errno.EIO),
    "interrupted": (1, errno.EINTR),
    "short": (2, 0),
}
WRITTEN, REFUSED, UNTYPED, KILLED = range(4)
KEYS = tiny_keys()
FILES = tiny_files(KEYS)
OLD = tiny_manifest(KEYS)
NEW = dataclasses.replace(OLD, version="2.0.0")
REMOVALS = {"unlink", "rmdir", "opendir", "stat"}  # a fault there may leave a hidden rest

shim = ctypes.CDLL(None)
shim.faults_hit.restype = ctypes.c_char_p


class Operation(NamedTuple):
    """A line of the shim's log."""

    what: str
    path: Path
    more: str


def attempt(path: Path, replace: bool, k: int, fault: str, log: Path | None = None) -> tuple[int, int, str]:
    """Writes the new bundle in a child whose k-th call has a fault: outcome, number of calls, call hit."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reader)
        log_fd = -1 if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        n_open = n_descriptors()
        kind, code = FAULTS.get(fault, (0, 0))
        shim.faults_arm(str(path.parent).encode(), log_fd, k, kind, code)
        try:
            write_bundle(path, NEW, FILES, replace=replace)
            outcome = WRITTEN
        except (OSError, BundleError):
            outcome = REFUSED
        except BaseException:
            outcome = UNTYPED
        n_calls, hit = shim.faults_n_calls(), shim.faults_hit() or b""
        leaked = n_descriptors() != n_open
        os.write(writer, json.dumps([UNTYPED if leaked else outcome, n_calls, hit.decode()]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    outcome, n_calls, hit = json.loads(answer) if answer else (KILLED, 0, "")
    return outcome, n_calls, hit


def n_descriptors() -> int:
    """Open files of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def version(path: Path) -> str | None:
    """Of the whole bundle at a path; None if there is none."""
    if not os.path.lexists(path):
        return None
    try:
        with open_bundle(path) as bundle:
            bundle.golden()
            return bundle.manifest.version
    except (OSError, BundleError) as error:
        return f"broken: {error}"


def what_is_wrong(path: Path, replace: bool) -> str:
    """Why a folder after a crash is not in the state it was in before or the one it should come to."""
    found = version(path)
    if found is None and replace and not path.suffix:  # between the two renames that replace a directory
        found = next((version(old) for old in path.parent.glob(".*.old")), None)
    expected = ["2.0.0", "1.0.0" if replace else None]
    if found not in expected:
        return f"expected one of {expected}, found {found}"
    rest = [file.name for file in path.parent.iterdir() if file != path and not file.name.startswith(".")]
    return f"visible rests: {rest}" if rest else ""


def every_fault(path: Path, replace: bool, start: Callable[[], None]) -> Iterator[str]:
    """Each fault at each call of a write; yields what went wrong."""
    start()
    outcome, n_calls, _ = attempt(path, replace, -1, "")
    if outcome != WRITTEN or n_calls < 15:
        yield f"without a fault: outcome {outcome} after {n_calls} calls"
    counts["calls"] = n_calls
    for fault in FAULTS:
        for k in range(n_calls):
            start()
            outcome, _, hit = attempt(path, replace, k, fault)
            where = f"{fault} at call {k} ({hit})"
            counts[fault] += bool(hit) or outcome == KILLED
            if outcome == UNTYPED:
                yield f"{where}: an error of another kind, or a leaked file descriptor"
            if (outcome == KILLED) != (fault == "killed"):
                yield f"{where}: outcome {outcome}"
            if wrong := what_is_wrong(path, replace):
                yield f"{where}: {wrong}"
            if outcome == WRITTEN and version(path) != "2.0.0":
                yield f"{where}: success was claimed"
            rests = [file.name for file in path.parent.iterdir() if file != path]
            if rests and outcome != KILLED and hit not in REMOVALS:
                yield f"{where}: left {rests}"
            if not path.exists():  # somebody finds the old one where it was put
                for old in path.parent.glob(".*.old"):
                    old.rename(path)
            write_bundle(path, NEW, FILES, replace=path.exists())
            if version(path) != "2.0.0":
                yield f"{where}: the next write did not work"


def every_power_cut(
    path: Path, replace: bool, start: Callable[[], None], operations: list[Operation]
) -> Iterator[str]:
    """Each disk that a power cut during a write may leave; yields what is wrong with it.

    Directories change in order, and whatever fsync did not confirm may be lost: the latest changes of
    directories, and of each file that was not synced its contents, wholly or its second half.
    """
    for i in range(len(operations) + 1):
        done = operations[:i]
        is_change = [op.what in ("create", "mkdir", "rename", "unlink", "rmdir") for op in done]
        synced_folders = {path.parent, *(op.path for op in done if op.what == "mkdir")}
        folder_syncs = [n for n, op in enumerate(done) if op.what == "fsync" and op.path in synced_folders]
        first_cut = max(folder_syncs, default=-1) + 1
        cuts = {n for n in range(first_cut, i) if is_change[n]} | {i}
        for cut in cuts:
            for data in ("kept", "lost", "torn"):
                start()
                replay(done, cut, data, path)
                counts["power cuts"] += 1
                if wrong := what_is_wrong(path, replace):
                    yield f"power cut after {i} operations, directories as after {cut}, data {data}: {wrong}"


def replay(operations: list[Operation], cut: int, data: str, path: Path) -> None:
    """Puts on the disk what is there after `operations` if directory changes from `cut` on were lost."""
    written: Counter[Path] = Counter()
    synced: set[Path] = set()
    for op in operations:
        if op.what == "write":
            written[op.path] += int(op.more)
            synced.discard(op.path)
        elif op.what == "fsync":
            synced.add(op.path)
    for n, op in enumerate(operations):
        if op.what == "create" and n < cut:
            size = written[op.path]
            if op.path not in synced:
                size = {"kept": size, "lost": 0, "torn": size // 2}[data]
            op.path.write_bytes(finished[op.path.name if op.path.parent != path.parent else ""][:size])
        elif n < cut and op.what == "mkdir":
            op.path.mkdir()
        elif n < cut and op.what == "rename":
            op.path.rename(op.more)
        elif n < cut and op.what == "unlink":
            op.path.unlink()
        elif n < cut and op.what == "rmdir":
            op.path.rmdir()


def main() -> None:
    """See above."""
    folder, form, mode = Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3]
    replace = mode == "replace"
    home, template = folder / "home", folder / "template"
    path = home / ("bundle.es2s" if form == "es2s" else "bundle")
    template.mkdir()
    write_bundle(template / path.name, OLD, FILES)

    def start() -> None:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        if replace and path.suffix:
            shutil.copy(template / path.name, path)
        elif replace:
            shutil.copytree(template / path.name, path)

    broken = list(every_fault(path, replace, start))

    def operations_of(sync: Callable[[int], None]) -> list[Operation]:
        start()
        original, os.fsync = os.fsync, sync
        try:
            attempt(path, replace, -1, "", log=folder / "log")
        finally:
            os.fsync = original
        lines = (folder / "log").read_text().splitlines()
        fields = [line.split("\t") for line in lines]
        return [Operation(what, Path(file), more) for what, file, more in fields]

    operations = operations_of(os.fsync)
    if path.suffix:
        finished[""] = path.read_bytes()
    else:
        finished.update({file.name: file.read_bytes() for file in path.iterdir()})
    broken += every_power_cut(path, replace, start, operations)
    n_cuts = counts["power cuts"]
    careless = list(every_power_cut(path, replace, start, operations_of(lambda fd: None)))
    counts["power cuts"] = n_cuts
    json.dump({"counts": counts, "broken": broken, "broken without fsync": len(careless)}, sys.stdout)


counts: Counter[str] = Counter()
finished: dict[str, bytes] = {}  # contents of the new bundle's files; of an .es2s under ""

if __name__ == "__main__":
    main()
