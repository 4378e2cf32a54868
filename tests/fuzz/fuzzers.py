"""libFuzzer programs: those of the C core, built here, and what all of them are asked and answer."""

import functools
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from c_builds import ROOT, find_tool, run
from planted_bugs import PlantedBug

FOLDER = ROOT / "build" / "fuzz"
CORPUS = Path(__file__).parent / "corpus"
C_TARGETS = ("weights", "decode", "out_of_memory", "tokenizer", "bundle")
# -O2 without NDEBUG: assertions are checked. As CMake compiles the core, for what is compiled beside it.
OPTIMIZE = "-O2"
SANITIZE = ("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
C_LIMITS = ("-max_len=65536", "-timeout=2", "-rss_limit_mb=1024", "-malloc_limit_mb=64")

# Runs its arguments in a process that a small one has forked: libFuzzer limits ru_maxrss, which Linux hands
# on from whoever calls exec, here a test session of any size.
AS_OWN_PROCESS = ("sh", "-c", '"$@"; exit $?', "sh")

Command = tuple[str | Path, ...]


@dataclass(frozen=True)
class Outcome:
    """Of a run: whether something was found, what was told about it, and what libFuzzer counted."""

    found: bool
    told: str
    seconds: float
    counts: dict[str, int]


def fuzz(command: Command, folder: Path, **options: int) -> Outcome:
    """Runs a fuzzer on the inputs in `folder`, which grows; `options` are libFuzzer's, such as runs=1000."""
    arguments = [f"-{name}={value}" for name, value in {"seed": 1, **options}.items()]
    arguments += ["-print_final_stats=1", "-print_funcs=0", f"-artifact_prefix={folder.parent}/"]
    start = time.perf_counter()
    fuzzer = subprocess.run(
        [*AS_OWN_PROCESS, *command, *arguments, folder],
        capture_output=True,
        text=True,
        errors="replace",
        cwd=folder.parent,
    )
    seconds = time.perf_counter() - start
    told = fuzzer.stdout + fuzzer.stderr
    counts = {name: int(n) for name, n in re.findall(r"^stat::(\w+): +(\d+)$", told, re.MULTILINE)}
    return Outcome(fuzzer.returncode != 0, told[-5000:], seconds, counts)


@functools.cache
def built() -> Path:
    """Folder of the C targets; it stays in build/, so that a second run only compiles what changed."""
    cmake, ninja, clang = find_tool("cmake"), find_tool("ninja"), find_tool("clang")
    options = [f"-DCMAKE_C_COMPILER={clang}", f"-DCMAKE_MAKE_PROGRAM={ninja}", "-DES2S_BUILD_FUZZERS=ON"]
    options += ["-DES2S_SANITIZE=fuzzer-no-link,address,undefined", f"-DCMAKE_C_FLAGS_RELEASE={OPTIMIZE}"]
    run(cmake, "-S", ROOT, "-B", FOLDER, "-G", "Ninja", *options)
    run(cmake, "--build", FOLDER)
    return FOLDER / "tests" / "fuzz"


def c_fuzzer(target: str) -> Command:
    return (built() / f"fuzz_{target}", *C_LIMITS)


def write_c_seeds(folder: Path) -> Path:
    """Weights for most targets; tables, each with a text behind it, for the tokenizer's; bundles."""
    folder.mkdir(exist_ok=True)
    run(built() / "write_seeds", folder)
    for name in ("table", "bundle"):
        shutil.copytree(CORPUS / name, folder, dirs_exist_ok=True)
    return folder


def planted_c_fuzzer(bug: PlantedBug, folder: Path) -> Command:
    """The target that should find the bug, linked with the file that has it in place of the core's own."""
    source, program = folder / "planted.c", folder / "fuzz_planted"
    source.write_text(bug.source(), encoding="utf-8")
    library = built().parents[1] / "libedge_s2s.a"
    main = "bundle" if bug.target == "bundle" else "core"
    names = (f"tests/fuzz/fuzz_{main}.c", "tests/fuzz/mutate_weights.c", "tests/csrc/tiny_weights.c")
    files = [source, *(ROOT / name for name in names), library]
    include = [f"-I{ROOT / path}" for path in ("csrc", "csrc/include", "tests/csrc")]
    flags = ["-std=c11", OPTIMIZE, "-g", "-w", "-ffp-contract=off", "-fno-wrapv", *SANITIZE, *include]
    run(find_tool("clang"), *flags, f"-DFUZZ_{bug.target.upper()}", *files, "-lpthread", "-lm", "-o", program)
    return (program, *C_LIMITS)
