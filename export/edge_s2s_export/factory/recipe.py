"""A recipe: all that decides which bundle comes out, as typed data read from a TOML file.

A key that no recipe has, a value of another type or one out of range is an error that names its place.
"""

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

from edge_s2s.manifest import FloatKind
from edge_s2s_export.errors import ExportError
from edge_s2s_export.model_card import UNKNOWN_LICENCE

from .losses import Distillation
from .networks import Network
from .pretrain_tasks import TaskOptions
from .pseudo_labels import PseudoLabels
from .training import TrainingOptions

T = TypeVar("T")

Filter = Literal["blank", "unsupported", "slots"]
Metric = Literal["bleu", "rouge1", "rouge2", "rougeL"]


@dataclass(frozen=True)
class DataSet:
    """A set of the data folder; the first of a recipe is the bundle's task, and its gates run on it."""

    name: str
    prefix: str = ""  # of its sources
    filters: tuple[Filter, ...] = ()  # of training pairs; datasets.py says what each leaves out
    max_source_words: int = 0  # that training pairs keep, cut before filters look; 0: all
    max_target_words: int = 0  # training pairs with longer targets are left out; 0: none
    max_rows: int = 0  # of training pairs; 0: all
    repeat: int = 1  # how often an epoch has each pair; 0: never, the set is there to measure on
    swap: tuple[str, ...] = ()  # names such as speakers': each pair comes with the next name for each, too
    speakers: tuple[str, ...] = ()  # names that stand for anybody: each pair comes with `names` for them, too
    names: tuple[str, ...] = ()
    max_valid_rows: int = 0  # 0: all


@dataclass(frozen=True)
class TokenizerOptions:
    """A new BPE tokenizer, or the one of a Hugging Face folder or a bundle."""

    folder: str = ""  # or NAME.es2s
    vocab_size: int = 8192
    names: tuple[str, ...] = ()  # that are one token each, such as #Person1#
    n_extra_ids: int = 0  # <extra_id_0>, ..., for pretraining that masks


@dataclass(frozen=True)
class Lengths:
    """Shapes of batches: a source goes into the shortest one that holds it; longer ones are cut."""

    source: tuple[int, ...] = (64, 128, 256, 512)
    target: int = 96
    tokens_per_batch: int = 8192


@dataclass(frozen=True)
class Pretraining:
    """On plain text, before the task; texts.py says which files there are."""

    texts: tuple[str, ...]  # how the names of files begin
    training: TrainingOptions
    tasks: TaskOptions = field(default_factory=TaskOptions)
    max_mb: int = 0  # million characters of each file; 0: all


@dataclass(frozen=True)
class Teacher:
    """Trained from new, pretrained or `init`'s weights; without `training`, `init` as it is."""

    network: Network | None = None
    init: str = ""  # a Hugging Face folder or hub id, or a bundle NAME.es2s of a T5
    data: tuple[str, ...] = ()  # what else `init` was trained on, with licences, for the bundle's manifest
    training: TrainingOptions | None = None


@dataclass(frozen=True)
class Student:
    """`shrink` copies layers of a teacher of the same width, `new` begins with new weights."""

    network: Network
    training: TrainingOptions
    init: Literal["shrink", "new"] = "new"
    distillation: Distillation = field(default_factory=Distillation)
    quantization_aware: bool = False  # it learns with int8's rounding, if the gates refuse it otherwise


@dataclass(frozen=True)
class Generation:
    """Defaults of the bundle, by their transformers names."""

    max_new_tokens: int = 96
    num_beams: int = 1
    no_repeat_ngram_size: int = 0
    length_penalty: float = 1.0


@dataclass(frozen=True)
class Gates:
    """What a bundle must keep to, or it is not written. Shares are of outputs, losses are in points."""

    max_size_mb: float
    min_argmax_agreement: float = 0.985  # int8 with float32, over tokens
    max_mean_kl: float = 0.01  # of float32 and int8, in nats a token
    min_sequence_agreement: float = 0.85  # of tokens in free running
    max_int8_loss: float = 0.3  # of each metric, from float32 to int8
    max_int8_loss_bound: float = 0.5  # the upper end of its paired interval
    max_teacher_loss: float = 5.0  # of each metric, from teacher to int8
    max_unsupported_names: float = 0.03
    max_unsupported_numbers: float = 0.03
    max_loops: float = 0.0
    min_names: float = 0.0  # names per output, as a share of the references'
    max_slot_error: float = 1.0
    min_scores: Mapping[str, float] = field(default_factory=dict)  # metric -> least value


@dataclass(frozen=True)
class Recipe:
    """Everything about one bundle, whose name is that of the recipe."""

    name: str
    task: str
    data: tuple[DataSet, ...]
    teacher: Teacher
    gates: Gates
    student: Student | None = None  # None: the teacher itself becomes the bundle
    version: str = "1.0.0"
    languages: tuple[str, ...] = ("en",)
    licence: str = UNKNOWN_LICENCE  # of the weights, SPDX
    seed: int = 1
    metrics: tuple[Metric, ...] = ("rouge1", "rouge2", "rougeL")  # that the gates look at
    template: str = ""  # a sentence that fits everything, as a baseline
    tokenizer: TokenizerOptions = TokenizerOptions()
    lengths: Lengths = Lengths()
    pretraining: Pretraining | None = None
    pseudo_labels: PseudoLabels | None = None
    generation: Generation = Generation()
    checks: tuple[Literal["loops", "numbers", "names"], ...] = ()  # of summaries; () leaves it to the runtime
    smooth_quant: float = 0.0  # alpha of SmoothQuant, such as 0.5; 0: weights stay as they are
    kv_cache: FloatKind = "float32"  # keys and values of sessions, in the int8 bundle

    @property
    def main(self) -> DataSet:
        """The set of the bundle's task."""
        return self.data[0]


