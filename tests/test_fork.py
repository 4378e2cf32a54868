"""A process that was forked from one with an open model can do anything but use that model.

The children end as those of multiprocessing do, with os._exit: after sys.exit, a forked process that has only
imported onnxruntime 1.31 hangs, whatever it did.
"""

import subprocess
import sys
from pathlib import Path

import pytest

FORK = """\
import gc, multiprocessing, os, sys, edge_s2s
def multiprocess():
    process = multiprocessing.get_context("fork").Process(target=gc.collect)
    process.start()
    process.join()
    return 7 + process.exitcode
model = edge_s2s.load(sys.argv[1], num_threads=2)
session = model._parts.decoder.session(1, 1, 8, 8)
[[before]] = model.generate(["some text"])
if (child := os.fork()) == 0:
    {child}
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
[[after]] = model.generate(["some text"])
assert after.token_ids == before.token_ids
"""


@pytest.mark.parametrize(
    "child",
    [
        "os._exit(multiprocess())",
        "del model, session; gc.collect(); os._exit(7)",
        "model.close(); session.close(); os._exit(7)",
        "edge_s2s.load(sys.argv[1], num_threads=2).generate(['some text']); os._exit(7)",
    ],
    ids=["has a child", "forgets it", "closes it", "loads its own"],
)
def test_a_forked_process_does_not_hang_and_its_parent_goes_on(tiny_bundle: Path, child: str):
    run(FORK.format(child=child), tiny_bundle)


@pytest.mark.parametrize(
    "use",
    [
        "model.generate(['some text'])",
        "next(model.stream('some text'))",
        "model._parts.decoder.embed([1])",
        "session.step([0])",
        "session.generate(model.manifest.generation)",
    ],
)
def test_a_model_used_in_a_forked_process_is_an_error_that_says_what_to_do(tiny_bundle: Path, use: str):
    child = (
        f"try:\n        {use}\n"
        "    except RuntimeError as error:\n"
        "        os._exit(7 if 'load it in this process' in str(error) else 1)\n"
        "    os._exit(2)"
    )
    run(FORK.format(child=child), tiny_bundle)


def run(code: str, bundle: Path) -> None:
    subprocess.run([sys.executable, "-c", code, bundle], check=True, timeout=200)
