"""The chain: data, tokenizer, teacher, pseudo-labels, student, int8, evaluation, gates, bundle.

    build(load_recipe("tiny"), data=Path("data"), work=Path("work"))

Each is a stage of `stages.py`. All models are measured as bundles, by the runtime that will run them.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from edge_s2s.bundle import SUFFIX, open_bundle, write_bundle
from edge_s2s.drift import Reference
from edge_s2s_export import families
from edge_s2s_export.convert import Dtype, convert
from edge_s2s_export.errors import ExportError, GateError
from edge_s2s_export.restore import restore

from .datasets import DATA, EXAMPLES, Pair, Row, passes, train_pairs, valid_rows
from .display import Display
from .examples import Batch, Epochs, Example, Shape, Stream, collate, shapes_of
from .losses import Distillation
from .networks import new_model, shrink
from .outputs import N_DRAWS, encode_sources, read_outputs, write_outputs
from .pretrain_tasks import PretrainTasks
from .pseudo_labels import pseudo_labels
from .recipe import Recipe
from .report import write_report
from .stages import Work
from .texts import documents, licences, sample, text_files
from .tokenizer_training import check_fits, save_tokenizer, train_tokenizer
from .training import CHECKPOINT, LOG, TrainingOptions, train

TOKENIZER_CHARS = 6_000_000  # of each file of texts that a tokenizer learns from
N_LOSS_ROWS = 128  # of valid, on which the loss is watched
TRAIN, VALID = "train.jsonl", "valid.jsonl"
BUNDLE = f"model{SUFFIX}"


@dataclass(frozen=True)
class Built:
    """What a build wrote."""

    bundle: Path
    report: Path
    sha256: str


def build(
    recipe: Recipe, *, data: Path, work: Path, out: Path | None = None, display: Display | None = None
) -> Built:
    """Runs what is not done yet and writes the bundle, to `out` or `WORK/NAME.es2s`.

    Raises `GateError` if a gate does not pass; the report says so too, and no bundle is written.
    """
    chain = Chain(recipe, data, work, display or Display())
    with chain.work.locked():
        report = chain.evaluation
        measured = json.loads((report / "build.json").read_text(encoding="utf-8"))
        if refused := measured["refused"]:
            raise GateError(f"{recipe.name} is refused, see {report / 'report.md'}: {'; '.join(refused)}")
        path = work / f"{recipe.name}{SUFFIX}" if out is None else out
        extensions = {**measured["extensions"], **chain.drift_reference().to_extension()}
        if recipe.checks:
            extensions["checks"] = [*recipe.checks]
        _write_measured_bundle(chain.bundle("int8") / BUNDLE, report, extensions, path)
    return Built(path, report / "report.md", hashlib.sha256(path.read_bytes()).hexdigest())


class Chain:
    """The stages of one recipe: properties and methods that give a folder, made if it is not there."""

    def __init__(self, recipe: Recipe, data: Path, work: Path, display: Display):
        self.recipe, self.display = recipe, display
        self.work = Work(work, on_stage=display.stage)
        self._data_folder = data

    # Data and tokenizer

    @cached_property
    def data(self) -> Path:
        """`train.jsonl` and `valid.jsonl`: filtered pairs, and rows to measure on."""
        recipe, folder = self.recipe, self._data_folder

        def make(stage: Path) -> None:
            _write_lines(stage / TRAIN, (pair._asdict() for pair in train_pairs(recipe, folder)))
            _write_lines(stage / VALID, (dataclasses.asdict(row) for row in valid_rows(recipe, folder)))

        return self.work.stage("data", {"sets": recipe.data, "files": _digests(recipe, folder)}, make)

    @cached_property
    def tokenizer_folder(self) -> Path:
        """Of transformers' form."""
        options = self.recipe.tokenizer
        if options.folder:
            source = self._checkpoint(options.folder)
            return self.work.stage(
                "tokenizer",
                {"folder": _identity(source)},
                lambda stage: AutoTokenizer.from_pretrained(source).save_pretrained(stage),
            )
        return self.work.stage(
            "tokenizer",
            {"data": self.data, "options": options, "texts": self._text_digests},
            lambda stage: save_tokenizer(train_tokenizer(self._texts(), options), stage),
        )

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer itself."""
        return AutoTokenizer.from_pretrained(self.tokenizer_folder)

    def _texts(self) -> Iterable[str]:
        for pair in self.pairs:
            yield pair.source
            yield pair.target
        yield from sample(self._text_files, TOKENIZER_CHARS)

    @cached_property
    def _text_files(self) -> list[Path]:
        pretraining = self.recipe.pretraining
        return text_files(self._data_folder, pretraining.texts) if pretraining else []

    @cached_property
    def _text_digests(self) -> list[str]:
        return [_digest(path) for path in self._text_files]

    @cached_property
    def pairs(self) -> list[Pair]:
        """To train on."""
        return [Pair(**values) for values in _read_lines(self.data / TRAIN)]

    @cached_property
    def rows(self) -> list[Row]:
        """To measure on, of all sets."""
        return [
            Row(**{**values, "targets": tuple(values["targets"])})
            for values in _read_lines(self.data / VALID)
        ]

    # Teacher and student

    def _checkpoint(self, source: str) -> str:
        """A Hugging Face folder, or a hub id; the weights of a bundle become such a folder."""
        if (path := Path(source)).suffix != SUFFIX:
            return source
        if not path.is_file():
            raise ExportError(f"{source}: expected a bundle, found no such file")

        def make(stage: Path) -> None:
            restore(path, stage, exist_ok=True)

        return str(self.work.stage("restored", {"bundle": _digest(path)}, make))

    @cached_property
    def pretrained(self) -> Path | None:
        """A Hugging Face folder with the teacher's first weights, if the recipe pretrains."""
        pretraining, network = self.recipe.pretraining, self.recipe.teacher.network
        if pretraining is None or network is None:
            return None
        inputs = {
            "network": network,
            "pretraining": pretraining,
            "texts": self._text_digests,
            **self._training_inputs,
        }

        def make(stage: Path) -> None:
            model = new_model(network, len(self.tokenizer), seed=self.recipe.seed)
            texts = documents(self._text_files, max_mb=pretraining.max_mb)
            stream = PretrainTasks(
                texts, self.tokenizer, self._shapes, pretraining.tasks, seed=self.recipe.seed
            )
            self._train("pretraining", model, stream, pretraining.training, stage)
            self._save(model, stage)

        return self.work.stage("pretrained", inputs, make, together=True)

    @cached_property
    def teacher(self) -> Path:
        """A Hugging Face folder."""
        teacher = self.recipe.teacher
        init = self._checkpoint(teacher.init) if teacher.init else ""
        inputs = {
            "network": teacher.network,
            "init": _identity(init) if init else self.pretrained,
            "training": teacher.training,
            **self._training_inputs,
        }

        def make(stage: Path) -> None:
            if source := init or self.pretrained:
                model = _load(str(source))
            else:
                assert teacher.network
                model = new_model(teacher.network, len(self.tokenizer), seed=self.recipe.seed)
            check_fits(self.tokenizer, model, "teacher")
            if teacher.training:
                self._train("teacher", model, self._epochs(self.pairs), teacher.training, stage)
            self._save(model, stage)

        return self.work.stage("teacher", inputs, make, together=True)

    @cached_property
    def pseudo_labels(self) -> Path:
        """`train.jsonl`: the teacher's outputs for training sources, those that pass the filters."""
        options = self.recipe.pseudo_labels
        assert options
        sources = [*dict.fromkeys(pair.source for pair in self.pairs)][: options.max_rows or None]

        def make(stage: Path) -> None:
            teacher = _load(str(self.teacher))
            with self.display.counting("pseudo-labels", len(sources)) as show:
                labelled = pseudo_labels(teacher, self.tokenizer, sources, options, on_progress=show)
            pairs = [
                Pair(source, target)
                for source, targets in zip(sources, labelled.targets, strict=True)
                for target in targets
                if passes(self.recipe.main, source.removeprefix(self.recipe.main.prefix), target)
            ]
            dropped = ", ".join(f"{n} for {reason}" for reason, n in sorted(labelled.dropped.items()))
            self.display.say(f"pseudo-labels: {len(pairs)} of {len(sources)}, dropped {dropped or 'none'}")
            _write_lines(stage / TRAIN, (pair._asdict() for pair in pairs))

        inputs = {
            "teacher": self.teacher,
            "data": self.data,
            "tokenizer": self.tokenizer_folder,
            "options": options,
        }
        return self.work.stage("pseudo-labels", inputs, make)

    @cached_property
    def student(self) -> Path:
        """A Hugging Face folder; the teacher's, if the recipe has no student."""
        student = self.recipe.student
        if student is None:
            return self.teacher
        labels = self.pseudo_labels if self.recipe.pseudo_labels else None
        inputs = {
            "student": student, "teacher": self.teacher, "labels": labels, **self._training_inputs,
        }  # fmt: skip

        def make(stage: Path) -> None:
            teacher = _load(str(self.teacher))
            if student.init == "shrink":
                try:
                    model: Any = shrink(teacher, student.network)
                except ValueError as error:
                    raise ExportError(f"student.network: {error}") from error
            else:
                model = new_model(student.network, teacher.config.vocab_size, seed=self.recipe.seed + 1)
            check_fits(self.tokenizer, model, "student")
            stream = self._epochs(self._student_pairs(labels))
            self._train(
                "student",
                model,
                stream,
                student.training,
                stage,
                teacher=teacher,
                distillation=student.distillation,
                quantization_aware=student.quantization_aware,
            )
            self._save(model, stage)

        return self.work.stage("student", inputs, make, together=True)

    def _student_pairs(self, labels: Path | None) -> list[Pair]:
        options = self.recipe.pseudo_labels
        if labels is None or options is None:
            return self.pairs
        of_teacher = [Pair(**values) for values in _read_lines(labels / TRAIN)] * options.repeat
        return [*(self.pairs if options.keep_targets else ()), *of_teacher]

    @property
    def _training_inputs(self) -> dict[str, object]:
        recipe = self.recipe
        return {
            "data": self.data,
            "tokenizer": self.tokenizer_folder,
            "lengths": recipe.lengths,
            "seed": recipe.seed,
        }

    def _train(
        self,
        name: str,
        model: Any,
        stream: Stream,
        options: TrainingOptions,
        stage: Path,
        *,
        teacher: Any = None,
        distillation: Distillation | None = None,
        quantization_aware: bool = False,
    ) -> None:
        with self.display.training(name, options.steps) as show:
            try:
                train(
                    model,
                    stream,
                    options,
                    stage,
                    valid=self._valid_batches(),
                    teacher=teacher,
                    distillation=distillation,
                    quantization_aware=quantization_aware,
                    on_progress=show,
                )
            except ValueError as error:
                raise ExportError(f"{name}: {error}") from error

    @property
    def _shapes(self) -> tuple[Shape, ...]:
        lengths = self.recipe.lengths
        return shapes_of(lengths.source, lengths.target, lengths.tokens_per_batch)

    def _epochs(self, pairs: Sequence[Pair]) -> Stream:
        return Epochs(self._examples(pairs), self._shapes, seed=self.recipe.seed)

    def _examples(self, pairs: Sequence[Pair]) -> list[Example]:
        lengths = self.recipe.lengths
        sources = encode_sources(self.tokenizer, [pair.source for pair in pairs], lengths.source[-1])
        targets = encode_sources(self.tokenizer, [pair.target for pair in pairs], lengths.target)
        return [Example(*ids) for ids in zip(sources, targets, strict=True)]

    def _valid_batches(self) -> list[Batch]:
        prefix = self.recipe.main.prefix
        rows = [row for row in self.rows if row.set == self.recipe.main.name][:N_LOSS_ROWS]
        examples = self._examples([Pair(prefix + row.source, row.targets[0]) for row in rows])
        shape = self._shapes[-1]
        groups = [examples[at : at + shape.rows] for at in range(0, len(examples), shape.rows)]
        # Rows of padding alone would be the wrong source of a neighbour.
        return [collate(group, dataclasses.replace(shape, rows=len(group))).trimmed() for group in groups]

    def _save(self, model: Any, stage: Path) -> None:
        if not self.work.is_main:
            return
        model.save_pretrained(stage)
        self.tokenizer.save_pretrained(stage)
        (stage / CHECKPOINT).unlink(missing_ok=True)

    # Bundles and what they say

    def bundle(self, system: str) -> Path:
        """Folder with the bundle of "teacher" and "float32" in float32, or of "int8"."""
        recipe = self.recipe
        if system == "teacher" and not recipe.student:
            return self.bundle("float32")
        model = self.teacher if system == "teacher" else self.student
        dtype: Dtype = "int8" if system == "int8" else "float32"
        lines = [DATA[data.name].licence for data in recipe.data if data.name in DATA]
        lines += licences(recipe.pretraining.texts) if recipe.pretraining else []
        lines += recipe.teacher.data
        facts: dict[str, Any] = {
            "name": recipe.name,
            "model_version": recipe.version,
            "task": recipe.task,
            "prefix": recipe.main.prefix,
            "languages": list(recipe.languages),
            "licence": recipe.licence,
            "data": lines,
            "dtype": dtype,
            "smooth_quant": recipe.smooth_quant or None if dtype == "int8" else None,
            "kv_cache": recipe.kv_cache if dtype == "int8" else "float32",
        }

        def make(stage: Path) -> None:
            checkpoint = stage / "checkpoint"  # with the recipe's settings, which training does not depend on
            shutil.copytree(model, checkpoint, dirs_exist_ok=True)
            settings = GenerationConfig.from_pretrained(checkpoint)
            settings.update(**dataclasses.asdict(recipe.generation))
            settings.save_pretrained(checkpoint)
            texts = self._texts_of_gates()
            convert(checkpoint, stage / BUNDLE, texts=texts, replace=True, **facts)
            shutil.rmtree(checkpoint)

        inputs = {"model": model, "generation": recipe.generation, "rows": self.data, **facts}
        return self.work.stage(f"bundle-{system}", inputs, make)

    def _texts_of_gates(self) -> list[str]:
        """Sources of the main set that are read whole."""
        main, longest = self.recipe.main, self.recipe.lengths.source[-1]
        texts = [row.source for row in self.rows if row.set == main.name]
        lengths = [len(ids) for ids in self.tokenizer([main.prefix + text for text in texts])["input_ids"]]
        return [text for text, length in zip(texts, lengths, strict=True) if length <= longest]

    def outputs(self, system: str) -> Path:
        """What a bundle says to all rows."""
        if system == "teacher" and not self.recipe.student:
            return self.outputs("float32")
        bundle = self.bundle(system)
        n_draws = N_DRAWS if system == "int8" else 0  # which the confidence is fitted to
        prefixes = {data.name: data.prefix for data in self.recipe.data}

        def make(stage: Path) -> None:
            prefixed = [prefixes[row.set] + row.source for row in self.rows]
            ids = encode_sources(self.tokenizer, prefixed, self.recipe.lengths.source[-1])
            with self.display.counting(f"outputs of {system}", len(ids)) as show:
                texts = [row.source for row in self.rows]
                write_outputs(bundle / BUNDLE, texts, ids, stage, n_draws=n_draws, on_progress=show)

        inputs = {"bundle": bundle, "data": self.data, "n_draws": n_draws}
        return self.work.stage(f"outputs-{system}", inputs, make)

    def drift_reference(self) -> Reference:
        """How often tokens occur in the sources of the main set that it was trained on."""
        prefix = self.recipe.main.prefix
        sources = dict.fromkeys(pair.source for pair in self.pairs if pair.source.startswith(prefix))
        return Reference.from_documents(
            encode_sources(self.tokenizer, sources, self.recipe.lengths.source[-1])
        )

    @cached_property
    def evaluation(self) -> Path:
        """`eval.json`, `report.md` and its plots."""
        systems = ("teacher", "float32", "int8")
        outputs = {system: self.outputs(system) for system in systems}
        bundles = {system: self.bundle(system) / BUNDLE for system in systems}
        runs = {"pretraining": self.pretrained, "teacher": self.teacher}
        runs |= {"student": self.student} if self.recipe.student else {}
        logs = {name: folder / LOG for name, folder in runs.items() if folder is not None}

        def make(stage: Path) -> None:
            write_report(
                self.recipe,
                stage,
                self.rows,
                bundles=bundles,
                outputs={system: read_outputs(folder) for system, folder in outputs.items()},
                logs={name: log for name, log in logs.items() if log.exists()},
            )

        inputs = {"recipe": self.recipe, "data": self.data, **outputs}
        return self.work.stage("evaluation", inputs, make)


