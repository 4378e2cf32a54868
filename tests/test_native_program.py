"""The whole model in C: one small library, and a program that turns a file into a summary on every CPU."""

import json
import re
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

import edge_s2s
from c_builds import EMULATED, ROOT, build, find_tool, run
from edge_s2s.bundle import open_bundle, write_bundle
from edge_s2s.decoder import Floats, Ints, supported_isas
from edge_s2s.generation import GenerationOptions
from edge_s2s.stored_zip import write_zip
from edge_s2s.weights import read_table, write_table
from edge_s2s_export.convert import convert
from edge_s2s_export.probe_texts import probe_texts
from test_cpu_parity import HOST
from test_default_bundle import DATA, read_documents
from test_memory import check_estimate

MAX_LIBRARY_SIZE = 500_000  # bytes, stripped
REPORT = ROOT / "reports" / "native_program.json"
NATIVE_FILES = ("decoder.weights", "encoder.weights", "tokenizer.table")
CPUS = [(HOST, supported_isas()[0]), (HOST, supported_isas()[-1])]
CPUS += [(cpu, emulated.isa) for cpu, emulated in EMULATED.items()]
FNV_START = 0xCBF29CE484222325
ROUGES = ["rouge1", "rouge2", "rougeL"]


@pytest.fixture(scope="module")
def bundle(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny T5 with a native encoder."""
    path = tmp_path_factory.mktemp("native") / "tiny.es2s"
    convert(tiny_folder, path, name="tiny", prefix="tell: ", encoder="native")
    return path


@pytest.fixture(scope="module")
def default_bundle(default_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model with a native encoder."""
    path = tmp_path_factory.mktemp("native") / "default.es2s"
    convert(default_checkpoint, path, name="default", prefix="summarize dialogue: ", encoder="native")
    return path


class Answer(NamedTuple):
    """What must be the same everywhere."""

    hash_of_cross_kv: int | None  # the encoder's keys and values
    hash_of_scores: int  # what each step chose from
    token_ids: list[int]
    text: str


def summarize(
    cpu: str, isa: str, bundle: Path, documents: list[str], n_threads: int = 1, every: int = 1
) -> list[Answer]:
    """By tests/csrc/summarize_documents.c; keys and values are those of every `every`-th document."""
    emulated = EMULATED.get(cpu)
    folder = build(emulated.build if emulated else "release", "summarize_documents")
    program = [*(emulated.emulator() if emulated else []), folder / "tests" / "csrc" / "summarize_documents"]
    given = "".join(f"{document}\0" for document in documents).encode()
    environment = {"QEMU_CPU": cpu} if emulated else {}
    result = subprocess.run(
        [*program, bundle, isa, str(n_threads), str(every)], input=given, capture_output=True, env=environment
    )
    assert result.returncode == 0, result.stderr.decode()
    lines = [line.split("\t") for line in result.stdout.decode().splitlines()]
    return [
        Answer(int(kv, 16) if i % every == 0 else None, int(scores, 16), [*map(int, ids.split())], text)
        for i, (kv, scores, ids, text) in enumerate(lines)
    ]


def python_summaries(bundle: Path, documents: list[str], every: int = 1) -> list[Answer]:
    """By Python, whose tokenizer is the library's."""
    with edge_s2s.load(bundle, encoder="native") as model:
        return [
            python_summary(model, document, with_cross_kv=i % every == 0)
            for i, document in enumerate(documents)
        ]


def python_summary(model: edge_s2s.Seq2SeqModel, document: str, with_cross_kv: bool) -> Answer:
    hash_of_scores = FNV_START

    def hash_scores(input_ids: Ints, scores: Floats) -> None:
        nonlocal hash_of_scores
        hash_of_scores = hash_floats(scores, hash_of_scores)

    options = GenerationOptions(num_beams=1)
    [[best]] = model.generate([document], options, logits_processor=hash_scores)
    bits = hash_of_cross_kv(model, document) if with_cross_kv else None
    return Answer(bits, hash_of_scores, list(best.token_ids), best.text.replace("\n", " "))


def hash_of_cross_kv(model: edge_s2s.Seq2SeqModel, document: str) -> int:
    ids = model.encode(document)
    with model._parts.decoder.session(1, 1, len(ids), 1) as session:
        assert session.encode(0, ids) is not None
        return hash_floats(session.source(0))


def hash_floats(values: Floats, bits: int = FNV_START) -> int:
    """FNV-1a, a word at a time."""
    for word in values.view(np.uint32).ravel().tolist():
        bits = (bits ^ word) * 0x100000001B3 & 0xFFFF_FFFF_FFFF_FFFF
    return bits


def test_two_hundred_documents_have_the_tokens_and_texts_of_python(bundle: Path):
    documents = [f"{text} {i}" for i, text in enumerate(probe_texts(200))]
    expected = python_summaries(bundle, documents)
    assert len({tuple(answer.token_ids) for answer in expected}) > 20
    assert summarize(HOST, supported_isas()[-1], bundle, documents, n_threads=2) == expected


@pytest.mark.parametrize(("cpu", "isa"), CPUS)
def test_documents_have_the_same_tokens_and_bits_on(cpu: str, isa: str, bundle: Path):
    documents = probe_texts(5)
    assert summarize(cpu, isa, bundle, documents) == python_summaries(bundle, documents)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of examples/c."""
    program = tmp_path_factory.mktemp("program") / "summarize"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}/csrc/include"]
    library = build("release", "edge_s2s_static") / "libedge_s2s.a"
    source = ROOT / "examples" / "c" / "summarize.c"
    run(find_tool("cc"), *flags, source, library, "-lpthread", "-lm", "-o", program)
    return program


def test_the_example_program_summarizes_a_file(bundle: Path, example: Path, tmp_path: Path):
    program = example
    document = (ROOT / "examples" / "dialogue.txt").read_text(encoding="utf-8")[:400]
    with edge_s2s.load(bundle, encoder="native") as model:
        [[expected]] = model.generate([document])
    folder = tmp_path / "folder"
    with open_bundle(bundle) as opened:
        files = {name: bytes(opened.read(name)) for name in opened.manifest.files}
        write_bundle(folder, opened.manifest, files)
    for path in (bundle, folder):
        result = subprocess.run([program, path], input=document, capture_output=True, text=True)
        assert (result.stdout, result.stderr) == (f"{expected.text}\n", "")
    for path, document, message in (
        (tmp_path / "nowhere", "a", "cannot open"),
        (ROOT / "README.md", "a", 'expected a file that starts with "es2swts"'),
        (bundle, "a" * 20_000, "expected at most"),
    ):
        result = subprocess.run([program, path], input=document, capture_output=True, text=True)
        assert (result.returncode, result.stdout) == (1, "")
        assert message in result.stderr
    result = subprocess.run([program, bundle], input=b"\xff", capture_output=True)
    assert b"expected UTF-8" in result.stderr


# Prints the most KiB that its arguments held. It is a small process, because Linux hands on through exec the
# peak of the one that forked.
PEAK = """
import os, sys
os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
pid, status, usage = os.wait4(-1, 0)
print(usage.ru_maxrss if status == 0 else "failed")
"""


def test_the_program_needs_the_bundle_and_15_mb(default_bundle: Path, example: Path):
    """For a dialogue of 200 words, with the mapped pages of the bundle."""
    document = (ROOT / "examples" / "dialogue.txt").read_bytes()
    assert 200 <= len(document.split()) <= 250
    limit = default_bundle.stat().st_size + 15_000_000
    for n_threads in ("1", "2"):
        command = [sys.executable, "-I", "-S", "-c", PEAK, example, default_bundle, n_threads]
        result = subprocess.run(command, input=document, capture_output=True, check=True)
        summary, peak = result.stdout.splitlines()
        assert len(summary.split()) > 5
        assert 5_000_000 < 1024 * int(peak) <= limit


def test_the_estimate_of_memory_is_what_a_bundle_with_a_native_encoder_takes_in_python(bundle: Path):
    check_estimate(bundle)


def test_verify_compares_the_tokenizer_of_the_core_with_the_golden_texts(bundle: Path, tmp_path: Path):
    with open_bundle(bundle) as opened:
        manifest, files = opened.manifest, {name: bytes(opened.read(name)) for name in opened.manifest.files}
    _, keys, tensors = read_table(files["tokenizer.table"], "tokenizer.table")
    tail = np.array([[2, 0, 0, 0]], np.int8)  # another token behind every text
    files["tokenizer.table"] = write_table(keys, {**tensors, "tail": tail})
    write_bundle(tmp_path / "tail.es2s", manifest, files)
    files["tokenizer.table"] = files["decoder.weights"]
    write_bundle(tmp_path / "none.es2s", manifest, files)
    for path, status, line in (
        (bundle, 0, r"✓ tokenizer.table: the same ids and texts as tokenizer.json for \d+ golden texts"),
        (tmp_path / "tail.es2s", 1, r"✗ tokenizer.table: expected input ids \[.*\] for golden 0, .* 2\]"),
        (tmp_path / "none.es2s", 1, r'✗ tokenizer.table: .*found tokenizer.table: key "n_tokens": .*'),
    ):
        command = [sys.executable, "-m", "edge_s2s", "verify", path]
        result = subprocess.run(command, capture_output=True, encoding="utf-8")
        found = [line for line in result.stdout.splitlines() if "tokenizer.table" in line]
        assert (result.returncode, len(found)) == (status, 1), result.stdout + result.stderr
        assert re.fullmatch(line, found[0])


@cache
def zip_files(bundle: Path) -> dict[str, bytes]:
    with open_bundle(bundle) as opened:
        return {name: bytes(opened.read(name)) for name in ("manifest.json", *NATIVE_FILES)}


def test_damaged_zips_are_refused_by_name(bundle: Path, tmp_path: Path):
    """Under AddressSanitizer: changed bits outside the files, a byte less, and one more."""
    files = zip_files(bundle)
    data = b"".join(write_zip(files))
    inside = np.zeros(len(data), bool)
    for content in files.values():
        at = data.index(content)
        inside[at : at + len(content)] = True
    outside = np.flatnonzero(~inside)
    program = build("address,undefined", "summarize_documents") / "tests" / "csrc" / "summarize_documents"
    path = tmp_path / "b.es2s"

    def answer(damaged: bytes) -> str:
        path.write_bytes(damaged)
        result = subprocess.run(
            [program, path, "scalar", "1", "1"], input="one two\0", capture_output=True, text=True
        )
        assert result.returncode in (0, 1), result.stderr
        assert "Sanitizer" not in result.stderr
        return result.stderr

    assert answer(data) == ""
    assert "the file is incomplete" in answer(data[:-1])
    assert "the file is incomplete" in answer(data + b"\0")
    assert "expected decoder.weights" in answer(b"".join(write_zip({"a": b"b"})))
    draw = np.random.default_rng(1)
    n_refused = 0
    for at in draw.choice(outside, 40, replace=False):
        damaged = bytearray(data)
        damaged[at] ^= 1 << draw.integers(8)
        n_refused += answer(bytes(damaged)) != ""
    assert n_refused > 10


@pytest.mark.parametrize("architecture", ["release", "aarch64"])
def test_the_library_is_small_and_needs_libc_alone(architecture: str, tmp_path: Path):
    strip = "strip" if architecture == "release" else "aarch64-linux-gnu-strip"
    folder = build(architecture, "edge_s2s_shared")
    stripped = tmp_path / "libedge_s2s.so"
    run(find_tool(strip), "-o", stripped, folder / "libedge_s2s.so")
    assert stripped.stat().st_size <= MAX_LIBRARY_SIZE
    needed = re.findall(r"\(NEEDED\).*\[(.*?)\.so", run(find_tool("readelf"), "-d", stripped, LC_ALL="C"))
    loaders = {"ld-linux-x86-64", "ld-linux-aarch64"}  # libc's own, for thread-local storage
    assert set(needed) <= {"libc", "libpthread"} | loaders


@pytest.mark.release
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("cpu", "isa"), CPUS)
def test_two_hundred_documents_have_the_same_tokens_and_bits_on(cpu: str, isa: str, default_bundle: Path):
    documents = [f"#Person1#: {text}\n#Person2#: Number {i}." for i, text in enumerate(probe_texts(200))]
    expected = python_summaries(default_bundle, documents)
    assert summarize(cpu, isa, default_bundle, documents) == expected
    digest = zlib.crc32(json.dumps(expected).encode())
    found = {
        "documents": len(documents),
        "tokens": sum(len(answer.token_ids) for answer in expected),
        "encoder_bits_of": sum(answer.hash_of_cross_kv is not None for answer in expected),
        "different": 0,
        "crc_of_answers": digest,
    }
    write_report(f"{cpu}, {isa}", found)


def write_report(name: str, found: dict[str, object]) -> None:
    """Adds to what the file has of other CPUs."""
    REPORT.parent.mkdir(exist_ok=True)
    report = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.exists() else {}
    report[name] = found
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def rouge(answers: list[Answer], targets: list[str]) -> dict[str, float]:
    """Mean F1 x 100."""
    scorer = RougeScorer(ROUGES, use_stemmer=True)
    scores = [scorer.score(target, answer.text) for answer, target in zip(answers, targets, strict=True)]
    return {kind: 100 * float(np.mean([score[kind].fmeasure for score in scores])) for kind in ROUGES}


@pytest.mark.release
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not DATA.exists(), reason="DialogSum is not there (EDGE_S2S_DATA)")
@pytest.mark.parametrize(("cpu", "isa"), CPUS[1:])
def test_fifty_dialogues_have_the_rouge_of_this_machine_on(cpu: str, isa: str, default_bundle: Path):
    rows = read_documents()[:50]
    sources, targets = ([row[name] for row in rows] for name in ("source", "target"))
    expected = rouge(python_summaries(default_bundle, sources, every=len(sources)), targets)
    assert expected["rouge1"] > 30  # these are summaries
    found = rouge(summarize(cpu, isa, default_bundle, sources, every=len(sources)), targets)
    assert found == expected
    rounded = {kind: round(value, 2) for kind, value in found.items()}
    write_report(f"{cpu}, {isa}: ROUGE", {"documents": len(rows), **rounded})
