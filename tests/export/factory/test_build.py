"""The whole chain in miniature, for real: the recipe `tiny` becomes a bundle that passes its gates."""

import csv
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import edge_s2s
from edge_s2s.bundle import open_bundle
from edge_s2s.confidence import Calibration, confidence
from edge_s2s.drift import Reference
from edge_s2s.faithfulness import Evidence
from edge_s2s_export import cli
from edge_s2s_export.errors import ExportError, GateError
from edge_s2s_export.factory.build import Built, Chain, build
from edge_s2s_export.factory.display import Display
from edge_s2s_export.factory.outputs import read_outputs
from edge_s2s_export.factory.recipe import Pretraining, Recipe, load_recipe
from edge_s2s_export.factory.texts import FOLDER
from edge_s2s_export.probe_texts import probe_texts
from edge_s2s_export.restore import restore
from tiny_folders import make_tiny_folder

NO_DATA = Path("no data needed")
ROOT = Path(__file__).parents[3]
REPORT = ROOT / "reports" / "killed_builds.json"
STAGES = (
    "data",
    "tokenizer",
    "teacher",
    "pseudo-labels",
    "student",
    "bundle-int8",
    "outputs-int8",
    "evaluation",
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny") / "work"


@pytest.fixture(scope="module")
def quiet() -> Display:
    return Display(Path(os.devnull).open("w"))


@pytest.fixture(scope="module")
def built(work: Path, quiet: Display) -> Built:
    return build(load_recipe("tiny"), data=NO_DATA, work=work, display=quiet)


def chain(recipe: Recipe, work: Path, quiet: Display) -> Chain:
    return Chain(recipe, NO_DATA, work, quiet)


def test_the_bundle_writes_what_was_measured(built: Built, work: Path, quiet: Display):
    outputs = read_outputs(chain(load_recipe("tiny"), work, quiet).outputs("int8"))
    texts = [row.source for row in chain(load_recipe("tiny"), work, quiet).rows]
    with edge_s2s.load(built.bundle) as model:
        for text, output in [*zip(texts, outputs, strict=True)][:8]:
            [[generation]] = model.generate([text])
            assert generation.text == output.text
    assert built.sha256 == hashlib.sha256(built.bundle.read_bytes()).hexdigest()


def test_it_learned_its_task(built: Built):
    """Far above what its own outputs are worth for other sources."""
    with open_bundle(built.bundle) as bundle:
        measured = json.loads(bytes(bundle.read("eval.json")))["task"]
    assert measured["sets"]["examples"]["changes"]["int8 - shuffled"]["rouge2"][1] > 10
    assert measured["refused"] == []
    assert all(gate["passes"] for gate in measured["gates"])


def test_bundle_and_report_say_what_was_measured(built: Built):
    with open_bundle(built.bundle) as bundle:
        card = bytes(bundle.read("MODEL_CARD.md")).decode()
        assert "gates" in json.loads(bytes(bundle.read("eval.json")))  # of the conversion, as before
        assert (bundle.manifest.name, bundle.manifest.task) == ("tiny", "first-sentence")
    for text in (card, built.report.read_text()):
        assert "## Quality on examples, 60 rows of valid" in text
        for system in ("teacher", "float32", "int8", "lead-3", "template", "shuffled"):
            assert f"\n| {system} |" in text
    report = built.report.read_text()
    assert report.count("\nreference: ") == 20
    assert "\n| learned | " in report
    assert "| argmax agreement |" in report
    for plot in ("curves.png", "quality.png", "risk.png"):
        assert f"({plot})" in report
        assert (built.report.parent / plot).read_bytes().startswith(b"\x89PNG")


def test_the_bundle_knows_its_confidence_and_its_domain(built: Built):
    with edge_s2s.load(built.bundle) as model:
        calibration, reference = Calibration.of(model.manifest), Reference.of(model.manifest)
        source = probe_texts(1)[0]
        [[generation]] = model.generate([source])
    assert calibration
    assert calibration.n_documents == 60
    assert reference
    assert reference.n_documents == 500
    p_good = confidence(generation, source, Evidence(source), calibration)
    assert p_good is not None
    assert 0 < p_good < 1
    assert generation.confidence == p_good


def test_nothing_is_done_twice(built: Built, work: Path):
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.parent != work}
    said: list[str] = []

    class Listener(Display):
        def stage(self, name: str, what: str) -> None:
            said.append(what)

    assert build(load_recipe("tiny"), data=NO_DATA, work=work, display=Listener()) == built
    assert set(said) == {"cached"}
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.parent != work} == before