def recipe_names() -> list[str]:
    """Of the recipes that ship with the exporter."""
    return sorted(file.name.removesuffix(".toml") for file in _shipped().iterdir() if ".toml" in file.name)


def load_recipe(name_or_path: str) -> Recipe:
    """The shipped recipe of that name, or the one in a file. Raises `ExportError` that names the fault."""
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise ExportError(f"{path}: expected a recipe, found no such file")
        text = path.read_text(encoding="utf-8")
    elif name_or_path in recipe_names():
        text = (_shipped() / f"{name_or_path}.toml").read_text(encoding="utf-8")
    else:
        raise ExportError(
            f"recipe {name_or_path!r} is unknown; known: {', '.join(recipe_names())}, or a file NAME.toml"
        )
    return parse_recipe(text, path.stem if path.suffix == ".toml" else name_or_path)


def parse_recipe(text: str, name: str) -> Recipe:
    """The recipe in a TOML document."""
    where = f"{name}.toml"
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ExportError(f"{where}: expected TOML; {error}") from error
    if "name" in table:
        raise ExportError(f"{where}: name: remove it; the file's name is the recipe's")
    recipe = _build(Recipe, {**table, "name": name}, where, "")
    assert isinstance(recipe, Recipe)
    _check(recipe, where)
    return recipe


def _shipped() -> Any:
    return files("edge_s2s_export") / "recipes"


def _check(recipe: Recipe, where: str) -> None:
    """What types cannot say."""
    if not recipe.data:
        raise ExportError(f"{where}: data: expected at least one set, found none")
    teacher = recipe.teacher
    if bool(teacher.network) == bool(teacher.init):
        raise ExportError(
            f"{where}: teacher: expected a network to train from new weights, or init to begin with; found"
            f" {'both' if teacher.init else 'neither'}"
        )
    if teacher.network and not teacher.training:
        raise ExportError(f"{where}: teacher.training: expected it, since the network has new weights")
    if teacher.init and not recipe.tokenizer.folder:
        raise ExportError(
            f"{where}: tokenizer.folder: expected {teacher.init!r} or another folder with the tokenizer that"
            " teacher.init was trained with; a new tokenizer would not fit"
        )
    for i, data in enumerate(recipe.data):
        if data.speakers and len(data.names) < len(data.speakers):
            raise ExportError(
                f"{where}: data[{i}].names: expected a name for each of {len(data.speakers)} speakers, found"
                f" {len(data.names)}"
            )
    if recipe.pseudo_labels and not recipe.student:
        raise ExportError(f"{where}: pseudo_labels: expected a student to train on them, found none")
    if recipe.pretraining and (teacher.init or not recipe.tokenizer.n_extra_ids):
        raise ExportError(
            f"{where}: pretraining: expected a teacher.network, and tokenizer.n_extra_ids of at least 1, for"
            " what is hidden"
        )
    positive = {
        "lengths.target": recipe.lengths.target,
        "lengths.tokens_per_batch": recipe.lengths.tokens_per_batch,
        "generation.max_new_tokens": recipe.generation.max_new_tokens,
        "generation.num_beams": recipe.generation.num_beams,
        **{f"lengths.source[{i}]": length for i, length in enumerate(recipe.lengths.source)},
        "data[0].repeat": recipe.main.repeat,
    }
    if teacher.training:
        positive["teacher.training.steps"] = teacher.training.steps
    if recipe.student:
        positive["student.training.steps"] = recipe.student.training.steps
    for name, value in positive.items():
        if value < 1:
            raise ExportError(f"{where}: {name}: expected at least 1, found {value}")
    for name in recipe.gates.min_scores:
        if name not in typing.get_args(Metric):
            known = ", ".join(typing.get_args(Metric))
            raise ExportError(f"{where}: gates.min_scores.{name}: no such metric; known: {known}")
    if not recipe.lengths.source:
        raise ExportError(f"{where}: lengths.source: expected at least one length, found none")


def _build(kind: Any, value: object, where: str, place: str) -> object:
    """`value`, parsed TOML, as the type `kind`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(typing.cast(Any, kind), value, where, place)
    if origin is types.UnionType:  # only X | None occurs, and TOML has no null
        return _build(arguments[0], value, where, place)
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(where, place, "a list", value)
        return tuple(_build(arguments[0], item, where, f"{place}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, dict):
            raise _wrong(where, place, "a table", value)
        return {name: _build(arguments[1], item, where, f"{place}.{name}") for name, item in value.items()}
    if origin is Literal:
        if value not in arguments:
            raise _wrong(where, place, " or ".join(map(repr, arguments)), value)
        return value
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:  # exactly: true is no 1
        raise _wrong(where, place, _KINDS[kind], value)
    return value


def _build_dataclass(kind: type[T], value: object, where: str, place: str) -> T:
    if not isinstance(value, dict):
        raise _wrong(where, place, "a table", value)
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(typing.cast(Any, kind))}
    prefix = f"{place}." if place else ""
    for name in value:
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(fields))}"
            raise ExportError(f"{where}: {prefix}{name}: no such key; {hint}")
    for name, item in fields.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise ExportError(f"{where}: {prefix}{name}: expected it, found no such key")
    return kind(**{name: _build(hints[name], item, where, prefix + name) for name, item in value.items()})


_KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _wrong(where: str, place: str, expected: str, found: object) -> ExportError:
    return ExportError(f"{where}: {place}: expected {expected}, found {found!r}")
