"""Us and the installed peers through every kind of unit, with tiny models; no figure is judged here."""

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # behind the installed packages, which edge_s2s/ would hide

from bench import bounds, noise, peers, results_file, rounds, shapes  # noqa: E402
from bench.__main__ import main  # noqa: E402
from bench.laboratory import Laboratory, Options  # noqa: E402
from bench.plan import KINDS, Unit, plan  # noqa: E402
from bench.processes import Entrant, Neighbour, PeerError  # noqa: E402
from bench.targets import targets  # noqa: E402
from edge_s2s.decoder import supported_isas  # noqa: E402

MODEL = "tiny-t5"
GREEDY = f"greedy/{MODEL}/s16/b1/k1/t1"
needs_proc = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="this system has no /proc/stat")


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    out = folder / "machine.json"
    brief = ("--quick", "--rounds", "1", "--unit-seconds", "0.5")  # so that a busy machine delays no test
    given = ["run", *brief, "--work", str(folder / "work"), "--out", str(out)]
    assert main([*given, *arguments]) == 0
    results: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return results


ALONE = ("--peers", peers.OURS, "--models", MODEL)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of us alone, as on a board without any peer, in two runs."""
    folder = tmp_path_factory.mktemp("bench")
    first = run(folder, *ALONE, "--threads", "1", "--only", "greedy")
    assert [*first["units"]] == [GREEDY]
    run(folder, *ALONE, "--threads", "1", "2", "--only", "bounds,greedy,beam/t1,batch/t1,rows,cold,busy")
    return folder


@pytest.mark.release
def test_runs_add_up_to_one_file_and_a_page_of_targets_tables_and_plots(ours: Path):
    results = json.loads((ours / "machine.json").read_text(encoding="utf-8"))
    assert {name.split("/")[0] for name in results["units"]} == KINDS.keys() - {"startup", "quality"}
    assert len(results["runs"]) == 2
    assert main(["report", "--results", str(ours)]) == 0
    page = (ours / "report.md").read_text(encoding="utf-8")
    token = results["units"][GREEDY]["peers"][peers.OURS]["figures"]["ms_per_token"]
    assert f"{token['median']:.4g} ({token['p10']:.4g}-{token['p90']:.4g})" in page
    assert page.count("| not measured |") == len(targets({})), "the targets are of other models"
    pictures = [*(ours / "plots").iterdir()]
    assert pictures
    for picture in pictures:
        assert f"(plots/{picture.name})" in page
    assert main(["compare", str(ours / "machine.json"), str(ours / "machine.json")]) == 0


@pytest.mark.release
def test_a_decoder_reads_its_matrices_and_the_keys_and_values_of_the_source(ours: Path):
    """T5: 32 x 16 x 2 attentions with q and o, k and v in one of them, two of the feed-forward, 400 rows."""
    found = json.loads((ours / "machine.json").read_text(encoding="utf-8"))["units"][GREEDY]
    matrices = 32 * 32 * (4 + 2) + 2 * 32 * 64 + 400 * 32
    scales = 4 * (32 * (4 + 2) + 64 + 32 + 400)
    norms = 4 * 4 * 32
    keys_and_values = 2 * 2 * 32 * 16  # in float16
    assert found["bytes_per_token"] == matrices + scales + norms + keys_and_values


@pytest.mark.release
def test_a_quiet_unit_is_not_measured_again_until_asked(ours: Path):
    name = f"rows/{MODEL}/s16/b1/k1/t1"
    path = ours / "machine.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    results["units"][name] |= {"quiet": True, "mark": 1}
    path.write_text(json.dumps(results), encoding="utf-8")
    assert "mark" in run(ours, *ALONE, "--only", "rows")["units"][name]
    assert "mark" not in run(ours, *ALONE, "--only", "rows", "--again")["units"][name]


@pytest.mark.release
def test_a_run_ends_with_its_minutes(ours: Path):
    before = json.loads((ours / "machine.json").read_text(encoding="utf-8"))
    after = run(ours, *ALONE, "--again", "--minutes", "0.1")
    assert after["units"] == before["units"]


@pytest.mark.release
def test_results_of_another_machine_or_of_tiny_models_are_not_mixed(ours: Path, tmp_path: Path):
    results = json.loads((ours / "machine.json").read_text(encoding="utf-8"))
    results["machine"]["cpu"] = "another one"
    (tmp_path / "machine.json").write_text(json.dumps(results), encoding="utf-8")
    with pytest.raises(results_file.ResultsError, match="machine another one"):
        results_file.open_results(tmp_path / "machine.json", quick=True)
    with pytest.raises(results_file.ResultsError, match="--quick True"):
        results_file.open_results(ours / "machine.json", quick=False)
    assert main(["run", "--quick", "--only", "gredy", "--out", str(tmp_path / "new.json")]) == 2


@pytest.mark.parametrize("name", [name for name in peers.NAMES if name != peers.OURS])
@pytest.mark.release
def test_a_peer_of_the_same_weights_writes_as_many_tokens_and_mostly_ours(ours: Path, name: str):
    if peers.installed(name) is None:
        pytest.skip(f"{name} is not installed")
    given = ["--peers", peers.OURS, name, "--models", MODEL, "--threads", "1", "--again"]
    results = run(ours, *given, "--only", "greedy")
    assert not results["failed"].keys() & {f"{MODEL}/{name}", GREEDY}
    found = results["units"][GREEDY]["peers"]
    assert found.keys() == {peers.OURS, name}
    assert found[name]["other_tokens"] <= 0.5
    chosen = results["settings"][f"{MODEL}/t1"][name]
    assert chosen["setting"] in peers.SETTINGS[name]
    if len(peers.SETTINGS[name]) > 1:
        assert "as it comes" in chosen["total_ms"], "others may be of another CPU"


@pytest.mark.release
def test_summaries_of_the_default_model_are_judged_next_to_their_time(tmp_path: Path):
    rows = [
        {"id": f"{i}", "source": f"#Person1#: Lunch at {i}?\n#Person2#: Yes.", "target": f"Lunch is at {i}."}
        for i in range(3)
    ]
    (tmp_path / "dialogsum").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "dialogsum" / "valid.jsonl").write_text(lines, encoding="utf-8")
    given = ["--peers", peers.OURS, "--models", shapes.DEFAULT, "--data", str(tmp_path), "--rows", "2"]
    results = run(tmp_path, *given, "--only", "quality")
    assert [unit["rows"] for unit in results["units"].values()] == [2, 2]
    for unit in results["units"].values():
        assert unit["peers"][peers.OURS]["rouge"]["rouge1"] > 0


def laboratory(folder: Path, peer: str, settings: dict[str, Any]) -> Laboratory:
    options = Options(
        work=folder, names=[peers.OURS, peer], rounds=1, n_tokens=8, unit_s=1, until=0, data=None, rows=0
    )
    return Laboratory(options, {"settings": settings, "failed": {}, "units": {}})


def test_a_setting_that_was_chosen_in_noise_is_chosen_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in (peers.OURS, "optimum"):
        (tmp_path / MODEL / name).mkdir(parents=True)
    tried = []

    def fastest(_: Laboratory, entrant: Entrant, _model: str) -> dict[str, object]:
        tried.append(entrant.peer)
        return {"setting": {"spinning": "1"}, "quiet": True}

    monkeypatch.setattr(Laboratory, "_fastest", fastest)
    known = {peers.OURS: {"setting": {}}, "optimum": {"setting": {"spinning": "0"}, "quiet": False}}
    settings = {f"{MODEL}/t1": known}
    [_, theirs] = laboratory(tmp_path, "optimum", settings).entrants(MODEL, 1)
    assert tried == ["optimum"]
    assert theirs.setting == {"spinning": "1"}
    laboratory(tmp_path, "optimum", settings).entrants(MODEL, 1)
    assert tried == ["optimum"], "now it was quiet"


def test_a_peer_that_cannot_be_prepared_is_tried_once_in_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / MODEL / peers.OURS).mkdir(parents=True)
    (tmp_path / MODEL / "checkpoint").mkdir()  # an empty one
    here = laboratory(tmp_path, "nobody", {})
    for _ in range(2):
        assert [entrant.peer for entrant in here.entrants(MODEL, 1)] == [peers.OURS]
    assert capsys.readouterr().err.count("preparing") == 1
    assert f"{MODEL}/nobody" in here.results["failed"]


def test_all_are_held_to_a_kernel_set_whatever_their_setting(tmp_path: Path):
    for name in (peers.OURS, "ctranslate2"):
        (tmp_path / MODEL / name).mkdir(parents=True)
    known = {peers.OURS: {"setting": {}}, "ctranslate2": {"setting": {"CT2_FORCE_CPU_ISA": "AVX512"}}}
    here = laboratory(tmp_path, "ctranslate2", {f"{MODEL}/t1": known})
    here.options = replace(here.options, isa="avx2")
    [ours, theirs] = here.entrants(MODEL, 1)
    assert ours.setting == here.ours(MODEL, 1).setting == {"isa": "avx2"}
    assert theirs.setting == peers.HELD["avx2"]["ctranslate2"]
    assert results_file.machine("avx2")["cpu"] == results_file.machine()["cpu"] + " held to avx2"


@pytest.mark.release
@pytest.mark.skipif("avx2" not in supported_isas(), reason="this CPU has no AVX2")
def test_a_run_held_to_a_kernel_set_leaves_out_who_cannot_be(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    given = ["--peers", peers.OURS, "onnxruntime", "--models", MODEL, "--threads", "1", "--isa", "avx2"]
    results = run(tmp_path, *given, "--only", "greedy,rows,cold")
    assert "cannot be held to avx2: onnxruntime" in capfd.readouterr().err
    assert [*results["units"][f"rows/{MODEL}/s16/b1/k1/t1"]["isas"]] == ["avx2"]
    for kind in ("greedy", "cold"):
        found = results["units"][f"{kind}/{MODEL}/s16/b1/k1/t1"]["peers"]
        assert found[peers.OURS]["setting"] == {"isa": "avx2"}
        assert "onnxruntime" not in found


def test_what_is_tried_anew_has_not_failed(tmp_path: Path):
    here = laboratory(tmp_path, "nobody", {})
    names = ["greedy/a/t1", "greedy/a/t1/optimum", "greedy/a/t12", "greedy/a", "a/optimum"]
    for name in names:
        here.fail(name, PeerError("once"))
    here.forget_failures("greedy/a/t1")
    assert [*here.results["failed"]] == names[2:]


def test_a_quick_run_writes_nothing_among_the_results(tmp_path: Path):
    given = ["run", "--quick", "--work", str(tmp_path), "--models", MODEL, "--peers", peers.OURS]
    before = [*results_file.FOLDER.iterdir()]
    assert main([*given, "--minutes", "0.1"]) == 0  # too few for a unit
    assert [*(tmp_path / "quick").iterdir()] == [tmp_path / "quick" / results_file.file_name()]
    assert [*results_file.FOLDER.iterdir()] == before


def test_sources_are_as_long_as_asked_and_end():
    for name in (shapes.DEFAULT, MODEL):
        for source in shapes.sources(name, 512, 32):
            assert len(source) == 512
            assert source.index(1) == 511  # EOS


@needs_proc
def test_what_our_own_processes_use_is_not_noise():
    """The difference of two meters over the same time is what the process used that one of them knows."""
    with Neighbour() as neighbour:
        unaware, aware = noise.Meter([]), noise.Meter([neighbour.pid])
        start, used = time.perf_counter(), noise.cpu_seconds(neighbour.pid)
        with neighbour.running():
            while noise.cpu_seconds(neighbour.pid) - used < 0.2:
                time.sleep(0.01)
        share = (noise.cpu_seconds(neighbour.pid) - used) / (time.perf_counter() - start)
        all_others, others = unaware.others(), aware.others()
    assert all_others is not None
    assert others is not None
    assert all_others - others == pytest.approx(share, abs=0.15 * share + 0.02)


class ReadMeter:
    """Gives the readings of one round after the other."""

    readings: list[float]

    def __init__(self, _pids: Iterable[int]) -> None:
        self._reading = ReadMeter.readings.pop(0)

    def others(self) -> float:
        return self._reading


@pytest.mark.parametrize(
    ("readings", "counted", "rejected"),
    [
        ([0.0, 0.5, 0.0, 0.02], [0.0, 0.0, 0.02], 1),  # the second is repeated
        ([0.9, 0.4, 0.3, 0.7, 0.05, 0.6, 0.8, 0.5, 0.2], [0.05, 0.2, 0.3], 6),  # the quietest, at last
    ],
)
def test_a_disturbed_round_is_repeated_but_not_for_ever(
    readings: list[float], counted: list[float], rejected: int
):
    calls = iter(range(100))
    ReadMeter.readings = [*readings]
    measured = rounds.measure(
        {"a": lambda: {"n": float(next(calls))}},
        rounds=3,
        until=time.monotonic() + 60,
        start_meter=ReadMeter,  # type: ignore[arg-type]
    )
    assert [*measured.others] == counted
    assert measured.rejected == rejected
    assert measured.noise()["quiet"] == (max(counted) <= noise.LIMIT)
    first_call_of_round = [readings.index(others) + 1 for others in counted]  # call 0 is the warm-up
    if len({*counted}) == 3:
        assert [sample["n"] for sample in measured.samples["a"]] == first_call_of_round


@pytest.mark.skipif(bounds.compiler() is None, reason="needs a C compiler")
def test_the_machines_bounds_are_numbers_for_any_size_and_number_of_threads():
    with bounds.Bounds() as machine:
        for threads in (1, 2, 3):
            assert machine.ask("stream", 1_000_001, threads) > 0
            assert machine.ask("dot", 0, threads) > 0


def test_targets_are_ratios_of_medians_against_the_best_peer():
    def peer(threads: int, **medians: float) -> dict[str, Any]:
        return {"threads": threads, "figures": {name: {"median": value} for name, value in medians.items()}}

    one, two = (Unit("greedy", n, "t5-small").name for n in (1, 2))
    units = {
        one: {
            "peers": {
                peers.OURS: peer(1, ms_per_token=1.4, total_ms=100),
                "ctranslate2": peer(1, ms_per_token=3.5, total_ms=240),
                "onnxruntime": peer(1, ms_per_token=2.0, total_ms=170),
            },
            "bytes_per_token": 35_000_000,
            "stream": {"gb_per_s": {"median": 26.0}},
            "quiet": True,
        },
        two: {
            "peers": {
                peers.OURS: peer(2, ms_per_token=0.7, total_ms=60, cpu_ms_per_token=1.3),
                "ctranslate2": peer(2, ms_per_token=8.0, total_ms=500, cpu_ms_per_token=9),
            },
            "quiet": False,
        },
    }
    found = {target.what: target for target in targets(units)}
    against_ct2 = found["t5-small: ms/token, 1 thread, against CTranslate2"]
    assert against_ct2.measured == pytest.approx(0.4)
    assert against_ct2.verdict == "met"
    loop = found["t5-small: ms/token, 1 thread, against the hand-written ONNX Runtime loop"]
    assert loop.measured == pytest.approx(0.7)
    assert loop.verdict == "**missed**"
    best = found["t5-small: ms/token, 2 threads, against the best peer"]
    assert best.theirs is not None
    assert (best.theirs.label, best.theirs.threads) == ("onnxruntime", 1), (
        "faster than two threads of the other"
    )
    assert best.measured == pytest.approx(0.35)
    assert best.verdict == "met, disturbed"
    bandwidth = found["t5-small: GB/s, 1 thread, against the read stream"]
    assert bandwidth.measured == pytest.approx(25 / 26)
    assert found["t5-small: process start to first token, against CTranslate2"].verdict == "not measured"


def test_a_full_plan_has_all_kinds_and_each_name_once():
    units = plan(shapes.MODELS, (1, 2), quick=False, data=True)
    names = [unit.name for unit in units]
    assert len({*names}) == len(names)
    assert {unit.kind for unit in units} == KINDS.keys()
    chosen = [unit.name for unit in units if unit.selected(["marian/greedy/t2", "startup"])]
    assert chosen == ["startup/t1", "startup/t2", *(f"greedy/marian/s{n}/b1/k1/t2" for n in (64, 512))]
