import dataclasses
import hashlib
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from edge_s2s import bundle as bundle_module
from edge_s2s.bundle import open_bundle, write_bundle
from edge_s2s.errors import BundleError
from edge_s2s.manifest import Encoder, Licence
from edge_s2s.weights import complete_keys, write_weights
from tiny_bundle import tiny_files, tiny_keys, tiny_manifest, tiny_tensors, write_tiny_bundle

FORMS = ["tiny", "tiny.es2s"]
KEYS = tiny_keys()
FILES = tiny_files(KEYS)
MANIFEST = tiny_manifest(KEYS)


@pytest.fixture(params=FORMS)
def path(request, tmp_path):
    """Where a bundle of each form goes."""
    return tmp_path / request.param


def test_what_was_written_is_read(path):
    write_bundle(path, MANIFEST, FILES)
    with open_bundle(path) as bundle:
        assert bundle.kind == ("es2s" if path.suffix else "directory")
        assert bundle.path == path
        assert dataclasses.replace(bundle.manifest, files={}) == MANIFEST
        assert bundle.manifest.files.keys() == FILES.keys()
        for name, data in FILES.items():
            assert bundle.read(name) == data
            assert bundle.read(name).readonly
        assert bundle.weights.keys == complete_keys(KEYS)
        for name, tensor in tiny_tensors(KEYS).items():
            assert (bundle.weights.tensors[name] == tensor).all()
        assert [case.token_ids for case in bundle.golden()] == [(7, 1)] * 8
        assert bundle.golden()[0].text == "Tom said: “hi” 👋"


def test_views_outlive_the_bundle_and_reading_does_not(path):
    write_bundle(path, MANIFEST, FILES)
    with open_bundle(path) as bundle:
        view = bundle.read("encoder.onnx")
    assert view == FILES["encoder.onnx"]
    with pytest.raises(KeyError):
        bundle.read("encoder.onnx")


def test_an_unlisted_name_is_a_key_error(path):
    write_bundle(path, MANIFEST, FILES)
    with open_bundle(path) as bundle, pytest.raises(KeyError):
        bundle.read("../tiny/LICENSE")


def test_bytes_depend_on_the_arguments_alone(tmp_path):
    first, second = tmp_path / "a.es2s", tmp_path / "b.es2s"
    write_bundle(first, MANIFEST, FILES)
    write_bundle(second, MANIFEST, dict(reversed(FILES.items())))
    assert first.read_bytes() == second.read_bytes()


def test_a_directory_and_the_unpacked_zip_are_the_same(tmp_path):
    folder, archive = write_tiny_bundle(tmp_path / "tiny"), write_tiny_bundle(tmp_path / "tiny.es2s")
    with zipfile.ZipFile(archive) as unpacked:
        assert unpacked.testzip() is None
        assert unpacked.namelist() == ["manifest.json", *sorted(FILES)]
        assert {info.filename: unpacked.read(info) for info in unpacked.infolist()} == {
            file.name: file.read_bytes() for file in folder.iterdir()
        }
        unpacked.extractall(tmp_path / "unpacked")
    open_bundle(tmp_path / "unpacked").close()


def test_files_in_a_zip_are_aligned_so_that_they_are_used_in_place(tmp_path):
    data = write_tiny_bundle(tmp_path / "tiny.es2s").read_bytes()
    for contents in FILES.values():
        if len(contents) > 2:
            assert data.index(contents) % 64 == 0


def test_unlisted_files_of_a_directory_are_never_opened(tmp_path):
    path = write_tiny_bundle(tmp_path / "tiny")
    os.mkfifo(path / "notes")  # opening it for reading would wait for ever
    (path / "more").mkdir()
    open_bundle(path).close()


def test_a_link_to_a_bundle_is_followed_and_hard_links_are_plain_files(tmp_path):
    path = write_tiny_bundle(tmp_path / "tiny")
    (tmp_path / "current").symlink_to(path)
    (tmp_path / "encoder").hardlink_to(path / "encoder.onnx")
    open_bundle(tmp_path / "current").close()


