"""The command line as a user meets it: output, errors in one sentence, exit codes, pipes, Ctrl-C."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import edge_s2s
from edge_s2s import Seq2SeqModel
from edge_s2s.bundle import open_bundle, write_bundle
from edge_s2s.cli import main
from edge_s2s_export.probe_texts import probe_texts
from tiny_folders import PREFIX

TEXTS = probe_texts(30)
COMMAND = [sys.executable, "-m", "edge_s2s"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a command line in a process of its own, in an empty folder."""

    def run(*arguments: object, stdin: bytes = b"", **environment: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            cwd=tmp_path,
            env={**os.environ, **environment},
        )
        output = (done.stdout.decode(), done.stderr.decode())
        return subprocess.CompletedProcess(done.args, done.returncode, *output)

    return run


def fails(done: "subprocess.CompletedProcess[str]", code: int, sentence: str) -> bool:
    """Whether a command ended with this code, silent but for one sentence on stderr."""
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (code, "", 1), done
    assert re.search(sentence, lines[0]), lines[0]
    return lines[0].startswith("edge-s2s: error: ")


# ----------------------------------------------------------------------------------------------- summarize


def test_a_long_document_shows_its_progress_on_a_terminal_only(run: Run, tiny_bundle: Path, tmp_path: Path):
    (tmp_path / "long.txt").write_text(" ".join(TEXTS * 30), encoding="utf-8")
    assert run("summarize", "long.txt", "--bundle", tiny_bundle).stderr == ""
    terminal, end = pty.openpty()
    command = [*COMMAND, "summarize", "long.txt", "--bundle", str(tiny_bundle)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=end, cwd=tmp_path)
    os.close(end)
    shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert done.returncode == 0
    assert re.search(r"\rread 8 of \d+ parts, 0:\d\d:\d\d left", shown), shown
    assert shown.endswith("\r\x1b[K"), "cleared"


def test_summarize_prints_the_summary(run: Run, tiny_bundle: Path, model: Seq2SeqModel, tmp_path: Path):
    (tmp_path / "talk.txt").write_text(TEXTS[0], encoding="utf-8")
    done = run("summarize", "talk.txt", "--bundle", tiny_bundle)
    assert (done.returncode, done.stdout, done.stderr) == (0, model.summarize(TEXTS[0]).text + "\n", "")


def test_summarize_reads_standard_input_and_writes_json(run: Run, tiny_bundle: Path, model: Seq2SeqModel):
    done = run(
        "summarize", "-", "--json", "--num-beams", "3", "--bundle", tiny_bundle, stdin=TEXTS[0].encode()
    )
    found = json.loads(done.stdout)
    expected = model.summarize(TEXTS[0], edge_s2s.GenerationOptions(num_beams=3))
    assert found.keys() == vars(expected).keys()
    assert (found["text"], tuple(found["token_ids"]), found["score"]) == (
        expected.text, expected.token_ids, expected.score,
    )  # fmt: skip
    assert found["stats"]["n_chunks"] == 1


def test_summarize_takes_documents_of_any_length(run: Run, tiny_bundle: Path, model: Seq2SeqModel):
    document = "\n".join(TEXTS)
    done = run("summarize", "-", "--bundle", tiny_bundle, stdin=document.encode())
    assert done.stdout == model.summarize(document).text + "\n"


def test_a_bom_and_windows_line_ends_are_no_text(run: Run, tiny_bundle: Path):
    expected = run("summarize", "-", "--bundle", tiny_bundle, stdin=b"Anna: hi\nTom: yes")
    windows = run("summarize", "-", "--bundle", tiny_bundle, stdin=b"\xef\xbb\xbfAnna: hi\r\nTom: yes")
    assert expected.stdout == windows.stdout != ""


def test_what_the_terminal_cannot_show_is_escaped(run: Run, tiny_bundle: Path):
    done = run("summarize", "-", "--bundle", tiny_bundle, stdin="🙂 ".encode() * 50, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------ generate


def test_results_may_be_held_to_lines_of_a_file_or_to_a_schema(run: Run, tmp_path: Path):
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"source": text}) + "\n" for text in TEXTS[:3]))
    (tmp_path / "labels.txt").write_text("good news\nbad news\n")
    (tmp_path / "schema.json").write_text('{"enum": ["good", "bad"]}')
    for flag, file, expected in (
        ("--allowed", "labels.txt", {"good news", "bad news"}),
        ("--json-schema", "schema.json", {'"good"', '"bad"'}),
    ):
        done = run("generate", "--jsonl", "in.jsonl", "--out", "-", flag, file)
        results = [json.loads(line)["text"] for line in done.stdout.splitlines()]
        assert len(results) == 3
        assert set(results) <= expected