def test_another_gate_makes_no_stage_but_the_last_again_and_refuses(
    built: Built, work: Path, quiet: Display, tmp_path: Path
):
    recipe = load_recipe("tiny")
    strict = dataclasses.replace(recipe, gates=dataclasses.replace(recipe.gates, min_scores={"bleu": 99.0}))
    trained = {path.name for path in work.glob("[!e]*-*")}
    out = tmp_path / "tiny.es2s"
    with pytest.raises(
        GateError, match=r"tiny is refused, see .*report\.md: bleu: expected at least 99, found"
    ):
        build(strict, data=NO_DATA, work=work, out=out, display=quiet)
    assert not out.exists()
    assert {path.name for path in work.glob("[!e]*-*")} == trained


def test_other_settings_of_generation_train_nothing_again(built: Built, work: Path, quiet: Display):
    recipe = load_recipe("tiny")
    other = dataclasses.replace(recipe, generation=dataclasses.replace(recipe.generation, num_beams=2))
    made, before = chain(other, work, quiet), chain(recipe, work, quiet)
    assert made.student == before.student
    bundle = made.bundle("int8")
    assert bundle != before.bundle("int8")
    with open_bundle(bundle / "model.es2s") as opened:
        assert opened.manifest.generation.num_beams == 2
    assert [path.name for path in bundle.iterdir()] == ["model.es2s"]


def test_the_bundle_says_which_checks_its_summaries_need(
    built: Built, work: Path, tmp_path: Path, quiet: Display
):
    recipe = dataclasses.replace(load_recipe("tiny"), checks=("loops", "names"))
    made = build(recipe, data=NO_DATA, work=work, out=tmp_path / "checked.es2s", display=quiet)
    with open_bundle(made.bundle) as bundle, open_bundle(built.bundle) as plain:
        assert bundle.manifest.extensions == {**plain.manifest.extensions, "checks": ["loops", "names"]}
        assert bundle.manifest.files == plain.manifest.files


def test_without_a_student_the_teacher_becomes_the_bundle(built: Built, work: Path, quiet: Display):
    recipe = dataclasses.replace(load_recipe("tiny"), student=None, pseudo_labels=None)
    made = chain(recipe, work, quiet)
    assert made.student == made.teacher == chain(load_recipe("tiny"), work, quiet).teacher
    assert made.bundle("teacher") == made.bundle("float32")
    report = json.loads((made.evaluation / "eval.json").read_text())
    systems = report["sets"]["examples"]["systems"]
    assert systems["teacher"] == systems["float32"]


