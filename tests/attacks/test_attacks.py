"""Every attack is refused with an error that says what and where, at little cost, touching nothing else."""

import gc
import json
import os
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import hostile_files
import hostile_manifest
import hostile_weights
import hostile_zip
from edge_s2s.bundle import open_bundle
from edge_s2s.errors import BundleError
from hostile import ATTACKS, BUNDLE, VALID, VALID_ZIP, write_archive, write_folder

REPORTS = Path(__file__).parents[2] / "reports"
MODULES = (hostile_files, hostile_manifest, hostile_weights, hostile_zip)  # importing them fills ATTACKS
FORMS = {
    "directory": lambda folder: write_folder(folder, VALID),
    "es2s": lambda f: write_archive(f, VALID_ZIP),
}
opened: list[str] | None = None  # paths, while a test collects them


def note_open(event: str, args: tuple) -> None:
    if event == "open" and opened is not None:
        opened.append(os.fsdecode(args[0]) if isinstance(args[0], str | bytes) else repr(args[0]))


sys.addaudithook(note_open)  # for the life of the process: a hook cannot be removed


@contextmanager
def opened_paths() -> Iterator[list[str]]:
    """Collects what is opened within."""
    global opened
    opened = paths = []
    try:
        yield paths
    finally:
        opened = None


def refusal(path: Path) -> BundleError:
    """The BundleError that opening raises."""
    with pytest.raises(BundleError) as caught:
        open_bundle(path)
    return caught.value


def size_of(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path] if path.is_file() else []
    return sum(file.lstat().st_size for file in files)


def test_there_are_more_than_a_hundred_attacks_of_every_kind():
    assert all(
        sum(kind in name for name in ATTACKS) >= 5
        for kind in ("in place of", "manifest,", "weights,", "zip,")
    )
    assert len(ATTACKS) >= 600


@pytest.mark.parametrize("form", FORMS)
def test_what_the_attacks_spoil_is_valid(form, tmp_path):
    path = FORMS[form](tmp_path)
    with opened_paths() as paths, open_bundle(path) as bundle:
        assert len(bundle.golden()) == 8
    assert paths, "the hook sees no file being opened"


@pytest.mark.parametrize("name", ATTACKS)
def test_refused(name, tmp_path):
    path = ATTACKS[name].build(tmp_path)
    if path.is_dir():
        files = {file.name: file for file in path.iterdir()}
        assert files.keys() != VALID.keys() or not all(
            file.is_file() and not file.is_symlink() and file.read_bytes() == VALID[name]
            for name, file in files.items()
        )
    elif path.is_file():
        assert path.read_bytes() != VALID_ZIP

    tracemalloc.start()
    start, cpu_start = time.perf_counter(), time.process_time()
    try:
        with opened_paths() as paths:
            error = refusal(path)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert error.file == (str(path) if ATTACKS[name].file == BUNDLE else ATTACKS[name].file)
    assert error.expected.strip()
    assert error.found.strip()
    assert error.expected != error.found
    assert str(error).startswith(f"{error.file}: ")
    assert str(error).isprintable()
    assert len(str(error)) < 1000
    assert cpu_seconds < 2
    assert seconds < 10, "it waits for something; a busy machine alone is not that slow"
    assert peak <= 2 * size_of(path) + (1 << 20)
    assert set(paths) <= {str(path), *VALID}  # a bare name is relative to the open directory


def test_refusing_leaks_no_file_descriptor(tmp_path):
    def n_open() -> int:
        gc.collect()
        return sum(1 for _ in Path("/dev/fd").iterdir())

    before = n_open()
    for i, attack in enumerate(ATTACKS.values()):
        (folder := tmp_path / str(i)).mkdir()
        refusal(attack.build(folder))
    assert n_open() == before


def write_report(name: str, **figures: float) -> None:
    """Keeps what a long run counted."""
    REPORTS.mkdir(exist_ok=True)
    (REPORTS / f"attacks_{name}.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


@given(st.binary(max_size=3000))
@settings(max_examples=300, deadline=None)
def test_random_bytes_raise_bundle_errors(tmp_path_factory, data):
    refusal(write_archive(tmp_path_factory.mktemp("random"), data))


def check_mutants(n_mutants: int, folder: Path) -> int:
    """Opens bundles with mutated weights and right hashes, and returns how many load."""
    path = write_folder(folder, VALID)
    n_loaded = 0
    for data in hostile_weights.mutants(n_mutants):
        hostile_weights.write_repaired(path, data)
        try:
            open_bundle(path).close()
        except BundleError:
            continue
        n_loaded += 1
    assert 0 < n_loaded < n_mutants / 2, "the mutants are all harmless, or the hashes are not repaired"
    return n_loaded


def test_random_damage_behind_valid_hashes_loads_or_raises_bundle_errors(tmp_path):
    check_mutants(1500, tmp_path)


@pytest.mark.release
def test_much_random_damage_behind_valid_hashes_loads_or_raises_bundle_errors(tmp_path):
    start = time.perf_counter()
    n_loaded = check_mutants(200_000, tmp_path)
    seconds = round(time.perf_counter() - start)
    write_report("mutants", n_mutants=200_000, n_loaded=n_loaded, n_other_exceptions=0, seconds=seconds)
