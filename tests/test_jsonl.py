"""Batches of rows: every row once and in order, bad ones in their place, nothing finished lost by kill -9."""

import dataclasses
import io
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

import edge_s2s
from edge_s2s import GenerationOptions, Seq2SeqModel
from edge_s2s.cli import main
from edge_s2s.jsonl import generate_rows, open_output, read_rows
from edge_s2s_export.probe_texts import probe_texts

DATA = Path(os.environ.get("EDGE_S2S_DATA", Path(__file__).parents[2] / "shared" / "data"))
DIALOGSUM = DATA / "dialogsum" / "valid.jsonl.zst"
TEXTS = probe_texts(60)
ROWS: list[dict[str, object]] = [
    {"id": f"row {i}", "source": text, "n": i / 7} for i, text in enumerate(TEXTS)
]
RESULT = {"text", "token_ids", "score", "finish_reason", "origin"}
OPTIONS = GenerationOptions()


def to_lines(rows: list[dict[str, object]]) -> list[bytes]:
    return [json.dumps(row).encode() + b"\n" for row in rows]


def generated(
    model: Seq2SeqModel, lines: list[bytes], **settings: bool
) -> tuple[list[dict[str, object]], edge_s2s.jsonl.Counts]:
    out = io.BytesIO()
    counts = generate_rows(model, lines, out, OPTIONS, **settings)
    return [json.loads(line) for line in out.getvalue().splitlines()], counts


def test_each_row_comes_back_with_its_result_in_order(model: Seq2SeqModel):
    answers, counts = generated(model, to_lines(ROWS))
    assert counts == (len(ROWS), 0)
    for row, answer, [best] in zip(ROWS, answers, model.generate(TEXTS), strict=True):
        result = {name: answer.pop(name) for name in RESULT}
        assert answer == row
        expected = {name: getattr(best, name) for name in RESULT} | {"token_ids": list(best.token_ids)}
        assert result == expected


def test_token_ids_are_a_source_too(model: Seq2SeqModel):
    rows: list[dict[str, object]] = [{"input_ids": model.encode(text)} for text in TEXTS[:3]]
    answers, _ = generated(model, to_lines(rows))
    assert [answer["text"] for answer in answers] == [best.text for [best] in model.generate(TEXTS[:3])]


def test_a_row_may_have_options_and_a_beginning_of_its_own(model: Seq2SeqModel):
    beams = {"num_beams": 3, "length_penalty": 0.5}
    own: list[dict[str, object]] = [
        {},
        {"options": beams},
        {"options": {"do_sample": True, "seed": 4, "top_k": 9}},
        {"options": {}},
        {"options": beams, "decoder_input_ids": "The"},
        {"decoder_input_ids": [5, 9]},
        {"options": {"max_new_tokens": 3, "num_beams": None, "sequence_bias": [[[9], -2.5]]}},
    ]
    rows = [{**row, **extra} for row, extra in zip(ROWS, own, strict=False)]
    base = GenerationOptions(max_new_tokens=7, num_beams=2)
    out = io.BytesIO()
    assert generate_rows(model, to_lines(rows), out, base) == (len(own), 0)
    for row, answer in zip(rows, map(json.loads, out.getvalue().splitlines()), strict=True):
        options = dataclasses.replace(
            base, **{name: value for name, value in row.get("options", {}).items() if value is not None}
        )
        beginning = row.get("decoder_input_ids")
        [[expected, *_]] = model.generate([row["source"]], options, decoder_input_ids=[beginning])
        assert (answer["token_ids"], answer["text"]) == (list(expected.token_ids), expected.text)
        assert {name: answer[name] for name in row} == row
    assert len(set(out.getvalue().splitlines())) == len(own)


