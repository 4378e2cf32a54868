"""The Java binding: its own tests, on this machine's JVM and on an emulated ARM one.

They are JUnit tests in android_demo's test source set. Here they get what they compare with: a bundle, what
Python says to texts, and broken bundles with what the C library and Python say to them.
"""

import dataclasses
import hashlib
import json
import os
import struct
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest

import edge_s2s
from c_builds import EMULATED, ROOT, find_tool
from edge_s2s import BundleError, UnsupportedVersionError
from edge_s2s._core import ffi, lib
from edge_s2s.bundle import open_bundle
from edge_s2s.confidence import LOW_MEAN_LOGPROB, MAX_UNLIKELY_TOKENS
from edge_s2s.decoder import supported_isas
from edge_s2s.hybrid.policy import Mode, Privacy
from edge_s2s.manifest import MANIFEST, FileEntry, Manifest, seal
from edge_s2s.stored_zip import write_zip
from edge_s2s_export.convert import convert
from edge_s2s_export.probe_texts import probe_texts
from java_builds import TESTS, run_tests
from tiny_folders import PREFIX, make_tiny_folder

JVM_ROOT = Path(os.environ.get("EDGE_S2S_ARM64_JVM", ROOT / "build" / "arm64-jvm"))
REPORT = ROOT / "reports" / "java_arm64.json"
ARM_CPUS = ["cortex-a53", "cortex-a76", "max"]
N_TEXTS = 6
WEIGHTS, ENCODER, TOKENIZER = "decoder.weights", "encoder.weights", "tokenizer.table"
BAD, NEW = lib.ES2S_BAD_FORMAT, lib.ES2S_UNSUPPORTED_VERSION
PYTHON_TYPES = {BAD: BundleError, NEW: UnsupportedVersionError}


def sealed(files: Mapping[str, bytes]) -> bytes:
    """An .es2s whose manifest has the sizes and hashes of these files, right or wrong as they are."""
    listed = {n: FileEntry(len(d), hashlib.sha256(d).hexdigest()) for n, d in files.items() if n != MANIFEST}
    manifest = dataclasses.replace(Manifest.from_bytes(files[MANIFEST]), files=listed)
    return b"".join(write_zip({**files, MANIFEST: manifest.to_bytes()}))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def newer(weights: bytes) -> bytes:
    """With the next major version in the header."""
    return weights[:8] + struct.pack("<I", struct.unpack_from("<I", weights, 8)[0] + 1) + weights[12:]


def with_manifest(files: Mapping[str, bytes], **changes: object) -> bytes:
    """An .es2s with other values in its manifest, whose digest is right."""
    return b"".join(write_zip({**files, MANIFEST: seal(json.loads(files[MANIFEST]) | changes)}))


