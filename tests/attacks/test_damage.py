"""Damage by accident: a bundle that is shorter or differs in one bit is refused before any use of it.

The short form takes samples; `-m release` tries every length and every bit, and writes reports/damage.json.
"""

import json
import os
import random
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

import hostile_weights
from edge_s2s.bundle import open_bundle
from edge_s2s.errors import BundleError
from edge_s2s.stored_zip import write_zip
from hostile import FILES, MANIFEST, WEIGHTS, make_contents, write_archive, write_folder

ROOT = Path(__file__).parents[2]
DEFAULT = ROOT / "edge_s2s" / "bundles" / "default.es2s"
N_BYTES = 64 << 10


def bundle_of_64_kib() -> dict[str, bytes]:
    """The tiny bundle with one more file, its last, which makes its .es2s exactly that large."""

    def with_filler(size: int) -> dict[str, bytes]:
        return make_contents({**FILES, "z": random.Random(0).randbytes(size)})

    size = N_BYTES - sum(map(len, write_zip(with_filler(0))))
    while (excess := sum(map(len, write_zip(with_filler(size)))) - N_BYTES) != 0:
        size -= excess  # its length has digits in the manifest
    return with_filler(size)


CONTENTS = bundle_of_64_kib()
ARCHIVE = b"".join(write_zip(CONTENTS))


def zip_records() -> list[int]:
    """The bytes of an .es2s that belong to no file: headers, names, gaps, directory."""
    records = bytearray(b"\1" * len(ARCHIVE))
    for data in CONTENTS.values():
        start = ARCHIVE.index(data) if data else 0
        records[start : start + len(data)] = bytes(len(data))
    return [at for at, is_record in enumerate(records) if is_record]


def bits(places: Iterable[int]) -> list[int]:
    return [8 * at + i for at in places for i in range(8)]


# What is flipped -> the form of the bundle, the file that is changed, its bits.
FLIPS = {
    "zip records": ("es2s", None, bits(zip_records())),
    "manifest in a zip": ("es2s", None, bits(range(64, 64 + len(CONTENTS[MANIFEST])))),
    "manifest": ("directory", MANIFEST, bits(range(len(CONTENTS[MANIFEST])))),
    "header and tables of the weights": (
        "directory",
        WEIGHTS,
        bits(range(hostile_weights.TABLES_END)),
    ),
}  # fmt: skip


def refuses(path: Path) -> bool:
    """Whether opening raises BundleError; any other exception comes through."""
    try:
        open_bundle(path).close()
    except BundleError:
        return True
    return False


def not_refused_truncations(lengths: Iterable[int], folder: Path) -> list[int]:
    """Those of the (descending) lengths at which the file still opens."""
    path = write_archive(folder, ARCHIVE)
    accepted = []
    for length in lengths:
        os.truncate(path, length)
        accepted += [] if refuses(path) else [length]
    return accepted


def not_refused_flips(bundle: Path, file: Path, flipped: Iterable[int]) -> list[int]:
    """Those of the bits without which the bundle still opens. Flips them in place, and back."""
    accepted = []
    with file.open("r+b", buffering=0) as opened:
        for bit in flipped:
            byte = os.pread(opened.fileno(), 1, bit // 8)[0]
            os.pwrite(opened.fileno(), bytes([byte ^ 1 << bit % 8]), bit // 8)
            accepted += [] if refuses(bundle) else [bit]
            os.pwrite(opened.fileno(), bytes([byte]), bit // 8)
    assert not refuses(bundle)  # it is whole again
    return accepted


def not_refused_of(part: str, step: int, folder: Path) -> list[int]:
    form, name, flipped = FLIPS[part]
    path = write_archive(folder, ARCHIVE) if form == "es2s" else write_folder(folder, CONTENTS)
    return not_refused_flips(path, path / name if name else path, flipped[::step])


def random_bits_of_default(n: int, folder: Path) -> tuple[Path, list[int]]:
    """A copy of the default bundle, and `n` of its bits."""
    if not DEFAULT.exists():
        pytest.skip("the default bundle is not here")
    path = Path(shutil.copy(DEFAULT, folder))
    return path, random.Random(n).sample(range(8 * path.stat().st_size), n)


def test_the_bundle_is_of_64_kib_and_opens(tmp_path: Path):
    assert len(ARCHIVE) == N_BYTES
    assert ARCHIVE[64 : 64 + len(CONTENTS[MANIFEST])] == CONTENTS[MANIFEST]
    assert not refuses(write_archive(tmp_path, ARCHIVE))
    assert 500 < len(zip_records()) < 2000


def test_a_truncated_bundle_is_refused(tmp_path: Path):
    near_the_end = range(N_BYTES - 1, N_BYTES - 1500, -1)
    assert not_refused_truncations([*near_the_end, *range(N_BYTES - 1500, -1, -31)], tmp_path) == []


@pytest.mark.parametrize("part", FLIPS)
def test_a_flipped_bit_is_noticed(part: str, tmp_path: Path):
    step = len(FLIPS[part][2]) // 1000 | 1  # odd: all positions in a byte
    assert not_refused_of(part, step, tmp_path) == []


def test_a_flipped_bit_of_the_default_bundle_is_noticed(tmp_path: Path):
    path, flipped = random_bits_of_default(30, tmp_path)
    assert not_refused_flips(path, path, flipped) == []


@pytest.mark.release
@pytest.mark.timeout(2 * 3600)
def test_every_truncation_and_every_flipped_bit_is_noticed(tmp_path: Path):
    start = time.perf_counter()
    report = {"truncations": {"n": N_BYTES, "n_accepted": 0}}
    assert not_refused_truncations(range(N_BYTES - 1, -1, -1), tmp_path) == []
    for part, (_, _, flipped) in FLIPS.items():
        (folder := tmp_path / part).mkdir()
        report[part] = {"n": len(flipped), "n_accepted": len(not_refused_of(part, 1, folder))}
    path, flipped = random_bits_of_default(10_000, tmp_path)
    accepted = not_refused_flips(path, path, flipped)
    report["default bundle"] = {"n": len(flipped), "n_accepted": len(accepted)}
    file = ROOT / "reports" / "damage.json"
    file.parent.mkdir(exist_ok=True)
    seconds = round(time.perf_counter() - start)
    file.write_text(json.dumps({"tried": report, "seconds": seconds}, indent=1) + "\n", encoding="utf-8")
    assert not any(part["n_accepted"] for part in report.values())
