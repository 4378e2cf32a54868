"""The library that an app would load, compiled and linked for Android's targets, without an NDK.

clang has the targets. The declarations of libc are our own (bionic/include), and the libraries that it is
linked with have names only: those that bionic/libc.txt allows, and those of the compiler's own runtime.
What is made is looked at and never run.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from c_builds import ROOT, find_tool, run
from java_builds import jni_headers

BIONIC = Path(__file__).parent / "bionic"
# What a file of the core may call that is not of platform.h: no memory, no file, no thread, no locale.
FREESTANDING = {"memchr", "memcmp", "memcpy", "memmove", "memset", "strcmp", "strlen", "strncmp"}
FREESTANDING |= {"snprintf", "vsnprintf"}
# Parts of the compiler, not of the system: libclang_rt.builtins of the NDK. Thread-local variables are
# emulated below API level 29; 32-bit ARM has no instruction for the rest.
BUILTINS = {"__emutls_get_address"}
_ARM_NAMES = """
    d2lz d2ulz f2lz f2ulz idiv idivmod l2d l2f ldivmod llsl llsr lmul ui2d ui2f uidiv uidivmod
    ul2d ul2f uldivmod
    memcpy memcpy4 memcpy8 memmove memmove4 memmove8 memset memset4 memset8 memclr memclr4 memclr8
"""
BUILTINS_ARM = BUILTINS | {f"__aeabi_{name}" for name in _ARM_NAMES.split()}
PAGE = 16384
PLATFORM = {"platform_posix.c.o": "mmap", "platform_linux.c.o": "sched_setaffinity"}


@dataclass(frozen=True)
class Target:
    """One of the NDK's ABIs."""

    architecture: str
    triple: str
    builtins: set[str]


TARGETS = {
    "arm64-v8a": Target("aarch64", "aarch64-linux-android24", BUILTINS),
    "armeabi-v7a": Target("armv7-a", "armv7a-linux-androideabi24", BUILTINS_ARM),
}


@dataclass(frozen=True)
class Linked:
    """What was built."""

    library: Path
    objects: list[Path]  # of the core


@cache
def linked(abi: str) -> Linked:
    """The library for an ABI, by the CMakeLists.txt that Gradle calls."""
    clang, cmake, ninja = find_tool("clang"), find_tool("cmake"), find_tool("ninja")
    find_tool("ld.lld")
    find_tool("readelf")
    target = TARGETS[abi]
    folder = ROOT / "build" / f"tests-android-{abi}"
    stubs = folder / "stubs"
    stubs.mkdir(parents=True, exist_ok=True)
    compiler = [clang, f"--target={target.triple}", "-nostdlib", "-fuse-ld=lld"]
    for name, symbols in {"libc": allowed(), "libm": {"sqrtf"}}.items():
        run(
            *compiler,
            "-shared",
            f"-Wl,-soname,{name}.so",
            "-o",
            stubs / f"{name}.so",
            write_stub(stubs, name, symbols),
        )
    run(*compiler, "-c", "-o", stubs / "builtins.o", write_stub(stubs, "builtins", target.builtins))
    (stubs / "libbuiltins.a").unlink(missing_ok=True)
    run(find_tool("llvm-ar", "llvm-ar-14", "ar"), "rcs", stubs / "libbuiltins.a", stubs / "builtins.o")
    options = {
        "ES2S_ANDROID_ARCH": target.architecture,
        "ES2S_ANDROID_TARGET": target.triple,
        "ES2S_JNI_HEADERS": jni_headers(),
        "ES2S_STUBS": stubs,
        "CMAKE_MAKE_PROGRAM": ninja,
    }
    build = folder / "build"
    run(
        cmake, "-S", ROOT / "android_demo/library/src/main/cpp", "-B", build, "-G", "Ninja",
        f"--toolchain={BIONIC}/android.cmake", *(f"-D{name}={value}" for name, value in options.items()),
    )  # fmt: skip
    run(cmake, "--build", build)
    objects = sorted((build / "edge_s2s" / "CMakeFiles" / "es2s_objects.dir").rglob("*.o"))
    assert len(objects) >= 20
    return Linked(build / "libedge_s2s_jni.so", objects)


def write_stub(folder: Path, name: str, symbols: set[str]) -> Path:
    path = folder / f"{name}.s"
    lines = [f".globl {symbol}\n.type {symbol}, %function\n{symbol}:\n" for symbol in sorted(symbols)]
    path.write_text(".text\n" + "".join(lines) + ".long 0\n", encoding="ascii")
    return path


def allowed() -> set[str]:
    lines = (BIONIC / "libc.txt").read_text(encoding="ascii").splitlines()
    return {line for line in lines if not line.startswith("#")}


def symbols(path: Path, *, table: str, defined: bool) -> set[str]:
    """Global names of `.symtab` or `.dynsym`."""
    text = run("readelf", "-W", "--dyn-syms" if table == ".dynsym" else "--syms", path)
    row = re.compile(r"^ *\d+: +\w+ +\d+ +\w+ +(?:GLOBAL|WEAK) +\w+ +(\w+) +([\w.$]+)", re.MULTILINE)
    return {name for section, name in row.findall(text) if (section != "UND") == defined}


@pytest.mark.parametrize("abi", TARGETS)
def test_the_library_takes_only_what_bionic_has(abi: str):
    library = linked(abi).library
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-dW", library)))
    assert needed <= {"libc.so", "libm.so"}
    taken = symbols(library, table=".dynsym", defined=False)
    assert taken <= allowed() | {"sqrtf"}
    assert allowed() - taken <= {"memmove"}  # a name that nobody uses proves nothing


@pytest.mark.parametrize("abi", TARGETS)
def test_the_library_shows_nothing_but_its_entry(abi: str):
    assert symbols(linked(abi).library, table=".dynsym", defined=True) == {"JNI_OnLoad"}


@pytest.mark.parametrize("abi", TARGETS)
def test_the_library_loads_where_pages_have_16_kb(abi: str):
    segments = re.findall(r"^ +LOAD .* (0x\w+)$", run("readelf", "-lW", linked(abi).library), re.MULTILINE)
    assert len(segments) >= 2
    assert {int(alignment, 16) for alignment in segments} == {PAGE}


@pytest.mark.parametrize("abi", TARGETS)
def test_only_the_platform_files_need_a_system(abi: str):
    objects = linked(abi).objects
    ours = set().union(*(symbols(path, table=".symtab", defined=True) for path in objects))
    for path in objects:
        called = symbols(path, table=".symtab", defined=False) - ours - TARGETS[abi].builtins
        if path.name in PLATFORM:
            assert PLATFORM[path.name] in called
        else:
            assert called <= FREESTANDING, path.name