def test_rows_with_equal_options_are_decoded_together(model: Seq2SeqModel, monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []
    generate = Seq2SeqModel.generate
    monkeypatch.setattr(
        Seq2SeqModel,
        "generate",
        lambda self, texts, *rest, **named: calls.append(len(texts)) or generate(self, texts, *rest, **named),
    )
    rows = [{**row, "options": {"num_beams": 1 + i % 2}} for i, row in enumerate(ROWS[:8])]
    answers, _ = generated(model, to_lines(rows))
    assert calls == [4, 4]
    assert [answer["id"] for answer in answers] == [row["id"] for row in rows]


BAD = {
    b'{"id": 1}': 'expected one of "source" and "input_ids"',
    b'{"id": 1, "source": "a", "input_ids": [1]}': 'expected one of "source" and "input_ids"',
    b'{"source": ""}': "the text is blank",
    b'{"source": 7}': "source: expected text, found int",
    b'{"source": null}': "source: expected text, found NoneType",
    b'{"source": [1, 2]}': "source: expected text, found list",
    b'{"input_ids": "abc"}': "input_ids: expected a list of integers, found str",
    b'{"input_ids": [true, 1]}': "input_ids: expected a list of integers, found bool in it",
    b'{"input_ids": []}': "the text has no token ids",
    b'{"input_ids": [1, 99999]}': "the text: expected token ids in 0..",
    b'{"input_ids": ["a"]}': "input_ids: expected a list of integers, found str in it",
    b'{"source": "a", "options": 7}': "line 2: options: expected an object, found int",
    b'{"source": "a", "options": {"beams": 2}}': "line 2: options: beams: no such option; ",
    b'{"source": "a", "options": {"num_beams": "2"}}': "line 2: options: num_beams: expected an integer in",
    b'{"source": "a", "options": {"top_p": 2}}': "line 2: options: top_p: expected a number in 0..1",
    b'{"source": "a", "options": {"suppress_tokens": 3}}': "line 2: options: suppress_tokens: ",
    b'{"source": "a", "options": {"suppress_tokens": [999]}}': "line 2: options: suppress_tokens: expe",
    b'{"source": "a", "options": {"num_return_sequences": 2, "num_beams": 2}}': "line 2: options: num_return",
    b'{"source": "a", "decoder_input_ids": [true]}': "decoder_input_ids: expected a list of integers",
    b'{"source": "a", "decoder_input_ids": [999]}': "decoder_input_ids: expected token ids in 0..",
    b'{"source": "a"': "line 2 is not JSON: ",
    b'{"source": "a", "x": NaN}': "line 2 is not JSON: NaN is no number",
    b'{"source": "a", "x": -1e999}': "line 2 is not JSON: -1e999 is no number",
    b"[]": "line 2: expected a JSON object, found list",
    b'{"source": "\xff"}': "line 2 is not UTF-8 at byte 12",
    b"[" * 100_000: "line 2 is not JSON: ",
    **{b'{"source": "a", "x": %s}' % (b"[" * n + b"]" * n): "line 2" for n in range(950, 1000, 3)},
    json.dumps({"source": "\n".join(TEXTS)}).encode(): "the text has ",
}


@pytest.mark.parametrize("line", BAD, ids=lambda line: line[:40].decode("ascii", "replace"))
def test_a_bad_row_is_reported_in_its_place_and_harms_no_neighbour(model: Seq2SeqModel, line: bytes):
    good = to_lines(ROWS[:2])
    answers, counts = generated(model, [good[0], line + b"\n", good[1]])
    assert counts == (3, 1)
    error = answers[1].pop("error")
    assert isinstance(error, str)
    assert error.startswith(BAD[line])
    assert not answers[1].keys() & RESULT
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = {}
    if isinstance(row, dict) and "x" not in row:
        assert answers[1] == row
    assert [answer["text"] for answer in answers[::2]] == [best.text for [best] in model.generate(TEXTS[:2])]


def test_too_long_a_row_is_cut_on_demand_and_says_so(model: Seq2SeqModel):
    lines = to_lines([{"source": "\n".join(TEXTS)}, {"source": "a"}])
    answers, counts = generated(model, lines, truncation=True)
    assert counts == (2, 0)
    assert answers[0]["truncated"] is True
    assert "truncated" not in answers[1]


def test_blank_lines_a_bom_and_a_missing_last_newline_are_no_rows():
    lines = [b'\xef\xbb\xbf{"source": "a"}\r\n', b"\n", b" \r\n", b'{"source": "b"}']
    assert [row.values for row in read_rows(lines)] == [{"source": "a"}, {"source": "b"}]


def test_any_text_comes_through(model: Seq2SeqModel):
    text = '\u2028 \x00 \\ " 🙂 \ud800 é'
    answers, counts = generated(model, to_lines([{"source": text, "\udfff": text}]))
    assert counts == (1, 0)
    assert (answers[0]["source"], answers[0]["\udfff"]) == (text, text)


def test_results_of_an_earlier_run_are_replaced(model: Seq2SeqModel):
    answers, _ = generated(model, to_lines([{"source": TEXTS[0], "text": "old", "error": "old"}]))
    assert answers[0]["text"] == model.generate(TEXTS[:1])[0][0].text
    assert "error" not in answers[0]


def test_an_endless_input_is_read_as_it_comes(model: Seq2SeqModel):
    n_read = 0

    def lines() -> Iterator[bytes]:
        nonlocal n_read
        while True:
            n_read += 1
            if n_read > 24:
                raise KeyboardInterrupt
            yield from to_lines(ROWS[:1])

    out = io.BytesIO()
    with pytest.raises(KeyboardInterrupt):
        generate_rows(model, lines(), out, OPTIONS)
    assert len(out.getvalue().splitlines()) == 24


# ------------------------------------------------------------------------------------------------- resume


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """IN and OUT."""
    (tmp_path / "in.jsonl").write_bytes(b"".join(to_lines(ROWS)))
    return tmp_path / "in.jsonl", tmp_path / "out.jsonl"


def command(bundle: Path, files: tuple[Path, Path], *more: str) -> list[str]:
    return ["generate", "--jsonl", str(files[0]), "--out", str(files[1]), "--bundle", str(bundle), *more]


@pytest.fixture
def complete(tiny_bundle: Path, files: tuple[Path, Path]) -> bytes:
    """The output of one run; the file is gone again."""
    assert main(command(tiny_bundle, files)) == 0
    data = files[1].read_bytes()
    files[1].unlink()
    return data


def test_an_output_cut_anywhere_is_resumed_to_the_same_bytes(
    tiny_bundle: Path, files: tuple[Path, Path], complete: bytes
):
    rng = random.Random(0)
    newlines = [i for i, byte in enumerate(complete) if byte == ord("\n")]
    sizes = [0, 1, newlines[0], newlines[0] + 1, newlines[0] + 2, len(complete) - 1, len(complete)]
    for size in sizes + rng.sample(range(len(complete)), 8):
        files[1].write_bytes(complete[:size])
        assert main(command(tiny_bundle, files, "--resume")) == 0
        assert files[1].read_bytes() == complete


def test_resume_without_an_output_starts_one(tiny_bundle: Path, files: tuple[Path, Path], complete: bytes):
    assert main(command(tiny_bundle, files, "--resume")) == 0
    assert files[1].read_bytes() == complete


def test_an_output_that_exists_is_left_alone(
    tiny_bundle: Path, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
):
    files[1].write_bytes(b"precious")
    assert main(command(tiny_bundle, files)) == 1
    assert "exists; --resume goes on with it" in capsys.readouterr().err
    assert files[1].read_bytes() == b"precious"


def test_a_file_has_one_writer(tiny_bundle: Path, files: tuple[Path, Path], complete: bytes):
    with open_output(files[1], resume=False):
        process = subprocess.run(
            [sys.executable, "-m", "edge_s2s", *command(tiny_bundle, files, "--resume")], capture_output=True
        )
    assert (process.returncode, process.stdout) == (1, b"")
    assert b"out.jsonl: another process writes it" in process.stderr
    assert main(command(tiny_bundle, files, "--resume")) == 0
    assert files[1].read_bytes() == complete


def test_options_that_the_model_refuses_fail_before_there_is_an_output(
    tiny_bundle: Path, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
):
    assert main(command(tiny_bundle, files, "--max-new-tokens", "60000")) == 1
    assert "max_new_tokens is 60000" in capsys.readouterr().err
    assert not files[1].exists()


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (b"precious", "line 1 of the output is no row"),
        (b"precious\n", "line 1 of the output is not JSON"),
        (b"[" * 100_000 + b"\n", "line 1 of the output is not JSON"),
        (b"[]\n", "row 1 of the output does not belong to row 1"),
        (b'{"source": "other", "text": ""}\n{"torn', "row 1 of the output does not belong to row 1"),
        (b"IN", "row 1 of the output does not belong to row 1"),
        (b"FIRST\nFIRST\n", "row 2 of the output does not belong to row 2"),
        (b"ALL\nFIRST\n", "row 61 of the output does not belong to row 61"),
    ],
)
def test_resume_changes_no_file_that_is_not_its_own(
    tiny_bundle: Path,
    files: tuple[Path, Path],
    complete: bytes,
    capsys: pytest.CaptureFixture[str],
    output: bytes,
    sentence: str,
):
    first = complete.splitlines()[0]
    for name, data in {b"IN": files[0].read_bytes(), b"FIRST": first, b"ALL\n": complete}.items():
        output = output.replace(name, data)
    files[1].write_bytes(output)
    assert main(command(tiny_bundle, files, "--resume")) == 1
    assert sentence in capsys.readouterr().err
    assert files[1].read_bytes() == output


