"""Opens mutants one after the other, in a process of its own that they may take down.

    python mutant_worker.py BUNDLE FOLDER FIRST STEP END

Prints a line for each: its number, kind, where it ended, seconds of CPU time, and by how many bytes our own
readers allocated more than twice its size. It ends at the reader or library that refuses it, or "accepted".
"""

import os
import resource
import sys
import time
import traceback
import tracemalloc
from pathlib import Path

from edge_s2s.bundle import open_bundle
from edge_s2s.decoder import available_memory
from edge_s2s.errors import BundleError, EdgeS2SError
from edge_s2s.generation import GenerationOptions
from edge_s2s.loading import load
from edge_s2s.manifest import MANIFEST, TOKENIZER
from edge_s2s.onnx_graph import check_onnx
from edge_s2s.tokenizer import _check_components
from mutants import ONNX, kind_of, mutate

# Marks in a trace of system calls.
FREE_MEMORY = "/free memory"  # from here, what is opened to learn how much memory is left, with no bundle
LOAD = "/load"  # our readers took the mutant; from here, load() and an answer
END = "/mutant {} {}"  # number and where it ended; number -1 for FREE_MEMORY
MEMORY = 3 << 30  # what a graph may make ONNX Runtime ask for before the system refuses


STAGES = {"stored_zip": "zip", "manifest": "manifest", "weights": "table"}  # by the module that refused


def refused_by(error: BundleError) -> str:
    """The reader that refused while the bundle was opened."""
    modules = [Path(frame.f_code.co_filename).stem for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((STAGES[module] for module in modules if module in STAGES), "hashes")


def open_all(path: Path) -> tuple[str, int]:
    """Where it ended, and the peak of traced memory in our readers."""
    tracemalloc.start()
    try:
        try:
            bundle = open_bundle(path)
        except BundleError as error:
            return refused_by(error), tracemalloc.get_traced_memory()[1]
        for stage, read in (
            ("golden", bundle.golden),
            ("tokenizer", lambda: _check_components(bytes(bundle.read(TOKENIZER)))),
            ("onnx walker", lambda: check_onnx(bundle.read(ONNX), ONNX)),
        ):
            try:
                read()
            except BundleError:
                return stage, tracemalloc.get_traced_memory()[1]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    os.access(LOAD, os.F_OK)
    try:
        with load(path, num_threads=1) as model:
            try:
                model.generate(["Tom: \u201chi\u201d"], GenerationOptions(max_new_tokens=2), truncation=True)
            except (EdgeS2SError, MemoryError, ValueError):
                return "answer", peak
    except BundleError as error:
        return "tokenizer library" if error.file == TOKENIZER else "onnx session", peak
    except MemoryError:
        return "onnx session", peak
    return "accepted", peak


def main() -> None:
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    first, step, end = map(int, sys.argv[3:])
    with open_bundle(source) as bundle:
        contents = {name: bytes(bundle.read(name)) for name in (MANIFEST, *bundle.manifest.files)}
    path = folder / "mutant.es2s"
    with path.open("w+b", buffering=0) as file:
        for number in (None, *range(first, end, step)):
            data = source.read_bytes() if number is None else mutate(contents, number)
            if number is not None:
                print(number, kind_of(number), end=" ", flush=True)
            file.truncate(0)
            os.pwrite(file.fileno(), data, 0)
            start = time.process_time()
            ended, peak = open_all(path)
            seconds = time.process_time() - start
            ended = ended.replace(" ", "_")
            if number is not None:
                print(ended, f"{seconds:.3f}", peak - 2 * len(data), flush=True)
                os.access(END.format(number, ended), os.F_OK)
            else:  # whatever libraries open once, they have opened now
                assert ended == "accepted", ended
                resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
                os.access(FREE_MEMORY, os.F_OK)
                available_memory()
                os.access(END.format(-1, "memory"), os.F_OK)


main()