def _write_measured_bundle(
    candidate: Path, report: Path, extensions: Mapping[str, object], path: Path
) -> None:
    """The int8 bundle with what was measured and learned from it; nothing else changes."""
    with open_bundle(candidate) as bundle:
        files = {name: bytes(bundle.read(name)) for name in bundle.manifest.files}
        measured = json.loads((report / "eval.json").read_text(encoding="utf-8"))
        files["eval.json"] = _dump({**json.loads(files["eval.json"]), "task": measured})
        card = (report / "model_card.md").read_text(encoding="utf-8")
        files["MODEL_CARD.md"] = files["MODEL_CARD.md"] + b"\n" + card.encode()
        write_bundle(path, dataclasses.replace(bundle.manifest, extensions=extensions), files, replace=True)


def _load(source: str) -> Any:
    """A model in float32, of a family that a bundle can hold."""
    try:
        families.family_of(AutoConfig.from_pretrained(source))
        return AutoModelForSeq2SeqLM.from_pretrained(source, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{source}: expected a Hugging Face folder, or a hub id and a network connection; {error}"
        ) from error


def _identity(source: str) -> str:
    """What a folder's files are, or a hub id as it is."""
    folder = Path(source)
    if not folder.is_dir():
        return source
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return " ".join(f"{path.relative_to(folder)}:{_digest(path)}" for path in files)


def _digests(recipe: Recipe, folder: Path) -> dict[str, str]:
    names = [data.name for data in recipe.data if data.name != EXAMPLES]
    files = sorted(path for name in names for path in (folder / name).glob("*") if path.is_file())
    return {str(path.relative_to(folder)): _digest(path) for path in files}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dump(document: object) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _write_lines(path: Path, values: Iterable[object]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def _read_lines(path: Path) -> Iterable[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)