def test_a_constraint_that_cannot_be_is_one_sentence(run: Run, tmp_path: Path):
    (tmp_path / "in.jsonl").write_text('{"source": "a"}\n')
    (tmp_path / "texts.txt").write_text("fine\n\ufb01ne\n", encoding="utf-8")
    (tmp_path / "schema.json").write_text('{"type": "person"}')
    command = ["generate", "--jsonl", "in.jsonl", "--out", "out.jsonl"]
    assert fails(run(*command, "--allowed", "texts.txt"), 1, "allow_texts: '\ufb01ne' would become 'fine'")
    assert fails(run(*command, "--json-schema", "schema.json"), 1, "json_schema: Invalid type: person")
    assert fails(
        run(*command, "--allowed", "texts.txt", "--json-schema", "schema.json"), 2, "not allowed with"
    )
    assert not (tmp_path / "out.jsonl").exists()


# --------------------------------------------------------------------------------------------------- score


def test_score_shows_each_token_of_a_target_and_what_could_have_come(run: Run, tmp_path: Path):
    (tmp_path / "a.txt").write_text(TEXTS[0], encoding="utf-8")
    (tmp_path / "b.txt").write_text("Anna is late.\n", encoding="utf-8")
    with edge_s2s.load() as model:
        [expected] = model.score([TEXTS[0]], ["Anna is late."], num_alternatives=2)
    command = ["score", "a.txt", "b.txt", "--num-alternatives", 2]
    found = json.loads(run(*command, "--json").stdout)
    assert tuple(found["token_logprobs"]) == expected.token_logprobs
    assert [[a["token_id"] for a in step] for step in found["alternatives"]] == [
        [a.token_id for a in step] for step in expected.alternatives
    ]
    lines = run(*command).stdout.splitlines()
    assert lines[0].startswith(f"score {expected.score:.3f}, sum ")
    assert len(lines) == 1 + len(expected.token_ids)
    assert f"{expected.alternatives[0][1].logprob:.3f}" in lines[1]


# ------------------------------------------------------------------------------------------- info and verify


def test_info_says_what_a_bundle_is(run: Run, tiny_bundle: Path):
    done = run("info", tiny_bundle)
    assert done.returncode == 0
    for line in (
        r"name +tiny 1\.0\.0",
        f"prefix +'{PREFIX}'",
        "limits +1024 source tokens",
        r"encoder\.onnx +\d+ bytes",
    ):
        assert re.search(f"^{line}", done.stdout, flags=re.MULTILINE), line
    assert "penalty" not in done.stdout, "a rule that is off"
    with open_bundle(tiny_bundle) as bundle:
        manifest = json.loads(bytes(bundle.read("manifest.json")))
    found = json.loads(run("info", tiny_bundle, "--json").stdout)
    assert found == {name: manifest[name] for name in found}
    assert manifest.keys() - found.keys() == {"schema", "digest"}


def test_info_lists_accelerators_and_why_there_are_none(run: Run, tiny_bundle: Path):
    done = run("info", "--providers")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["qnn", "openvino", "coreml", "nnapi", "xnnpack"]
    for name, found in json.loads(run("info", "--providers", "--json").stdout).items():
        [line] = [line for line in lines if line.split()[1] == name]
        assert line.startswith("✓" if found["runs"] else "✗")
        assert line.endswith(found["detail"])
        assert found["runs"] or re.search("pip install|have it|is there hardware", found["detail"])
    for arguments in ([], [tiny_bundle, "--providers"]):
        assert "expected BUNDLE or --providers" in run("info", *arguments).stderr


def test_what_an_accelerator_cannot_run_is_an_error_unless_the_cpu_may(run: Run, tiny_bundle: Path):
    command = ["summarize", "-", "--bundle", tiny_bundle, "--provider", "openvino"]
    refused = run(*command, stdin=b"Tom said hi.")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "edge-s2s-export static adds one" in refused.stderr
    done = run(*command, "--fallback", "cpu", "--json", stdin=b"Tom said hi.")
    assert "edge-s2s-export static" in json.loads(done.stdout)["stats"]["fallback"]
    lonely = run("summarize", "-", "--fallback", "cpu", stdin=b"Tom said hi.")
    assert (lonely.returncode, "--fallback is for --provider" in lonely.stderr) == (2, True)


