"""A stage runs once for its inputs, goes on with what it left, and has its name only when it is complete."""

import resource
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edge_s2s_export.errors import ExportError
from edge_s2s_export.factory.networks import Network
from edge_s2s_export.factory.stages import Work


def write(text: str):
    return lambda folder: (folder / "out").write_text(text)


def test_the_same_inputs_are_made_once(tmp_path: Path):
    said: list[tuple[str, str]] = []
    work = Work(tmp_path, on_stage=lambda *what: said.append(what))
    first = work.stage("a", {"x": 1, "network": Network()}, write("one"))
    again = work.stage("a", {"network": Network(), "x": 1}, write("two"))
    assert first == again
    assert (first / "out").read_text() == "one"
    assert said == [("a", "begins"), ("a", "done")]
    Work(tmp_path, on_stage=lambda *what: said.append(what)).stage(
        "a", {"x": 1, "network": Network()}, write("")
    )
    assert said[2:] == [("a", "cached")]


def test_every_input_counts(tmp_path: Path):
    work = Work(tmp_path)
    inputs = [
        {},
        {"x": 1},
        {"x": 1.5},
        {"x": "1"},
        {"x": [1]},
        {"y": 1},
        {"x": Network()},
        {"x": Network(d_ff=1)},
    ]
    first = work.stage("a", {}, write(""))
    folders = {work.stage("a", values, write("")) for values in inputs}
    assert len(folders) == len(inputs)
    assert first in folders
    assert work.stage("b", {"before": first}, write("")) != work.stage("b", {"before": tmp_path}, write(""))


def test_what_is_no_data_is_refused(tmp_path: Path):
    with pytest.raises(TypeError, match="expected data, found object"):
        Work(tmp_path).stage("a", {"x": object()}, write(""))


def test_a_stage_that_failed_has_no_name_and_goes_on_with_what_it_left(tmp_path: Path):
    said: list[str] = []
    work = Work(tmp_path, on_stage=lambda _name, what: said.append(what))

    def fail(folder: Path) -> None:
        (folder / "half").write_text("kept")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        work.stage("a", {}, fail)
    assert not list(tmp_path.glob("a-*"))
    done = work.stage("a", {}, lambda folder: (folder / "whole").write_text((folder / "half").read_text()))
    assert (done / "whole").read_text() == "kept"
    assert said == ["begins", "goes on", "done"]


def test_two_processes_do_not_share_a_work_folder(tmp_path: Path):
    program = (
        "import sys; from pathlib import Path; from edge_s2s_export.factory.stages import Work\n"
        "with Work(Path(sys.argv[1])).locked(): print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(ExportError, match="another process builds here"), Work(tmp_path).locked():
            pass
        other.kill()
    with Work(tmp_path).locked():
        pass


def test_other_processes_of_a_launch_help_only_where_all_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = Work(tmp_path)
    monkeypatch.setenv("RANK", "1")
    second = Work(tmp_path)
    assert (first.is_main, second.is_main) == (True, False)
    helped = threading.Event()

    def wait_for_help(folder: Path) -> None:
        assert helped.wait(60)
        (folder / "out").write_text("first")

    def help_along(_folder: Path) -> None:
        helped.set()

    def never(_folder: Path) -> None:
        pytest.fail("a stage of one process was made by the second")

    with ThreadPoolExecutor() as pool:
        made = pool.submit(first.stage, "a", {}, wait_for_help, together=True)
        assert second.stage("a", {}, help_along, together=True) == made.result(60)
        waiting = pool.submit(second.stage, "b", {}, never)
        assert first.stage("b", {}, write("first")) == waiting.result(60)
    assert second.stage("a", {}, never, together=True) == made.result()  # it is there


@pytest.mark.parametrize("library", ["python", "torch", "safetensors"])
def test_a_full_disk_is_one_sentence_whoever_notices_it(tmp_path: Path, library: str):
    """The limit of a file's size stands for that of a disk: the same calls fail."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    def make(folder: Path) -> None:
        if library == "python":
            (folder / "out").write_bytes(bytes(100_000))
        elif library == "torch":
            torch.save(torch.zeros(100_000), folder / "out")
        else:
            save_file({"values": torch.zeros(100_000)}, folder / "out")

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(ExportError, match="no space left for this stage; free some"):
            Work(tmp_path).stage("a", {}, make)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.glob("a-*"))
    assert Work(tmp_path).stage("a", {}, write("enough now")).is_dir()