def start(work: Path, recipe: str = "tiny") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edge_s2s_export.cli", "build", "--recipe", recipe]
    return subprocess.Popen(
        [*command, "--work", str(work), "--threads", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def kill_in(stage: str, work: Path, *, delay: float = 0, behind: str = "") -> bool:
    """Whether a build was killed in a stage, `delay` seconds after it began or wrote the file `behind`."""
    process = start(work)
    while process.poll() is None and not [*work.glob(f".{stage}-*/{behind}")]:
        time.sleep(0.01)
    time.sleep(delay)
    was_running = process.poll() is None and bool([*work.glob(f".{stage}-*")])
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return was_running


def finish(work: Path) -> bytes:
    process = start(work)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    return (work / "tiny.es2s").read_bytes()


def copy_without(work: Path, stages: tuple[str, ...], to: Path) -> Path:
    shutil.copytree(work, to)
    for folder in (folder for stage in stages for folder in to.glob(f"{stage}-*")):
        shutil.rmtree(folder)
    (to / "tiny.es2s").unlink()
    return to


BEHIND_LABELS = ("student", "bundle-float32", "bundle-int8", "outputs-float32", "outputs-int8", "evaluation")


def test_a_build_that_was_killed_ends_with_the_same_bundle(built: Built, work: Path, tmp_path: Path):
    again = copy_without(work, BEHIND_LABELS, tmp_path / "work")
    assert kill_in("student", again, behind="checkpoint.pt")
    assert finish(again) == built.bundle.read_bytes()


@pytest.mark.release
def test_a_build_killed_ten_times_in_every_stage_ends_with_the_same_bundle(
    built: Built, work: Path, tmp_path: Path
):
    draw = random.Random(0)
    kills: dict[str, int] = dict.fromkeys(STAGES, 0)
    for stage in STAGES:
        lasts = 4.0 if stage in ("teacher", "student") else 0.5
        while kills[stage] < 10:  # a stage may be done before
            kills[stage] += kill_in(stage, tmp_path, delay=draw.uniform(0, lasts))
            if [*tmp_path.glob(f"{stage}-*")]:  # it was done before the kill: once more
                shutil.rmtree(next(tmp_path.glob(f"{stage}-*")))
    same = finish(tmp_path) == built.bundle.read_bytes()
    REPORT.write_text(json.dumps({"kills": kills, "same bundle": same}, indent=1) + "\n")
    assert same
    assert sum(kills.values()) > 60


def test_a_teacher_begins_with_what_pretraining_learned(built: Built, tmp_path: Path, quiet: Display):
    recipe = load_recipe("tiny")
    assert recipe.teacher.training
    few = dataclasses.replace(recipe.teacher.training, steps=1)
    still = dataclasses.replace(few, learning_rate=0.0, muon_learning_rate=0.0)
    pretraining = Pretraining(("talk",), few)
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "talk-00.txt").write_text("\n\n".join(probe_texts(50)))
    made = Chain(
        dataclasses.replace(
            recipe,
            pretraining=pretraining,
            tokenizer=dataclasses.replace(recipe.tokenizer, n_extra_ids=1),
            teacher=dataclasses.replace(recipe.teacher, training=still),
        ),
        tmp_path,
        tmp_path / "work",
        quiet,
    )
    with made.work.locked():
        first, teacher = made.pretrained, made.teacher
    assert first
    pretrained, trained = (load_file(folder / "model.safetensors") for folder in (first, teacher))
    assert all(torch.equal(weight, trained[name]) for name, weight in pretrained.items())


# Bad input: one sentence, and nothing half-written


def refuse(recipe: Recipe, work: Path, quiet: Display, message: str, data: Path = NO_DATA) -> None:
    with pytest.raises(ExportError, match=message) as raised:
        build(recipe, data=data, work=work, display=quiet)
    assert "\n" not in str(raised.value).strip()
    assert not [*work.glob("*.es2s")]
    assert not [*work.glob("teacher-*")]


def with_teacher(init: Path, tokenizer: Path) -> Recipe:
    recipe = load_recipe("tiny")
    return dataclasses.replace(
        recipe,
        teacher=dataclasses.replace(recipe.teacher, network=None, init=str(init)),
        tokenizer=dataclasses.replace(recipe.tokenizer, folder=str(tokenizer)),
    )


def test_a_teacher_of_an_unknown_family_is_refused(tmp_path: Path, quiet: Display):
    folder = make_tiny_folder(tmp_path / "hf")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "led"}))
    refuse(with_teacher(folder, folder), tmp_path / "w", quiet, "model_type 'led' is unknown; known: bart, ")


def test_a_bundle_can_be_where_a_teacher_begins(built: Built, tmp_path: Path, quiet: Display):
    (tmp_path / "w").mkdir()
    recipe = with_teacher(built.bundle, built.bundle)
    untrained = dataclasses.replace(recipe, teacher=dataclasses.replace(recipe.teacher, training=None))
    made = chain(untrained, tmp_path / "w", quiet)
    restore(built.bundle, tmp_path / "hf")
    expected, found = (load_file(path / "model.safetensors") for path in (tmp_path / "hf", made.teacher))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    again = chain(with_teacher(tmp_path / "no.es2s", built.bundle), tmp_path / "w", quiet)
    with pytest.raises(ExportError, match=r"no\.es2s: expected a bundle, found no such file"):
        again.teacher  # noqa: B018  # a property that runs the stage


