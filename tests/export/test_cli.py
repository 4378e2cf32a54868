import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge_s2s.bundle import open_bundle
from edge_s2s_export import cli
from edge_s2s_export.probe_texts import probe_texts
from tiny_folders import make_tiny_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_folder(tmp_path_factory.mktemp("hf") / "tiny", seed=1)


def test_convert_writes_a_bundle_and_reports_each_step(folder: Path, tmp_path: Path, capsys):
    out = tmp_path / "b.es2s"
    arguments = ["--task", "answering", "--name", "echo", "--licence", "MIT", "--languages", "en", "de"]
    arguments += ["--prefix", "q: ", "--data", "one", "--data", "two", "--model-version", "1.2.3"]
    assert cli.main(["convert", str(folder), "--out", str(out), *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}: {out.stat().st_size / 1e6:.1f} MB\n"
    for step in ("load the checkpoint", "quantize", "check what int8 costs", "write the bundle"):
        assert f"{step} " in printed.err
    assert "int8_argmax_agreement" in printed.err
    with open_bundle(out) as bundle:
        manifest = bundle.manifest
    assert (manifest.name, manifest.version, manifest.task, manifest.prefix) == (
        "echo",
        "1.2.3",
        "answering",
        "q: ",
    )
    assert (manifest.languages, manifest.licence.weights) == (("en", "de"), "MIT")
    assert manifest.licence.data == ("one", "two")


def test_static_adds_encoders_to_a_bundle_and_keeps_the_rest(
    tiny_folder: Path, tiny_bundle: Path, tmp_path: Path, capsys
):
    out = tmp_path / "static.es2s"
    arguments = ["--bundle", str(tiny_bundle), "--out", str(out), "--buckets", "16", "--kinds", "static"]
    for _ in range(2):
        assert cli.main(["static", str(tiny_folder), *arguments, "--replace"]) == 0
        assert "static_16_argmax_agreement" in capsys.readouterr().err
        arguments[1] = str(out)  # its own static encoders are replaced
    with open_bundle(out) as made, open_bundle(tiny_bundle) as given:
        kinds = [(encoder.kind, encoder.file) for encoder in made.manifest.encoders]
        assert kinds == [("onnx", "encoder.onnx"), ("static", "encoder.static-16.onnx")]
        for name in given.manifest.files.keys() - {"eval.json"}:
            assert made.read(name) == given.read(name)
        report = json.loads(bytes(made.read("eval.json")))
        assert report["static_encoders"]["static_16_cosine_mean"] > 0.99


def test_static_refuses_a_checkpoint_of_another_model(
    folder: Path, tiny_bundle: Path, tmp_path: Path, capsys
):
    other = make_tiny_folder(tmp_path / "other", seed=3)
    out = tmp_path / "static.es2s"
    arguments = ["--bundle", str(tiny_bundle), "--out", str(out), "--buckets", "16", "--kinds", "static"]
    assert cli.main(["static", str(other), *arguments]) == 1
    assert "static_16: cross-attention K and V have cosine" in capsys.readouterr().err
    assert not out.exists()


def test_texts_come_from_a_file(folder: Path, tmp_path: Path, capsys):
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"source": f"{text} Bye."}) + "\n" for text in probe_texts(60)))
    arguments = ["convert", str(folder), "--out", str(tmp_path / "b.es2s"), "--dtype", "float32"]
    assert cli.main([*arguments, "--texts", str(texts)]) == 0
    with open_bundle(tmp_path / "b.es2s") as bundle:
        assert all(case.text.endswith(" Bye.") for case in bundle.golden())


@pytest.mark.parametrize("line", ['{"target": "x"}', "no json", '{"source": " "}', '["source"]'])
def test_a_bad_line_of_texts_is_named(folder: Path, tmp_path: Path, capsys, line: str):
    texts = tmp_path / "texts.jsonl"
    texts.write_text(f'{{"source": "good"}}\n{line}\n')
    arguments = ["convert", str(folder), "--out", str(tmp_path / "b.es2s"), "--texts", str(texts)]
    assert cli.main(arguments) == 1
    assert f"{texts}, line 2: expected" in capsys.readouterr().err


def test_a_failure_is_one_sentence_on_stderr(tmp_path: Path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "led"}')
    assert cli.main(["convert", str(tmp_path), "--out", str(tmp_path / "b.es2s")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(
        r"edge-s2s-export: config\.json: model_type 'led' is unknown; known: [a-z0-9_, ]+\n", printed.err
    )


def test_an_existing_file_is_not_replaced(folder: Path, tmp_path: Path, capsys):
    out = tmp_path / "b.es2s"
    out.write_bytes(b"mine")
    assert cli.main(["convert", str(folder), "--out", str(out)]) == 1
    assert out.read_bytes() == b"mine"
    assert "exists" in capsys.readouterr().err


def test_wrong_usage_exits_with_2(capsys):
    for arguments in ([], ["convert"], ["convert", "x"], ["convert", "x", "--out", "y", "--dtype", "int4"]):
        with pytest.raises(SystemExit) as exit_info:
            cli.main(arguments)
        assert exit_info.value.code == 2


def test_help_shows_examples(capsys):
    for arguments in (["--help"], ["convert", "--help"]):
        with pytest.raises(SystemExit) as exit_info:
            cli.main(arguments)
        assert exit_info.value.code == 0
        assert "edge-s2s-export convert ./flan-t5-small --out" in capsys.readouterr().out


def test_without_torch_it_says_what_to_install(tmp_path: Path):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from edge_s2s_export.cli import main\n"
        f"sys.exit(main(['convert', 'x', '--out', {str(tmp_path / 'b.es2s')!r}]))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 1
    assert "pip install 'edge_s2s[export]'" in run.stderr
    assert "Traceback" not in run.stderr