def test_a_path_that_holds_nothing_is_named(tmp_path):
    with pytest.raises(BundleError) as caught:
        open_bundle(tmp_path / "nothing")
    assert caught.value.file == str(tmp_path / "nothing")


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc, which Linux has")
def test_a_file_that_there_is_no_room_to_map_is_a_memory_error(tmp_path):
    path = tmp_path / "sparse.es2s"
    with path.open("wb") as file:
        file.truncate(1 << 32)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (1 << 28), limits[1]))
    try:
        with pytest.raises(MemoryError, match=r"sparse\.es2s: Cannot allocate memory"):
            open_bundle(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_an_existing_bundle_is_kept_unless_replace_is_set(path):
    write_bundle(path, MANIFEST, FILES)
    newer = dataclasses.replace(MANIFEST, version="2.0.0")
    with pytest.raises(FileExistsError, match="replace=True"):
        write_bundle(path, newer, FILES)
    with open_bundle(path) as bundle:
        assert bundle.manifest.version == "1.0.0"
        view = bundle.read("LICENSE")
    write_bundle(path, newer, FILES, replace=True)
    with open_bundle(path) as bundle:
        assert bundle.manifest.version == "2.0.0"
    assert view == FILES["LICENSE"]
    assert names(path.parent) == [path.name]


def test_what_is_no_bundle_is_never_replaced(path):
    if path.suffix:
        path.mkdir()
        (path / "thesis.tex").touch()
    else:
        write_tiny_bundle(path)
        (path / "photos").mkdir()
    before = names(path)
    with pytest.raises(FileExistsError, match="no bundle of that kind"):
        write_bundle(path, MANIFEST, FILES, replace=True)
    assert names(path) == before
    assert names(path.parent) == [path.name]


@pytest.mark.parametrize(
    ("manifest", "files", "found"),
    [
        (MANIFEST, {**FILES, "decoder.weights": b"?"}, "1 bytes"),
        (MANIFEST, {**FILES, "../escape": b""}, "'../escape'"),
        (MANIFEST, {k: v for k, v in FILES.items() if k != "tokenizer.json"}, "encoder.onnx"),
        (dataclasses.replace(MANIFEST, prefix="other: "), FILES, "'other: '"),
        (dataclasses.replace(MANIFEST, min_runtime="99.0.0"), FILES, "'99.0.0'"),
        (
            dataclasses.replace(MANIFEST, encoders=(Encoder("qnn-static", "decoder.weights"),)),
            FILES,
            "'qnn-static'",
        ),
        (dataclasses.replace(MANIFEST, licence=Licence("", ())), FILES, "''"),
    ],
)
def test_a_bundle_that_would_not_open_is_not_written(path, manifest, files, found):
    with pytest.raises(BundleError) as caught:
        write_bundle(path, manifest, files)
    assert found in caught.value.found
    assert names(path.parent) == []


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("call", ["open", "fsync", "rename", "replace", "mkdir"])
def test_an_error_in_any_system_call_leaves_the_old_or_the_new_bundle_and_no_rubbish(
    path, call, replace, monkeypatch
):
    """Fails the k-th use of a system call, for every k until the write succeeds."""
    original = getattr(os, call)
    versions = {"1.0.0", "2.0.0"} if replace else {"2.0.0"}
    for k in range(50):
        remove(path)
        if replace:
            write_tiny_bundle(path)
        n_calls = 0

        def failing(*args, k=k, **kwargs):
            nonlocal n_calls
            n_calls += 1
            if n_calls == k + 1:
                raise OSError(28, "No space left on device")
            return original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                write_bundle(path, dataclasses.replace(MANIFEST, version="2.0.0"), FILES, replace=replace)
            except (OSError, BundleError):
                failed = True
            else:
                failed = False
        assert failed == (n_calls > k)
        assert names(path.parent) == ([path.name] if path.exists() else [])
        assert path.exists() or (failed and not replace)
        if path.exists():
            with open_bundle(path) as bundle:
                assert bundle.manifest.version in versions
        if not failed:
            return
    pytest.fail("writing never succeeded")


def test_a_full_disk_leaves_the_old_bundle(path):
    """A limit on the size of files makes real writes fail, here and there within the bundle."""
    write_bundle(path, MANIFEST, FILES)
    before = snapshot(path.parent)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 1000, 10000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                write_bundle(path, dataclasses.replace(MANIFEST, version="2.0.0"), FILES, replace=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert snapshot(path.parent) == before


def test_a_writer_killed_at_any_file_operation_leaves_a_whole_bundle(path):
    """Forks a writer that dies at its k-th operation, for every k until one finishes."""
    arguments = (path, dataclasses.replace(MANIFEST, version="2.0.0"), FILES)
    for k in range(200):
        for file in path.parent.iterdir():
            remove(file)
        write_tiny_bundle(path)
        if (child := os.fork()) == 0:
            operations = itertools.count()

            def die(event: str, _: object, operations=operations, k=k) -> None:
                if event.split(".")[0] in ("open", "os", "mmap") and next(operations) == k:
                    os._exit(9)

            sys.addaudithook(die)
            write_bundle(*arguments, replace=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        whole = path
        if not path.exists():  # died between the two renames that replace a directory
            assert not path.suffix
            (whole,) = path.parent.glob(".*.old")
        with open_bundle(whole) as bundle:
            assert bundle.manifest.version in ("1.0.0", "2.0.0")
        if status == 0:
            assert k >= 5, "the writer was hardly ever killed"
            return
    pytest.fail("no writer finished")


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"cases": []}, "1..16 cases"),
        ({"cases": [{"text": "a", "input_ids": [1], "token_ids": [1]}] * 17}, "1..16 cases"),
        ({"cases": [{"text": "a", "input_ids": [], "token_ids": [1]}]}, "cases[0].input_ids"),
        ({"cases": [{"text": "a", "input_ids": [20], "token_ids": [1]}]}, "cases[0].input_ids"),
        ({"cases": [{"text": "a", "input_ids": [1], "token_ids": [-1]}]}, "cases[0].token_ids"),
        ({"cases": [{"text": "a", "input_ids": [1], "token_ids": [1] * 17}]}, "cases[0].token_ids"),
        ({"cases": [{"text": "a", "input_ids": [True], "token_ids": [1]}]}, "cases[0].input_ids[0]"),
        ({"cases": [{"text": "\ud800", "input_ids": [1], "token_ids": [1]}]}, "cases[0].text"),
        ({"cases": [{"text": "a", "input_ids": [1]}]}, 'key "cases[0].token_ids"'),
        ({"cases": [], "more": 1}, "no key"),
        ([], "an object"),
    ],
)
def test_golden_cases_fit_the_model(tmp_path, document, expected):
    with pytest.raises(BundleError) as caught:
        write_bundle(tmp_path / "tiny", MANIFEST, {**FILES, "golden.json": json.dumps(document).encode()})
    assert caught.value.file == "golden.json"
    assert expected in caught.value.expected