def test_a_missing_teacher_is_refused(tmp_path: Path, quiet: Display):
    folder = make_tiny_folder(tmp_path / "hf")
    refuse(with_teacher(tmp_path / "no", folder), tmp_path / "w", quiet, "expected a Hugging Face folder")


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path, quiet: Display):
    folder, small = make_tiny_folder(tmp_path / "hf"), make_tiny_folder(tmp_path / "small", vocab_size=200)
    refuse(
        with_teacher(small, folder),
        tmp_path / "w",
        quiet,
        "teacher: expected a tokenizer of at most 200 tokens",
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [("", "found an empty file"), ('{"source": "x"}\n', "line 1: expected a target")],
)
def test_bad_data_is_refused(tmp_path: Path, quiet: Display, rows: str, message: str):
    recipe = load_recipe("tiny")
    recipe = dataclasses.replace(recipe, data=(dataclasses.replace(recipe.main, name="own"),))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "train.jsonl").write_text(rows)
    refuse(recipe, tmp_path / "w", quiet, message, data=tmp_path)


def test_a_student_that_is_no_part_of_its_teacher_is_refused(built: Built, work: Path, quiet: Display):
    recipe = load_recipe("tiny")
    assert recipe.student
    network = dataclasses.replace(recipe.student.network, d_ff=64)
    wrong = dataclasses.replace(recipe, student=dataclasses.replace(recipe.student, network=network))
    with pytest.raises(ExportError, match=r"student\.network: d_ff: expected the teacher's 192, found 64"):
        build(wrong, data=NO_DATA, work=work, display=quiet)


def test_a_full_disk_is_one_sentence(built: Built, work: Path, tmp_path: Path):
    """A limit of a file's size, which the checkpoint is above, stands for the disk's."""
    again = copy_without(work, BEHIND_LABELS, tmp_path / "work")
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
        "from edge_s2s_export.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["build", "--recipe", "tiny", "--work", str(again), "--threads", "1"]
    run = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert run.returncode == 1
    assert "no space left for this stage; free some" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr
    assert not [*again.glob("student-*")]


# The command


def test_each_command_goes_as_far_as_its_name_says(
    built: Built, work: Path, capsys: pytest.CaptureFixture[str]
):
    for command, stage in (("train", "teacher"), ("distill", "student"), ("evaluate", "evaluation")):
        assert cli.main([command, "--recipe", "tiny", "--work", str(work)]) == 0
        folder = Path(capsys.readouterr().out.strip())
        assert folder.is_dir()
        assert folder.name.startswith(f"{stage}-")
    assert cli.main(["build", "--recipe", "tiny", "--work", str(work)]) == 0
    assert built.sha256 in capsys.readouterr().out


def test_an_unknown_recipe_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["build", "--recipe", "nothing", "--work", str(tmp_path / "w")]) == 1
    assert "recipe 'nothing' is unknown; known: " in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_texts_of_the_miniature_are_those_of_the_exporter(work: Path, built: Built, quiet: Display):
    assert chain(load_recipe("tiny"), work, quiet).rows[0].source in probe_texts(600)


@pytest.mark.release
@pytest.mark.timeout(900)
def test_the_command_trains_on_two_processes_as_on_one_with_twice_the_accumulation(tmp_path: Path):
    text = (ROOT / "export/edge_s2s_export/recipes/tiny.toml").read_text(encoding="utf-8")
    text = text.replace("steps = 50", "steps = 12").replace("steps = 20", "steps = 6")
    losses = []
    for launcher, accumulation in (([], 2), (["-m", "torch.distributed.run", "--nproc-per-node", "2"], 1)):
        work = tmp_path / f"work-{accumulation}"
        recipe = tmp_path / "few.toml"
        recipe.write_text(text.replace("log_every = 10", f"log_every = 1, accumulation = {accumulation}"))
        command = [sys.executable, *launcher, "-m", "edge_s2s_export.cli", "distill", "--threads", "1"]
        run = subprocess.run(
            [*command, "--recipe", recipe, "--work", work],
            capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert run.returncode == 0, run.stderr[-3000:]
        logs = [next(work.glob(f"{stage}-*/log.csv")) for stage in ("teacher", "student")]
        losses.append([float(row["loss"]) for log in logs for row in csv.DictReader(log.open())])
        assert not [*work.glob(".*")]
    assert len(losses[0]) == 12 + 6
    # Sums of gradients in another order: float32 rounding, grown over the steps.
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