def broken_bundles(bundle: bytes, files: Mapping[str, bytes]) -> dict[str, tuple[bytes, int]]:
    """Name, bytes and the status that C must give. Files that C does not read are not broken here."""
    changed = {
        f"flipped_{name.partition('.')[0]}": (sealed({**files, name: flipped(files[name], -1000)}), BAD)
        for name in (WEIGHTS, ENCODER)
    }
    return changed | {
        "truncated": (bundle[: len(bundle) * 2 // 3], BAD),
        "one_byte_less": (bundle[:-1], BAD),
        "one_byte_more": (bundle + b"\0", BAD),
        "header_alone": (bundle[:30], BAD),
        "garbage": (bytes(range(256)) * 8, BAD),
        **{
            f"flipped_{name.partition('.')[0]}_in_place": (
                flipped(bundle, bundle.index(files[name]) + len(files[name]) // 2),
                BAD,
            )
            for name in (WEIGHTS, ENCODER, TOKENIZER)
        },
        "flipped_magic": (sealed({**files, WEIGHTS: flipped(files[WEIGHTS], 0)}), BAD),
        "short_weights": (sealed({**files, WEIGHTS: files[WEIGHTS][:-64]}), BAD),
        "empty_encoder": (sealed({**files, ENCODER: b""}), BAD),
        "flipped_manifest": (b"".join(write_zip({**files, MANIFEST: flipped(files[MANIFEST], -200)})), BAD),
        "no_manifest": (b"".join(write_zip({n: d for n, d in files.items() if n != MANIFEST})), BAD),
        "required_extension": (with_manifest(files, extensions_required=["new"]), BAD),
        "newer_format": (with_manifest(files, schema="edge-s2s-bundle/2"), NEW),
        "newer_runtime": (with_manifest(files, min_runtime="99.0.0"), NEW),
        "newer_decoder": (sealed({**files, WEIGHTS: newer(files[WEIGHTS])}), NEW),
        "newer_encoder": (sealed({**files, ENCODER: newer(files[ENCODER])}), NEW),
    }


def status_in_c(path: Path) -> int:
    model = ffi.new("es2s_model **")
    status = lib.es2s_model_load(os.fsencode(path), ffi.NULL, model)
    lib.es2s_model_free(model[0])
    assert isinstance(status, int)
    return status


def type_in_python(path: Path) -> str:
    with pytest.raises(BundleError) as error:
        edge_s2s.load(path, encoder="native")
    return type(error.value).__name__


def write_texts(folder: Path, texts: list[str]) -> None:
    """Each with Python's summary, that of the most pieces first: it is the one that is interrupted.

    And of each token whether its text may change when more follow it.
    """
    with edge_s2s.load(folder / "bundle.es2s", encoder="native") as model:
        results = [best for [best] in model.generate(texts)]
        n_pieces = [len([*model.stream(text)]) for text in texts]
        ids, tokenizer = range(model.manifest.dimensions.vocab_size), model._parts.tokenizer
        may_change = "".join(str(int(tokenizer.may_change(token))) for token in ids)
    (folder / "may_change.txt").write_text(may_change, encoding="utf-8")
    order = sorted(range(len(texts)), key=lambda i: -n_pieces[i])
    for rank, i in enumerate(order):
        (folder / f"{rank}.text").write_bytes(texts[i].encode())
        (folder / f"{rank}.summary").write_bytes(results[i].text.encode())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the Java tests read, with a tiny T5 that does not say bytes alone, as most seeds do."""
    folder = tmp_path_factory.mktemp("java")
    path = folder / "bundle.es2s"
    convert(make_tiny_folder(folder / "hf", 3), path, name="tiny", prefix=PREFIX, encoder="native")
    write_texts(folder, probe_texts(N_TEXTS))
    with open_bundle(path) as opened:
        names = (MANIFEST, *opened.manifest.files)
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in names}
    rows = []
    for name, (data, status) in broken_bundles(path.read_bytes(), contents).items():
        broken = folder / f"{name}.es2s"
        broken.write_bytes(data)
        rows.append(f"{broken.name}\t{status}\t{PYTHON_TYPES[status].__name__}\n")
    (folder / "errors.tsv").write_text("".join(rows), encoding="utf-8")
    return folder


def properties(**more: str) -> dict[str, str]:
    """What Java must agree with."""
    return {
        "edge_s2s.modes": f"[{', '.join(get_args(Mode))}]",
        "edge_s2s.privacies": f"[{', '.join(get_args(Privacy))}]",
        "edge_s2s.limits": f"{LOW_MEAN_LOGPROB} {MAX_UNLIKELY_TOKENS}",
        **{f"edge_s2s.{name}": value for name, value in more.items()},
    }


def test_c_and_python_agree_about_broken_bundles(files: Path):
    """And Java, in BundleErrorsTest."""
    for line in (files / "errors.tsv").read_text(encoding="utf-8").splitlines():
        name, status, kind = line.split("\t")
        assert (name, status_in_c(files / name)) == (name, int(status))
        assert (name, type_in_python(files / name)) == (name, kind)


def test_a_newer_tokenizer_is_told_by_c(files: Path, tmp_path: Path):
    """Python does not read that file: its tokenizer is tokenizer.json's."""
    with zipfile.ZipFile(files / "bundle.es2s") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    path = tmp_path / "newer.es2s"
    path.write_bytes(sealed({**contents, TOKENIZER: newer(contents[TOKENIZER])}))
    assert status_in_c(path) == NEW


@pytest.mark.parametrize("test", TESTS, ids=lambda path: path.stem)
def test_on_this_jvm(test: Path, files: Path):
    java = [find_tool("java")]
    assert run_tests(java, "release", files, test, properties(isa=supported_isas()[-1])).n_tests > 0


@pytest.mark.release
def test_the_default_model_summarizes_as_in_python(default_checkpoint: Path, tmp_path: Path):
    bundle = tmp_path / "bundle.es2s"
    convert(default_checkpoint, bundle, name="d", prefix="summarize dialogue: ", encoder="native")
    write_texts(tmp_path, [(ROOT / "examples" / "dialogue.txt").read_text(encoding="utf-8"), *probe_texts(5)])
    (tmp_path / "truncated.es2s").write_bytes(b"PK")
    [test] = [path for path in TESTS if path.stem == "EdgeS2STest"]
    more = {"isa": supported_isas()[-1], "rounds": "40"}
    assert run_tests([find_tool("java")], "release", tmp_path, test, properties(**more)).n_tests > 10


@pytest.mark.release
@pytest.mark.timeout(3600)
def test_on_an_arm64_jvm(files: Path):
    """From the folder that make_jvm_root.sh makes, under qemu. It says nothing about speed.

    Models that are opened and closed a thousand times have one thread here: qemu 7.2 keeps 250 KiB of each
    thread that has ended.
    """
    qemu = find_tool("qemu-aarch64-static", "qemu-aarch64")
    found = sorted(JVM_ROOT.glob("usr/lib/jvm/java-*-arm64/bin/java"))
    if not found:
        pytest.skip("there is no ARM JVM; tests/android/make_jvm_root.sh makes one")
    java = [qemu, "-L", str(JVM_ROOT), str(found[0])]
    report: dict[str, object] = {}
    for cpu in ARM_CPUS:
        isa = EMULATED[cpu].isa
        runs = {
            test.stem: run_tests(
                java, "aarch64", files, test, properties(isa=isa, threads="1"), QEMU_CPU=cpu
            ).n_tests
            for test in TESTS
        }
        report[cpu] = {"isa": isa, "passed": runs}
    version = subprocess.run([*java, "-version"], capture_output=True, text=True, check=True).stderr
    report["jvm"] = version.splitlines()[0]
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