def test_importing_the_module_itself_loads_nothing_heavy():
    """Without the package's __init__, which imports the whole runtime."""
    code = f"""
import sys, types, numpy
import importlib.util  # the finder of an editable install needs it
before = set(sys.modules)
sys.modules["edge_s2s"] = package = types.ModuleType("edge_s2s")
package.__path__ = [{str(Path(bundle_module.__file__).parent)!r}]
import edge_s2s.bundle
print(*set(sys.modules) - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert "edge_s2s" in loaded
    heavy = {"shutil", "tempfile", "zipfile", "logging", "importlib", "onnxruntime", "tokenizers", "torch"}
    assert not loaded & heavy


def test_opening_twelve_megabytes_costs_little_more_than_hashing_them(path):
    """CPU time, the fastest of 7, as neighbours only ever add to it; measured 11 ms, 9 of them SHA-256."""
    keys = tiny_keys(vocab_size=8192, d_model=256, d_ff=768, n_heads=4, d_head=64)
    files = {
        **FILES,
        "encoder.onnx": bytes(8 << 20),
        "decoder.weights": write_weights(keys, tiny_tensors(keys)),
    }
    write_bundle(path, tiny_manifest(keys), files)
    open_seconds, hash_seconds = [], []
    for _ in range(7):
        start = time.process_time()
        open_bundle(path).close()
        open_seconds.append(time.process_time() - start)
        start = time.process_time()
        for data in (*files.values(), files["decoder.weights"]):  # whose own hash is checked too
            hashlib.sha256(data).digest()
        hash_seconds.append(time.process_time() - start)
    assert min(open_seconds) < min(hash_seconds) + 0.015
