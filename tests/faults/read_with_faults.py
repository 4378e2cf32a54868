"""Opens a bundle again and again, each time with another fault. Run with file_faults.so preloaded.

    LD_PRELOAD=file_faults.so python read_with_faults.py BUNDLE

Prints JSON: how often each fault was tried, which calls it hit, what came of it, and every promise that was
broken. Of a directory, the core's own reader opens decoder.weights too.
"""

import ctypes
import errno
import gc
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import edge_s2s
from edge_s2s import BundleError, CoreError
from edge_s2s._core import ffi, lib
from edge_s2s.decoder import _check

FAULTS = {
    "I/O error": errno.EIO,
    "no memory": errno.ENOMEM,
    "interrupted": errno.EINTR,
    "no descriptors": errno.EMFILE,
    "no permission": errno.EACCES,
}
FAULT_ERROR = 1
TEXT = "Anna: Are you free on Monday?"

shim = ctypes.CDLL(None)
shim.faults_hit.restype = ctypes.c_char_p


def load_and_generate(path: Path) -> object:
    """The whole model, and its answer."""
    with edge_s2s.load(path, num_threads=2) as model:
        [[generation]] = model.generate([TEXT])
        return generation.token_ids


def load_core(path: Path) -> object:
    """decoder.weights by the core's own reader, as an embedding application has it."""
    params, out = ffi.new("es2s_model_params *"), ffi.new("es2s_model **")
    lib.es2s_model_params_init(params)
    _check(lib.es2s_model_load(str(path / "decoder.weights").encode(), params, out))
    lib.es2s_model_free(out[0])
    return None


class Attempt(NamedTuple):
    """What one opening came to."""

    outcome: str
    answer: object
    calls: int
    hit: str  # the call that failed, or ""


def attempt(work: Callable[[Path], object], path: Path, k: int = -1, code: int = 0) -> Attempt:
    """Runs `work`, whose k-th file-system call fails with `code`."""
    answer = None
    shim.faults_arm(str(path).encode(), -1, k, FAULT_ERROR if code else 0, code)
    try:
        answer, outcome = work(path), "opened"
    except (BundleError, MemoryError, CoreError) as error:
        outcome = type(error).__name__
    except Exception as error:
        outcome = f"untyped: {error!r}"
    calls, hit = shim.faults_n_calls(), shim.faults_hit() or b""
    shim.faults_arm(b"", -1, -1, 0, 0)
    return Attempt(outcome, answer, calls, hit.decode())


def held(path: Path) -> tuple[int, int]:
    """Open files of this process, and its mappings of files below a path."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text()
    return sum(1 for _ in Path("/proc/self/fd").iterdir()), maps.count(str(path))


def every_fault(work: Callable[[Path], object], path: Path) -> Iterator[str]:
    """Tries each fault at each call; yields what is wrong.

    To open nevertheless is right: Python calls again what was interrupted, and does not need each call.
    """
    usual = attempt(work, path)
    assert usual.outcome == "opened", usual
    before = held(path)
    for k in range(usual.calls):
        for fault, code in FAULTS.items():
            found = attempt(work, path, k, code)
            counts[fault] += 1
            hits[found.hit] += 1
            outcomes[found.outcome.split(":")[0]] += 1
            where = f"{work.__name__}, {fault} at call {k}, {found.hit}"
            if found.outcome.startswith("untyped"):
                yield f"{where}: {found.outcome}"
            if found.outcome == "opened" and found.answer != usual.answer:
                yield f"{where}: another answer"
            if found.hit == "":
                yield f"{where}: did not take place"
            if held(path) != before:
                yield f"{where}: leaked"
    if attempt(work, path) != usual:
        yield f"{work.__name__}: another answer afterwards"


def main() -> None:
    """See above."""
    path = Path(sys.argv[1]).resolve()
    works: list[Callable[[Path], object]] = [load_and_generate]
    if path.is_dir():
        works.append(load_core)
    broken = [wrong for work in works for wrong in every_fault(work, path)]
    report = {"counts": counts, "hits": hits, "outcomes": outcomes, "broken": broken}
    json.dump(report, sys.stdout)


counts: Counter[str] = Counter()
hits: Counter[str] = Counter()
outcomes: Counter[str] = Counter()

if __name__ == "__main__":
    main()
