"""Examples in documents and examples/ run as printed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edge_s2s
from edge_s2s.bundle import open_bundle
from edge_s2s.decoder import DecoderModel
from edge_s2s.encoder import Encoder
from promises import with_table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEFAULT = edge_s2s.default_bundle_path()

needs_default_bundle = pytest.mark.skipif(not DEFAULT.exists(), reason="installed without the default bundle")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@needs_default_bundle
def test_python_example_of_the_readme_prints_summaries():
    (code,) = blocks("python")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "examples")
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0] in lines[1], "the stream differs from the summary"
    assert len(re.findall(r"-?\d+\.\d+ (?:eos|length) ", run.stdout)) == 2
    assert lines[-2] in ("a quarrel", "an appointment", "a joke")
    assert json.loads(lines[-1]).keys() == {"place", "hour"}


@needs_default_bundle
def test_python_example_program_streams_and_prints_candidates():
    run = subprocess.run(
        [sys.executable, "summarize.py", "dialogue.txt"],
        capture_output=True,
        text=True,
        cwd=ROOT / "examples",
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 3


@needs_default_bundle
def test_shell_examples_of_the_readme_run(tmp_path: Path):
    [script] = [block for block in blocks("bash") if "summarize meeting.txt" in block]
    dialogue = (ROOT / "examples" / "dialogue.txt").read_text(encoding="utf-8")
    for name in ("meeting.txt", "mail.txt", "summary.txt"):
        (tmp_path / name).write_text(dialogue, encoding="utf-8")
    (tmp_path / "in.jsonl").write_text(json.dumps({"source": dialogue}), encoding="utf-8")
    (tmp_path / "labels.txt").write_text("good\nbad\n", encoding="utf-8")
    environment = dict(os.environ, PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    run = subprocess.run(
        ["sh", "-e", "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert (run.returncode, run.stderr) == (0, "")
    streamed, as_json = run.stdout.splitlines()[:2]
    [row] = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert streamed == json.loads(as_json)["text"]
    assert json.loads(row)["text"], "unchecked, so it may be another one"


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_every_file_that_a_document_names_exists(document: str):
    named = re.findall(r"`([\w.]+/[\w./]*)`", (ROOT / document).read_text(encoding="utf-8"))
    assert len(named) >= 5
    ours = [name for name in named if not name.startswith("../")]  # the data need not lie beside a clone
    assert [name for name in ours if not (ROOT / name).exists()] == []


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@needs_default_bundle
def test_c_example_gives_the_same_tokens_as_python(tmp_path: Path):
    build = tmp_path / "build"
    cmake = [sys.executable, "-m", "cmake"]
    subprocess.run(
        [*cmake, "-S", ROOT, "-B", build, "-DCMAKE_BUILD_TYPE=Release"], check=True, capture_output=True
    )
    subprocess.run(
        [*cmake, "--build", build, "--target", "edge_s2s_static", "-j2"], check=True, capture_output=True
    )
    include, library = f"-I{ROOT}/csrc/include", build / "libedge_s2s.a"
    program = tmp_path / "decode"
    source = ROOT / "examples" / "c" / "decode.c"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", include]
    subprocess.run(["cc", *flags, source, library, "-lpthread", "-o", program], check=True)

    with open_bundle(DEFAULT) as bundle, edge_s2s.load() as model:
        text = "#Person1#: Shall we meet at six?\n#Person2#: I can't before seven."
        generation = model.generate([text])[0][0]
        weights = bundle.read("decoder.weights")
        (tmp_path / "decoder.weights").write_bytes(weights)
        decoder = DecoderModel(weights, num_threads=1)
        encoder = Encoder(bundle, num_threads=1)
        cross_kv = encoder.run(decoder.embed(np.array(model.encode(text), np.int32))).cross_kv
        (tmp_path / "cross_kv.f32").write_bytes(np.ascontiguousarray(cross_kv, np.float32).tobytes())
    run = subprocess.run(
        [program, tmp_path / "decoder.weights", tmp_path / "cross_kv.f32"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [int(t) for t in run.stdout.splitlines()[0].split()] == list(generation.token_ids)


def test_the_table_of_promises_shows_the_reports():
    assert with_table(README) == README, "run python tests/promises.py"
