"""Runs a target of readers.py.

    python fuzz_readers.py TARGET [--planted LETTER] [libFuzzer's options] FOLDER    # guided by atheris
    python fuzz_readers.py TARGET [--planted LETTER] --blind N                       # mutants of the corpus

A finding ends the process with its traceback. Without guidance nothing has to be installed.
"""

import argparse
import importlib
import random
import sys
from collections.abc import Iterator
from types import FunctionType

from planted_bugs import IN_PYTHON, PlantedBug


def plant(bug: PlantedBug) -> None:
    """Loads the bug's module with the bug in it, before anything else does."""
    module = importlib.import_module(bug.file.removesuffix(".py").replace("/", "."))
    exec(compile(bug.source(), bug.file, "exec"), module.__dict__)


def blind(target: str, n_runs: int) -> None:
    from readers import TARGETS, corpus

    inputs = corpus(target)
    for i in range(n_runs):
        choose = random.Random(i)
        data = choose.choice(inputs)
        for _ in range(choose.choice([1, 1, 2, 4])):
            data = TARGETS[target].mutate(data, choose)
        TARGETS[target].check(data)


def functions_of_readers() -> Iterator[FunctionType]:
    """All that edge_s2s defines, methods too."""
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "edge_s2s"]
    for module in modules:
        owners = [vars(module), *(vars(c) for c in vars(module).values() if isinstance(c, type))]
        for value in (value for owner in owners for value in owner.values()):
            function = getattr(value, "__func__", value)  # of a class method
            if isinstance(function, FunctionType) and function.__module__.startswith("edge_s2s"):
                yield function


def guided(target: str, arguments: list[str]) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    from readers import TARGETS

    # In place: atheris' hook for imports does not see a package that is installed as editable.
    for function in set(functions_of_readers()):
        atheris.instrument_func(function)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        choose = random.Random(seed)
        if choose.random() < 0.2:
            return atheris.Mutate(data, max_size)
        return TARGETS[target].mutate(data, choose)[:max_size]

    atheris.Setup([sys.argv[0], *arguments], TARGETS[target].check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("target")
    parser.add_argument("--planted", choices=IN_PYTHON)
    parser.add_argument("--blind", type=int)
    options, others = parser.parse_known_args()
    if options.planted:
        plant(IN_PYTHON[options.planted])
    if options.blind:
        blind(options.target, options.blind)
    else:
        guided(options.target, others)