def test_verify_ticks_every_check(run: Run, tiny_bundle: Path):
    done = run("verify", tiny_bundle)
    with open_bundle(tiny_bundle) as bundle:
        n_golden = len(bundle.golden())
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert len(lines) == 3 + n_golden
    assert all(line.startswith("✓ ") for line in lines)
    found = json.loads(run("verify", tiny_bundle, "--json").stdout)
    assert found["ok"]
    assert [check["name"] for check in found["checks"]][:3] == ["files", "weights", "model"]


def test_verify_finds_a_flipped_bit(run: Run, tiny_bundle: Path, tmp_path: Path):
    data = bytearray(tiny_bundle.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "flipped.es2s").write_bytes(data)
    done = run("verify", "flipped.es2s")
    assert done.returncode == 1
    assert re.fullmatch("✗ files: .*: expected .*, found .*\n", done.stdout)
    assert not json.loads(run("verify", "flipped.es2s", "--json").stdout)["ok"]


@pytest.mark.parametrize(
    ("change", "sentence"), [("input_ids", "expected input ids"), ("token_ids", "expected tokens")]
)
def test_verify_finds_an_answer_that_differs(
    run: Run, tiny_bundle: Path, tmp_path: Path, change: str, sentence: str
):
    with open_bundle(tiny_bundle) as bundle:
        files = {name: bytes(bundle.read(name)) for name in bundle.manifest.files}
        golden = json.loads(files["golden.json"])
        golden["cases"][1][change][0] = 3
        files["golden.json"] = json.dumps(golden).encode()
        write_bundle(tmp_path / "other.es2s", bundle.manifest, files)
    done = run("verify", "other.es2s")
    assert done.returncode == 1
    wrong = [line for line in done.stdout.splitlines() if line.startswith("✗")]
    assert len(wrong) == 1
    assert wrong[0].startswith(f"✗ golden 1: {sentence} [")


def test_verify_finds_an_encoder_that_does_not_load(run: Run, tiny_bundle: Path, tmp_path: Path):
    with open_bundle(tiny_bundle) as bundle:
        files = {name: bytes(bundle.read(name)) for name in bundle.manifest.files} | {
            "encoder.onnx": b"\x08\x08"
        }
        write_bundle(tmp_path / "other.es2s", bundle.manifest, files)
    done = run("verify", "other.es2s")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("✗ model: encoder.onnx: expected ")
    assert done.stderr == ""


# ------------------------------------------------------------------------------------- errors and exit codes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "required: COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["summarize"], "required: FILE; see edge-s2s summarize --help"),
        (["summarize", "a", "--num-beams", "two"], "--num-beams: invalid int value"),
        (["summarize", "a", "--num-beams", "0"], "num_beams: expected an integer"),
        (["summarize", "a", "--num-beams", "1", "--what"], "unrecognized arguments: --what"),
        (
            ["summarize", "a", "--num-beam", "1"],
            "unrecognized arguments: --num-beam",
        ),  # a later flag may fit too
        (["summarize", "a", "--num-threads", "99"], "--num-threads: expected a number in 1..64, found 99"),
        (["verify", "default", "--num-threads", "no"], "--num-threads: expected a number in 1..64, found no"),
        (["generate", "--jsonl", "a"], "required: --out"),
        (["generate", "--jsonl", "-", "--out", "-", "--resume"], "--resume needs a file"),
    ],
)
def test_usage_errors_are_2(run: Run, arguments: list[str], sentence: str):
    assert fails(run(*arguments), 2, sentence)


