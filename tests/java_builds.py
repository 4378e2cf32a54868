"""The Java binding and its JNI library, built for this machine and an emulated one; its tests."""

import functools
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from c_builds import AARCH64, ROOT, find_tool, run

SOURCES = ROOT / "android_demo" / "library" / "src"
CLASSES = ROOT / "build" / "tests-java"
JARS = Path("/usr/share/java")
TESTS = sorted((SOURCES / "test" / "java").rglob("*Test.java"))


@dataclass(frozen=True)
class TestRun:
    """What JUnit said."""

    __test__ = False

    n_tests: int
    output: str


def jni_headers() -> Path:
    """The folder of jni.h, which is the same for every target."""
    folder = Path(find_tool("javac")).resolve().parent.parent / "include"
    if not (folder / "jni.h").exists():
        pytest.skip("needs jni.h (a JDK)")
    return folder


def junit() -> str:
    """A class path."""
    jars = [JARS / "junit4.jar", JARS / "hamcrest-core.jar"]
    if not all(jar.exists() for jar in jars):
        pytest.skip("needs JUnit 4 (Debian's junit4)")
    return os.pathsep.join(map(str, jars))


@functools.cache
def classes() -> Path:
    """The plain Java part, as Android's oldest tools would take it, and its tests."""
    javac, jars = find_tool("javac"), junit()
    options = ["-encoding", "UTF-8", "--release", "8", "-Xlint:all,-options", "-Werror", "-d", CLASSES]
    core, tests = (sorted((SOURCES / part / "java").rglob("*.java")) for part in ("core", "test"))
    run(javac, *options, "-cp", jars, *core, *tests)
    return CLASSES


@functools.cache
def library(build: str) -> Path:
    """Folder of libedge_s2s_jni.so; `build` is "release" or "aarch64"."""
    cmake, ninja = find_tool("cmake"), find_tool("ninja")
    find_tool("aarch64-linux-gnu-gcc" if build == "aarch64" else "cc")
    folder = ROOT / "build" / f"tests-jni-{build}"
    options = [f"-DES2S_JNI_INCLUDE={jni_headers()}", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    toolchain = AARCH64 if build == "aarch64" else []
    run(cmake, "-S", SOURCES / "main" / "cpp", "-B", folder, "-G", "Ninja", *toolchain, *options)
    run(cmake, "--build", folder)
    return folder


def run_tests(
    java: list[str], build: str, files: Path, test: Path, properties: dict[str, str], **variables: str
) -> TestRun:
    """Runs a class of tests; fails unless all pass and the JVM's checks of the JNI layer stay silent."""
    name = ".".join(test.relative_to(SOURCES / "test" / "java").with_suffix("").parts)
    given = {"java.library.path": str(library(build)), "edge_s2s.files": str(files), **properties}
    command = [
        *java, "-Xcheck:jni", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
        "-Dfile.encoding=UTF-8",
        *(f"-D{key}={value}" for key, value in given.items()),
        "-cp", f"{classes()}{os.pathsep}{junit()}", "org.junit.runner.JUnitCore", name,
    ]  # fmt: skip
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **variables}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-6000:]
    assert not re.search(r"warning|fatal|error in native|check:jni", output, re.IGNORECASE), output[-6000:]
    passed = re.search(r"^OK \((\d+) tests?\)$", output, re.MULTILINE)
    assert passed is not None, output[-6000:]
    return TestRun(int(passed[1]), output)
