"""A model that does not fit is refused with a sentence before the system kills; one that fits lives."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import edge_s2s
from edge_s2s.bundle import open_bundle
from edge_s2s.decoder import available_memory, supported_isas
from edge_s2s.memory import needed_memory

REPORT = Path(__file__).parent.parent / "reports" / "memory.json"
MIB = 1 << 20
LIMIT = 384 * MIB
# Prints what was loaded and answered, then the peak of this process in KiB, which is not that of its parent.
LIVE = """
import sys, edge_s2s
path, n_loads, n_requests = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for _ in range(n_loads):
    with edge_s2s.load(path, num_threads=2) as model:
        model.generate(["a"])
with edge_s2s.load(path, num_threads=2) as model:
    for i in range(n_requests):
        model.summarize("Ann: Shall we meet at six?\\nBob: At seven, please. " * (1 + i % 20))
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(n_loads, n_requests, peak)
"""
# Prints by how many KiB a model and one call have made the process grow.
GROWTH = """
import sys, edge_s2s
def rss(): return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
before = rss()
model = edge_s2s.load(sys.argv[1], num_threads=2)
model.summarize("Ann: Shall we meet at six? Bob: At seven, please. " * 20)
print(rss() - before)
"""
# Prints by how many KiB the decoder of a model, loaded with this kernel set, has made the process grow.
DECODER = """
import sys, edge_s2s
from edge_s2s.bundle import open_bundle
from edge_s2s.decoder import DecoderModel
def rss(): return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
bundle = open_bundle(edge_s2s.default_bundle_path())
before = rss()
model = DecoderModel(bundle.read("decoder.weights"), isa=sys.argv[1], verify=False, is_mapped=True)
print(rss() - before)
"""
# Prints how many KiB an opened bundle, all of which was read, and then a parsed tokenizer keep in memory.
OPENED = """
import sys, edge_s2s
from edge_s2s.bundle import open_bundle
from edge_s2s.decoder import release_memory
from edge_s2s.tokenizer import open_tokenizers
def rss(): return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
start = rss()
bundle = open_bundle(sys.argv[1])
opened = rss()
tokenizers = open_tokenizers(bundle.manifest, bundle.read)
parsed = rss()
release_memory()
print(opened - start, parsed - rss())
"""
REFUSED = """
import sys, edge_s2s
try:
    edge_s2s.load(sys.argv[1])
except edge_s2s.InsufficientMemoryError as error:
    print(error.needed, error.left, error)
