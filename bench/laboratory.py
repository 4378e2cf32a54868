"""What all units share: converted models, the fastest setting of each peer, and who takes part."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench import ROOT, peers
from bench.peers import GREEDY_ONLY, OURS
from bench.processes import WORKER, Entrant, PeerError, Process, environment
from bench.results_file import Results
from bench.rounds import Sample, measure
from bench.shapes import DEFAULT, sources, write_checkpoint
from edge_s2s import default_bundle_path


@dataclass(frozen=True)
class Options:
    """Of a run."""

    work: Path
    """Converted models, kept for the next run; a folder for each model with one for each peer"""
    names: Sequence[str]
    """Peers that take part, edge_s2s first"""
    rounds: int
    n_tokens: int
    unit_s: float
    """After so many seconds a unit ends with the rounds that it has"""
    until: float
    """When the run ends, of time.monotonic"""
    data: Path | None
    rows: int
    isa: str | None = None
    """The kernel set that all are held to, of `peers.HELD`; None: each takes what the CPU has"""


class Laboratory:
    """Everything that is kept from unit to unit."""

    def __init__(self, options: Options, results: Results) -> None:
        self.options = options
        self.results = results
        self._unprepared: set[Path] = set()

    @property
    def unit_until(self) -> float:
        """When a unit that begins now should end."""
        return min(self.options.until, time.monotonic() + self.options.unit_s)

    def checkpoint(self, model: str) -> Path:
        """The Hugging Face folder that all convert; without the exporter the default bundle, which we can."""
        folder = self.options.work / model / "checkpoint"
        if not folder.exists():
            try:
                with _new_folder(folder) as part:
                    write_checkpoint(model, part)
            except ImportError as error:
                if model == DEFAULT:
                    return default_bundle_path(must_exist=True)
                hint = "install the extra bench, or copy the folder --work from a machine that has it"
                raise PeerError(f"{model}: {error}; {hint}") from error
        return folder

    def folder(self, model: str, peer: str) -> Path | None:
        """The peer's files of a model; None if it could not make them, which the results say."""
        folder = self.options.work / model / peer
        if folder in self._unprepared:
            return None
        if not folder.exists():
            print(f"  preparing {model} for {peer} ...", file=sys.stderr)
            checkpoint = str(self.checkpoint(model).resolve())
            try:
                with _new_folder(folder) as part:
                    command = [*WORKER, "--prepare", peer, checkpoint, str(part)]
                    done = subprocess.run(
                        command, cwd=ROOT, env=environment(2), capture_output=True, text=True
                    )
                    if done.returncode:
                        raise PeerError((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
            except PeerError as error:
                if peer == OURS:
                    raise
                self.fail(f"{model}/{peer}", error)
                self._unprepared.add(folder)
                return None
        self.forget_failures(f"{model}/{peer}")
        return folder

    def fail(self, what: str, error: PeerError) -> None:
        """Notes down that there are no figures, and why."""
        print(f"  {what}: {error}", file=sys.stderr)
        self.results["failed"][what] = str(error)

    def forget_failures(self, what: str) -> None:
        """What is tried anew has not failed, nor have its parts."""
        failed = self.results["failed"]
        for name in [name for name in failed if f"{name}/".startswith(f"{what}/")]:
            del failed[name]

    def ours(self, model: str, threads: int) -> Entrant:
        """We alone."""
        folder = self.folder(model, OURS)
        assert folder is not None, "a failure of ours is raised"
        return Entrant(OURS, OURS, folder, threads, self._held(OURS))

    def entrants(self, model: str, threads: int, *, num_beams: int = 1) -> list[Entrant]:
        """All peers that can do it, each in its fastest setting."""
        settings = self._settings(model, threads)
        return [
            replace(entrant, setting={**settings.get(entrant.peer, {}), **entrant.setting})
            for entrant in self._unset(model, threads)
            if num_beams == 1 or entrant.peer not in GREEDY_ONLY
        ]

    def _unset(self, model: str, threads: int) -> list[Entrant]:
        folders = {name: self.folder(model, name) for name in self.options.names}
        return [
            Entrant(name, name, folder, threads, self._held(name))
            for name, folder in folders.items()
            if folder
        ]

    def _held(self, peer: str) -> peers.Setting:
        return peers.HELD[self.options.isa][peer] if self.options.isa else {}

    def _settings(self, model: str, threads: int) -> dict[str, peers.Setting]:
        key = f"{model}/t{threads}"
        if key not in self.results["settings"]:
            self.results["settings"][key] = {}
        known = self.results["settings"][key]
        for entrant in self._unset(model, threads):
            if not known.get(entrant.peer, {"quiet": False}).get("quiet", True):  # as for units: again
                known[entrant.peer] = self._fastest(entrant, model)
        return {name: found["setting"] for name, found in known.items()}

    def _fastest(self, entrant: Entrant, model: str) -> dict[str, object]:
        named = {_words(all_of := {**one, **entrant.setting}): all_of for one in peers.SETTINGS[entrant.peer]}
        first, *others = named.values()
        if not others:
            return {"setting": first}
        print(f"  settings of {entrant.label}, {entrant.threads} threads ...", file=sys.stderr)
        what = f"settings/{model}/t{entrant.threads}/{entrant.peer}"
        self.forget_failures(what)
        entrants = [replace(entrant, label=words, setting=setting) for words, setting in named.items()]
        source = sources(model, min(64, self.options.n_tokens), 1)
        with Processes(self, entrants, what) as processes:
            samplers = {p.entrant.label: partial(self.whole_request, p, source, 1) for p in processes}
            measured = measure(
                samplers,
                rounds=self.options.rounds // 2 + 1,
                until=self.unit_until,
                pids=processes.pids,
                on_failure=lambda words, error: self.fail(f"{what}/{words}", error),
            )
        tried = {label: measured.figures(label)["total_ms"]["median"] for label in measured.samples}
        if not tried:
            return {"setting": first}
        return {"setting": named[min(tried, key=tried.__getitem__)], "total_ms": tried, **measured.noise()}

    def whole_request(self, process: Process, source: list[list[int]], num_beams: int) -> Sample:
        """One request, after one of a single token that brings its own weights into the caches."""
        self.generate(process, source, 1, num_beams)
        answer = self.generate(process, source, self.options.n_tokens, num_beams)
        tokens = len(source) * self.options.n_tokens
        return {"total_ms": 1000 * answer["wall_s"], "tokens_per_s": tokens / answer["wall_s"]}

    @staticmethod
    def generate(process: Process, source: list[list[int]], n_tokens: int, num_beams: int) -> dict[str, Any]:
        """One request; a wrong number of tokens is a PeerError."""
        answer = process.ask("generate", sources=source, n_tokens=n_tokens, num_beams=num_beams)
        lengths = [len(row) for row in answer["result"]]
        if lengths != [n_tokens] * len(source):
            raise PeerError(f"{process.entrant.label} gave {lengths} tokens, expected {n_tokens} each")
        return answer


class Processes(list[Process]):
    """The running processes of entrants; who does not start is left out, and noted as a part of `what`."""

    def __init__(self, laboratory: Laboratory, entrants: Sequence[Entrant], what: str) -> None:
        super().__init__()
        try:
            for entrant in entrants:
                try:
                    self.append(entrant.start().__enter__())
                except PeerError as error:
                    if entrant.label == OURS:
                        raise
                    laboratory.fail(f"{what}/{entrant.label}", error)
        except BaseException:  # also Ctrl-C: who stands still would stand for ever
            self.__exit__()
            raise

    def pids(self) -> list[int]:
        """Of those that live."""
        return [process.pid for process in self if process.process.poll() is None]

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for process in self:
            process.__exit__()


def _words(setting: peers.Setting) -> str:
    return " ".join(f"{name}={value}" for name, value in setting.items()) or "as it comes"


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder that gets its name when all is in it; what a failure leaves is removed."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
