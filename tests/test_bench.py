"""The benchmark runs and its tables hold what was measured; no figure is judged here."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edge_s2s
from edge_s2s.bundle import write_bundle
from edge_s2s.weights import complete_keys
from tiny_bundle import tiny_files, tiny_keys, tiny_manifest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # behind the installed packages, which edge_s2s/ would hide

from bench import answers, deferral, hybrid, kv_cache, readme, results_file, startup  # noqa: E402

needs_default_bundle = pytest.mark.skipif(
    not edge_s2s.default_bundle_path().exists(), reason="installed without the default bundle"
)


def bench(*arguments: str | Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "bench", *arguments]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@needs_default_bundle
@pytest.mark.skipif(
    not (Path(sys.executable).parent / "edge-s2s").exists(), reason="the edge-s2s command is not installed"
)
def test_start_up_is_measured_reported_and_compared(tmp_path: Path):
    out = tmp_path / "result.json"
    printed = bench("run", "--startup-only", "--rounds", "1", "--threads", "1", "--out", out)
    measured = json.loads(out.read_text(encoding="utf-8"))["units"]["startup/t1"]["figures"]
    assert measured.keys() == {
        "summarize_process_s",
        "summarize_peak_rss_mb",
        "import_s",
        "load_and_first_token_s",
    }
    for name, figure in measured.items():
        assert figure["median"] > 0
        assert name in printed
        assert f"| {figure['median']:.4g} ({figure['p10']:.4g}-{figure['p90']:.4g}) |" in printed
    assert bench("compare", out, out).count(" 1.000\n") == len(measured)


def test_the_peak_memory_of_a_process_is_not_that_of_the_one_that_measures(tmp_path: Path):
    ballast = b"x" * (200 << 20)
    wall_s, peak_mb = startup.watch([sys.executable, "-S", "-c", "pass"], tmp_path)
    assert len(ballast) > 0
    assert wall_s > 0
    assert 1 < peak_mb < 100


def test_lines_that_were_kept_may_hold_any_text_and_one_that_was_cut_is_not_among_them(tmp_path: Path):
    path = tmp_path / "kept.jsonl"
    lines = [{"text": "one\u2028two\u0085\n"}, {"text": ""}]
    whole = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(whole + '{"text": "cu', encoding="utf-8")
    assert answers.kept_lines(path) == lines
    assert path.read_text(encoding="utf-8") == whole
    assert answers.kept_lines(tmp_path / "none.jsonl") == []


def test_curves_are_means_over_what_is_sent():
    draw = np.random.default_rng(0)
    order, local, cloud = draw.random((3, 40)) * 100
    found = deferral.curve(order, local, cloud)
    for percent, mean in zip(deferral.PERCENTS, found, strict=True):
        limit = np.sort(order)[: 40 * percent // 100].max(initial=-1)
        assert mean == pytest.approx(np.where(order <= limit, cloud, local).mean())


def test_the_random_line_is_the_mean_over_all_orders():
    local, cloud = np.array([10.0, 20, 60, 40, 30]), np.array([90.0, 20, 50, 70, 100])
    orders = itertools.permutations(range(5))
    curves = [deferral.curve(np.array(order, float), local, cloud) for order in orders]
    at = [deferral.PERCENTS.index(percent) for percent in (0, 20, 40, 60, 80, 100)]
    np.testing.assert_allclose(np.mean(curves, 0)[at], deferral.random_line(local, cloud)[at])


def test_the_oracle_has_all_of_its_gain_and_no_other_order_more():
    draw = np.random.default_rng(1)
    local, cloud = draw.random((2, 50)) * 100
    assert deferral.share_of_oracle(local - cloud, local, cloud) == pytest.approx(1)
    others = [deferral.share_of_oracle(draw.random(50), local, cloud) for _ in range(200)]
    assert max(others) < 1
    assert abs(np.mean(others)) < 0.1
    assert deferral.share_of_oracle(cloud - local, local, cloud) < -0.5


@needs_default_bundle
def test_hybrid_judges_a_bundle_beside_the_references_and_a_teacher_and_goes_on_after_a_kill(tmp_path: Path):
    times, names = ("six", "seven", "eight", "nine", "ten"), ("Ann", "Bob")
    for name in hybrid.SETS:
        rows = [
            {
                "id": f"{name}-{time}-{who}",
                "source": f"#Person1#: {who}, shall we talk about {name} at {time}?\n#Person2#: At {time}.",
                "target": f"{who} talks about {name} at {time}.",
            }
            for time in times
            for who in names
        ]
        (tmp_path / name).mkdir()
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name / "valid.jsonl").write_text(lines, encoding="utf-8")
    out, work = tmp_path / "report.json", tmp_path / "work"
    given = ["hybrid", "--data", tmp_path, "--work", work, "--out", out, "--requests", "6"]
    bench(*given, "--rows", "45")
    [kept] = work.iterdir()
    answered = kept.read_bytes()
    kept.write_bytes(answered[:-9])
    printed = bench(*given, "--teacher", edge_s2s.default_bundle_path())
    assert kept.read_bytes().startswith(answered[: answered.rindex(b"\n", 0, -1) + 1])
    assert len(kept.read_bytes().splitlines()) == 50
    report = json.loads(out.read_text(encoding="utf-8"))
    assert hybrid.tables(report) in printed
    assert out.with_suffix(".svg").read_text(encoding="utf-8").startswith("<?xml")
    assert report["rows"] == dict.fromkeys(sorted(hybrid.SETS, key=[*report["rows"]].index), 10)
    references, teacher = report["clouds"]["references"], report["clouds"]["teacher"]
    for values in references["curves"].values():
        assert values[0] == pytest.approx(report["device"]["rougeL"]["mix"], rel=1e-3)
        assert values[-1] == 100
    assert teacher["delta"] == 0, "the teacher is the bundle itself"
    methods = report["confidence"]["methods"]
    assert methods["oracle"]["mix"] == [1, 1, 1]
    assert {*methods} == {*hybrid.METHODS.values()}
    requests = report["requests"]
    assert requests["requests"] == 6
    assert requests["cloud"] == "teacher"
    assert requests["cloud_failed"] == 0, requests["reasons"]
    assert requests["costs"]["cpu_s_mean"] > 0


@needs_default_bundle
def test_sustained_prints_a_row_for_each_interval_and_writes_file_and_plot(tmp_path: Path):
    out = tmp_path / "s.json"
    printed = bench("sustained", "--minutes", "0.02", "--interval", "0.1", "--num-threads", "1", "--out", out)
    intervals = json.loads(out.read_text(encoding="utf-8"))
    rows = [line for line in printed.splitlines() if line.startswith("|")][2:]
    assert len(rows) == len(intervals) >= 1
    for row, interval in zip(rows, intervals, strict=True):
        assert f"| {interval['tokens_per_s']:.1f} |" in row
        assert interval["n_tokens"] > 0
    assert max(row.count("█") for row in rows) == 30
    assert intervals[-1]["until_s"] >= 1.2
    assert out.with_suffix(".svg").read_text(encoding="utf-8").startswith("<?xml")


def test_a_float16_cache_is_timed_beside_one_in_float32(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    paths = []
    for dtype in ("float32", "float16"):
        keys = complete_keys(tiny_keys(kv_cache_dtype=dtype))
        paths.append(tmp_path / f"{dtype}.es2s")
        write_bundle(paths[-1], tiny_manifest(keys), tiny_files(keys))
    kv_cache.main([str(path) for path in (*paths, "scalar")])
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [(line[0], line[1]) for line in lines] == [("| scalar", "1"), ("| scalar", "8")]
    assert all(float(cell) > 0 for line in lines for cell in line[5:7])
    with pytest.raises(SystemExit, match="one with float16, found float16 and float32"):
        kv_cache.main([str(path) for path in reversed(paths)])


def test_the_documents_have_the_tables_of_the_report():
    readme = hybrid.README.read_text(encoding="utf-8")
    assert hybrid.with_tables(readme) == readme, "run python -m bench hybrid"


def test_the_readme_has_the_tables_of_the_newest_results():
    document = readme.README.read_text(encoding="utf-8")
    assert readme.with_speed(document, results_file.FOLDER) == document, "run python -m bench report"
