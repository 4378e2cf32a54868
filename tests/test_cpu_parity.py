"""The default model decodes stored sources to the same tokens and the same bits on every CPU.

The sources are tests/golden/default_cross_kv.npz. tests/csrc/decode_sources.c prints, for each, the tokens
and a hash of the bits of all logits: one program, built for each architecture and run on each CPU.
"""

import json
import platform
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import edge_s2s
from c_builds import EMULATED, ROOT, build, run
from edge_s2s.bundle import open_bundle
from edge_s2s.decoder import supported_isas

GOLDEN = ROOT / "tests" / "golden" / "default_cross_kv.npz"
DEFAULT = edge_s2s.default_bundle_path()
REPORT = ROOT / "reports" / "cpu_parity.json"
pytestmark = pytest.mark.skipif(not DEFAULT.exists(), reason="installed without the default bundle")

HOST = f"{platform.machine()} host"
# (CPU, kernel set): every set of this machine, and each emulated one on the first CPU that has it.
CPUS = [(HOST, isa) for isa in supported_isas()]
CPUS += [(cpu, EMULATED[cpu].isa) for cpu in ("cortex-a53", "cortex-a76", "max", "cortex-a7")]
MORE_CPUS = [("cortex-a72", "neon"), ("cortex-a53", "scalar"), ("cortex-a7", "scalar")]
SETTINGS = [(1, 1), (4, 8), (2, 8), (1, 8), (2, 1), (4, 1)]  # threads, sources decoded together


@cache
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


def closest_ties(n: int) -> list[int]:
    """The n sources whose two best logits come closest in some step."""
    return np.argsort(golden()["margins"], kind="stable")[:n].tolist()


def write_inputs(folder: Path, sources: list[int]) -> list[Path]:
    """decoder.weights of the default bundle, and the sources as decode_sources.c reads them."""
    stored = golden()
    per_token = len(stored["codes"]) // int(stored["lengths"].sum())
    pieces = np.split(stored["codes"], np.cumsum(stored["lengths"] * per_token)[:-1])
    data = np.array([len(sources), stored["tokens"].shape[1]], "<i4").tobytes()
    for i in sources:
        data += stored["lengths"][i].astype("<i4").tobytes() + stored["scales"][i].astype("<f4").tobytes()
        codes = pieces[i].tobytes()
        data += codes + bytes(-len(codes) % 4)
    weights, path = folder / "decoder.weights", folder / "sources.bin"
    path.write_bytes(data)
    with open_bundle(DEFAULT) as bundle:
        weights.write_bytes(bundle.read("decoder.weights"))
    return [weights, path]


def decode(
    cpu: str, isa: str, inputs: list[Path], n_threads: int = 1, batch: int = 1, *options: str
) -> list[str]:
    """One line a source: hash of its logits, then its tokens."""
    emulated = EMULATED.get(cpu)
    emulator = emulated.emulator() if emulated else []
    folder = build(emulated.build if emulated else "release", "decode_sources")
    program = folder / "tests" / "csrc" / "decode_sources"
    environment = {"QEMU_CPU": cpu} if emulated else {}
    return run(
        *emulator, program, *inputs, isa, str(n_threads), str(batch), *options, **environment
    ).splitlines()


def check_tokens(lines: list[str], sources: list[int]) -> None:
    for line, expected in zip(lines, golden()["tokens"][sources], strict=True):
        assert [int(token) for token in line.split()[1:]] == expected[expected >= 0].tolist()


@pytest.mark.parametrize(("cpu", "isa"), CPUS)
def test_near_ties_have_the_same_tokens_and_logits_bits_on(cpu: str, isa: str, tmp_path: Path):
    sources = closest_ties(3)
    inputs = write_inputs(tmp_path, sources)
    expected = decode(HOST, "scalar", inputs)
    check_tokens(expected, sources)
    assert decode(cpu, isa, inputs, n_threads=2, batch=3) == expected


@pytest.mark.parametrize(("cpu", "isa"), CPUS)
def test_the_same_seed_draws_the_same_tokens_on(cpu: str, isa: str, tmp_path: Path):
    inputs = write_inputs(tmp_path, [0, 1, 2])
    expected = decode(HOST, "scalar", inputs, 1, 1, "sample")
    assert expected != decode(HOST, "scalar", inputs)
    assert decode(cpu, isa, inputs, 2, 3, "sample") == expected
    assert decode(cpu, isa, inputs, 4, 1, "sample") == expected


def test_a_changed_bit_of_one_source_changes_its_hash_alone(tmp_path: Path):
    weights, path = write_inputs(tmp_path, [0, 1])
    before = decode(HOST, "scalar", [weights, path])
    data = bytearray(path.read_bytes())
    data[-100] ^= 64  # not the lowest of a code, which may be rounded away
    path.write_bytes(data)
    after = decode(HOST, "scalar", [weights, path])
    assert after[0] == before[0]
    assert after[1].split()[0] != before[1].split()[0]


@pytest.fixture(scope="module")
def every_source(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[str]]:
    """Inputs of decode() with all stored sources, and what the scalar set of this machine makes of them."""
    sources = list(range(len(golden()["lengths"])))
    assert len(sources) >= 200
    assert (golden()["margins"] < 0.05).sum() >= 50
    inputs = write_inputs(tmp_path_factory.mktemp("parity"), sources)
    expected = decode(HOST, "scalar", inputs)
    check_tokens(expected, sources)
    return inputs, expected


@pytest.mark.release
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("cpu", "isa"), CPUS + MORE_CPUS)
@pytest.mark.parametrize(("n_threads", "batch"), SETTINGS)
def test_every_source_has_the_same_tokens_and_logits_bits_on(
    cpu: str, isa: str, n_threads: int, batch: int, every_source: tuple[list[Path], list[str]]
):
    inputs, expected = every_source
    start = time.perf_counter()
    lines = decode(cpu, isa, inputs, n_threads, batch)
    assert lines == expected
    REPORT.parent.mkdir(exist_ok=True)
    report = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.exists() else {}
    report[f"{cpu}, {isa}, threads {n_threads}, batch {batch}"] = {
        "sources": len(lines),
        "near_ties": int((golden()["margins"] < 0.05).sum()),
        "tokens": sum(len(line.split()) - 1 for line in lines),
        "different": 0,
        "seconds": round(time.perf_counter() - start, 1),
    }
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