def test_other_errors_are_1(run: Run, tiny_bundle: Path, tmp_path: Path):
    (tmp_path / "latin1.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "blank.txt").write_bytes(b" \n")
    (tmp_path / "a.txt").write_bytes(b"text")
    bundle = ("--bundle", tiny_bundle)
    assert fails(run("summarize", "nowhere.txt", *bundle), 1, r"nowhere\.txt: No such file")
    assert fails(run("summarize", "latin1.txt", *bundle), 1, r"latin1\.txt is not UTF-8: byte 3 is 0xE9")
    assert fails(
        run("summarize", "-", *bundle, stdin=b"\xff"), 1, "standard input is not UTF-8: byte 0 is 0xFF"
    )
    assert fails(run("summarize", "blank.txt", *bundle), 1, "the document is blank")
    assert fails(run("summarize", "a.txt", "--bundle", "nowhere"), 1, "nowhere: expected a file or directory")
    assert fails(run("summarize", "a.txt", "--bundle", "a.txt"), 1, r"a\.txt: expected")
    assert fails(
        run("summarize", "a.txt", *bundle, "--max-new-tokens", "60000"), 1, "max_new_tokens is 60000"
    )
    assert fails(run("summarize", "a.txt", *bundle, EDGE_S2S_NUM_THREADS="x"), 1, "EDGE_S2S_NUM_THREADS")
    assert fails(run("info", "nowhere"), 1, "nowhere: expected a file or directory")


def test_without_the_default_bundle_every_command_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("edge_s2s.loading.__file__", str(tmp_path / "loading.py"))
    (tmp_path / "a.txt").write_text("text")
    for arguments in (["info", "default"], ["verify", "default"], ["summarize", str(tmp_path / "a.txt")]):
        assert main(arguments) == 1
        assert "edge-s2s-export convert makes" in capsys.readouterr().err


def test_help_of_each_command_has_examples(run: Run):
    for command in ("summarize", "generate", "info", "verify"):
        done = run(command, "--help")
        assert done.returncode == 0
        assert f"examples:\n  edge-s2s {command} " in done.stdout
    assert run("--version").stdout == f"edge-s2s {edge_s2s.__version__}\n"


# ------------------------------------------------------------------------------------ pipes and interruption


def test_a_reader_that_goes_away_is_met_with_silence(tiny_bundle: Path, tmp_path: Path):
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"source": text}) + "\n" for text in TEXTS * 20))
    command = [*COMMAND, "generate", "--jsonl", "in.jsonl", "--out", "-", "--bundle", str(tiny_bundle)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["text"]
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_closed_stream_is_like_dev_null(tiny_bundle: Path, closed: str):
    null = {"<&-": "</dev/null", ">&-": ">/dev/null", "2>&-": "2>/dev/null"}[closed]
    for arguments in (["summarize", "-", "--bundle", str(tiny_bundle)], ["info", str(tiny_bundle)]):
        shell = [
            subprocess.run(
                ["sh", "-c", f'exec "$@" {how}', "sh", *COMMAND, *arguments], input=b"", capture_output=True
            )
            for how in (closed, null)
        ]
        outcome, expected = [(done.returncode, done.stdout, done.stderr) for done in shell]
        assert outcome == expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, which Linux has")
def test_a_full_disk_is_one_sentence(tiny_bundle: Path):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*COMMAND, "info", str(tiny_bundle)], stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"edge-s2s: error: No space left on device\n")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc, which Linux has")
@pytest.mark.parametrize("command", ["summarize", "generate"])
def test_ctrl_c_ends_a_command_at_once_with_130(tiny_bundle: Path, tmp_path: Path, command: str):
    rows = "".join(json.dumps({"source": text}) + "\n" for text in TEXTS * 500)
    (tmp_path / "in.jsonl").write_text(rows)
    (tmp_path / "in.txt").write_text("\n".join(TEXTS * 500))
    arguments = {
        "summarize": ["in.txt"],
        "generate": ["--jsonl", "in.jsonl", "--out", "out.jsonl", "--num-beams", "8"],
    }[command]
    with subprocess.Popen(
        [*COMMAND, command, *arguments, "--bundle", str(tiny_bundle)], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        while str(tiny_bundle) not in Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)  # all of it takes minutes
    assert (process.returncode, errors) == (130, b"")


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("--suppress-tokens", "[3", "argument --suppress-tokens: expected JSON such as [3, 4], found [3"),
        ("--suppress-tokens", "3", "suppress_tokens: expected a list of token ids, found 3"),
        ("--sequence-bias", "[[[3], NaN]]", "sequence_bias: expected a number"),
        ("--exponential-decay-length-penalty", "[3]", "expected (start, factor), found [3]"),
        ("--encoder-repetition-penalty", "0", "encoder_repetition_penalty: expected a number"),
    ],
)
def test_a_wrong_rule_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], flag: str, value: str, sentence: str
):
    with pytest.raises(SystemExit) as end:
        main(["generate", "--jsonl", "in.jsonl", "--out", "out.jsonl", flag, value])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err