def test_input_and_output_must_be_two_files(tiny_bundle: Path, files: tuple[Path, Path]):
    before = files[0].read_bytes()
    for more in ([], ["--resume"]):
        with pytest.raises(SystemExit, match="2"):
            main(command(tiny_bundle, (files[0], files[0]), *more))
    assert files[0].read_bytes() == before


def test_failed_rows_are_exit_code_3_also_when_an_earlier_run_had_them(
    tiny_bundle: Path, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
):
    files[0].write_bytes(b"".join(to_lines([{"source": ""}, *ROWS[:2]])) + b"not JSON\n")
    assert main(command(tiny_bundle, files)) == 3
    assert capsys.readouterr().err == "edge-s2s: 2 of 4 rows failed; they have an error\n"
    before = files[1].read_bytes()
    assert main(command(tiny_bundle, files, "--resume")) == 3
    assert files[1].read_bytes() == before


def test_standard_input_to_standard_output(tiny_bundle: Path, files: tuple[Path, Path], complete: bytes):
    arguments = ["generate", "--jsonl", "-", "--out", "-", "--bundle", str(tiny_bundle)]
    run = subprocess.run(
        [sys.executable, "-m", "edge_s2s", *arguments], input=files[0].read_bytes(), capture_output=True
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, complete, b"")