"""


def grows_by(bundle: Path) -> int:
    """Bytes."""
    probe = [sys.executable, "-c", GROWTH, str(bundle)]
    return 1024 * int(subprocess.run(probe, capture_output=True, text=True, check=True).stdout)


def estimate(path: Path) -> int:
    with open_bundle(path) as bundle:
        return needed_memory(bundle, bundle.manifest.encoder())


def check_estimate(bundle: Path) -> None:
    """It covers what a model and its first call take, and is no more than a third above. The process has
    imported edge_s2s alone: what a bundle needs of the other packages is imported for it."""
    grown = grows_by(bundle)
    assert grown <= estimate(bundle) <= 4 / 3 * grown


def test_the_estimate_is_what_the_default_bundle_takes():
    check_estimate(edge_s2s.default_bundle_path(must_exist=True))


@pytest.mark.parametrize("isa", supported_isas())
def test_no_kernel_set_has_weights_in_memory_twice(isa: str):
    """None of the bundle counts before; what a set copies, it lets go of in the file."""
    grown = subprocess.run([sys.executable, "-c", DECODER, isa], capture_output=True, text=True, check=True)
    with open_bundle(edge_s2s.default_bundle_path(must_exist=True)) as bundle:
        size = len(bundle.read("decoder.weights"))
    assert int(grown.stdout) < size // 1024 + 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmRSS is Linux's")
def test_what_was_read_to_verify_it_is_let_go(tmp_path: Path):
    """Of 11.6 MB none are left; a Python library or two are read on the way."""
    bundle = edge_s2s.default_bundle_path(must_exist=True)
    folder = tmp_path / "folder"
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    for path in (bundle, folder):
        command = [sys.executable, "-c", OPENED, path]
        opened, released = map(int, subprocess.check_output(command, text=True).split())
        assert opened < 3000
        assert released > 500  # 1,900 here; a heap without anything to give back would have none


def can_unshare() -> bool:
    try:
        return subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_unshare(), reason="this system has no mount namespaces (unshare -rm)")
def test_where_less_is_left_than_a_bundle_needs_load_says_both_numbers(tiny_bundle: Path, tmp_path: Path):
    """The process sees another /proc/meminfo; all else is real."""
    needed = estimate(tiny_bundle)
    for left, is_refused in ((needed - 1024, True), (needed + 1024, False), (needed // 2, True)):
        (tmp_path / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {left // 1024} kB\n")
        script = 'mount --bind "$1" /proc/meminfo && shift && exec "$@"'
        command = ["unshare", "-rm", "sh", "-c", script, "sh", str(tmp_path / "meminfo")]
        command += [sys.executable, "-c", REFUSED, str(tiny_bundle)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if is_refused:
            found_needed, found_left, sentence = done.stdout.split(" ", 2)
            assert (int(found_needed), int(found_left)) == (needed, left // 1024 * 1024)
            assert "MiB of memory, " in sentence
        else:
            assert done.stdout == ""


def test_a_refusal_is_a_memory_error_and_says_what_to_do():
    error = edge_s2s.InsufficientMemoryError("m.es2s", 45 * MIB, 20 * MIB)
    assert isinstance(error, MemoryError)
    assert isinstance(error, edge_s2s.EdgeS2SError)
    assert str(error) == "m.es2s: needs 45 MiB of memory, 20 MiB are left; end other programs"


def test_what_is_left_is_found_below_another_root(tmp_path: Path):
    assert available_memory(str(tmp_path)) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemAvailable: 100 kB\n")
    assert available_memory(str(tmp_path)) == 102_400


# --------------------------------------------- in a control group ------------------------------------------


def groups() -> list[Path]:
    """Folders of the memory controller below which this process may make a group: its own one, v2 or v1."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            found.append(Path(f"/sys/fs/cgroup/memory{path}"))
        elif not controllers:
            found.append(Path(f"/sys/fs/cgroup{path}"))
    return found


@pytest.fixture
def group() -> Iterator[Path]:
    """A group of ours with the limit; removed afterwards."""
    for parent in groups():
        folder = parent / f"edge_s2s_test_{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            name = "memory.limit_in_bytes" if (folder / "memory.limit_in_bytes").exists() else "memory.max"
            (folder / name).write_text(str(LIMIT))
            yield folder
            return
        except OSError:
            continue
        finally:
            folder.rmdir()
    pytest.skip("this system lets nobody make a control group with a memory limit")


def live(group: Path, bundle: Path, n_loads: int, n_requests: int) -> list[int]:
    """Runs LIVE as a member of the group."""
    script = 'echo $$ > "$1/cgroup.procs" && shift && exec "$@"'
    command = ["sh", "-c", script, "sh", str(group), sys.executable, "-c", LIVE, str(bundle)]
    done = subprocess.run([*command, str(n_loads), str(n_requests)], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return [int(word) for word in done.stdout.split()]


def test_a_device_of_384_mib_loads_and_answers(group: Path, tiny_bundle: Path):
    n_loads, n_requests, peak_kib = live(group, tiny_bundle, 3, 20)
    assert (n_loads, n_requests) == (3, 20)
    assert peak_kib * 1024 < LIMIT


@pytest.mark.release
def test_100_loads_and_1000_requests_fit_into_384_mib(group: Path):
    """The default bundle; a kill would be return code -9."""
    bundle = edge_s2s.default_bundle_path(must_exist=True)
    n_loads, n_requests, peak_kib = live(group, bundle, 100, 1000)
    report = {
        "limit_mib": LIMIT // MIB,
        "loads": n_loads,
        "requests": n_requests,
        "kills": 0,
        "peak_mib": round(peak_kib / 1024, 1),
        "needed_mib": round(estimate(bundle) / MIB, 1),
        "measured_mib": round(grows_by(bundle) / MIB, 1),
    }
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    assert peak_kib * 1024 < LIMIT