def test_kept_rows_are_read_before_a_torn_one_is_cut(tmp_path: Path):
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": 2}\n{"c"')
    with open_output(path, resume=True) as (file, kept):
        assert next(kept) == {"a": 1}
        assert path.stat().st_size == 22
        assert list(kept) == [{"b": 2}]
        assert path.stat().st_size == 18
        file.write(b"{}\n")
    assert path.read_bytes() == b'{"a": 1}\n{"b": 2}\n{}\n'


# ---------------------------------------------------------------------------------------------------- kill -9


def kill_and_resume(arguments: list[str], out: Path, sizes: list[int]) -> None:
    """Runs the command with --resume and kills it when `out` has these sizes, then lets it end.

    After each kill the complete lines must begin with those of before.
    """
    run = [sys.executable, "-m", "edge_s2s", *arguments, "--resume"]
    finished = b""
    for size in sizes:
        with subprocess.Popen(run) as process:
            while (out.stat().st_size if out.exists() else -1) < size:
                assert process.poll() is None, "it ended before it was killed"
                time.sleep(0.001)
            process.kill()
        data = out.read_bytes()
        lines = data[: data.rfind(b"\n") + 1]
        assert lines.startswith(finished), "a finished row has changed"
        finished = lines
    assert subprocess.run(run).returncode == 0
    assert out.read_bytes().startswith(finished)


def random_sizes(largest: int) -> list[int]:
    """20 moments of a run, as sizes of its output; the first at once."""
    return [0, *sorted(random.Random(0).sample(range(largest), 19))]


def test_killed_at_20_random_moments_the_output_is_that_of_one_run(
    tiny_bundle: Path, files: tuple[Path, Path], tmp_path: Path
):
    rows: list[dict[str, object]] = [
        {"id": i, "source": TEXTS[i % 60] + "!" * (i // 60)} for i in range(2000)
    ]
    files[0].write_bytes(b"".join(to_lines(rows)))
    assert main(command(tiny_bundle, (files[0], tmp_path / "one.jsonl"))) == 0
    complete = (tmp_path / "one.jsonl").read_bytes()
    kill_and_resume(command(tiny_bundle, files), files[1], random_sizes(int(0.9 * len(complete))))
    assert files[1].read_bytes() == complete


@pytest.mark.skipif(not DIALOGSUM.exists(), reason="the DialogSum data is not here")
@pytest.mark.skipif(
    not edge_s2s.default_bundle_path().exists(), reason="installed without the default bundle"
)
def test_dialogsum_valid_survives_20_kills(tmp_path: Path):
    """500 dialogues with the default bundle: every row once and in order."""
    rows = [json.loads(line) for line in zstandard.open(DIALOGSUM, "rt", encoding="utf-8")]
    assert len(rows) == 500
    files = (tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    files[0].write_bytes(b"".join(to_lines(rows)))
    kill_and_resume(command(Path("default"), files), files[1], random_sizes(files[0].stat().st_size))
    answers = [json.loads(line) for line in files[1].read_bytes().splitlines()]
    assert [{name: answer[name] for name in row} for row, answer in zip(rows, answers, strict=True)] == rows
    assert all(answer["text"] for answer in answers)
