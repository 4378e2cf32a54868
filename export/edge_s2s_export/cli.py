"""`edge-s2s-export`: builds bundles. Exit codes: 0 ok, 1 error, 2 usage, 130 interrupted."""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_s2s.errors import EdgeS2SError
from edge_s2s.manifest import RUNTIME_VERSION

from .errors import ExportError

if TYPE_CHECKING:
    from .convert import Report

EXAMPLES = """\
examples:
  edge-s2s-export convert ./flan-t5-small --out flan-t5-small.es2s --licence Apache-2.0
  edge-s2s-export convert google/flan-t5-small --out bundles/flan/ --dtype float32
  edge-s2s-export convert ./summarizer --out summarizer.es2s --task summarization --languages en \\
      --prefix "summarize: " --licence CC-BY-4.0 --data "Our Corpus, CC BY 4.0, https://example.org"
  edge-s2s-export static ./summarizer --bundle summarizer.es2s --out summarizer-npu.es2s --kinds qnn-static
  edge-s2s-export sensitivity ./summarizer --prefix "summarize: "
  edge-s2s-export restore summarizer.es2s --out ./summarizer
  edge-s2s-export build --recipe tiny --work work
  edge-s2s-export build --recipe e2e-data-to-text --data data --work work
"""
FACTORY = {
    "train": "a recipe's teacher",
    "distill": "a recipe's teacher and student",
    "evaluate": "a recipe's report, without a bundle",
    "build": "a recipe's checked bundle, from data to gates",
    "ablate": "a recipe's student without each part of its distillation, in a table",
}
FACTORY_NOTE = (
    "Runs what the work folder lacks; stopped at any moment, the same command goes on. "
    "Several processes: torchrun --nproc-per-node N -m edge_s2s_export.cli ..."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except KeyboardInterrupt:
        return 130
    except (ExportError, EdgeS2SError, OSError) as error:
        print(f"edge-s2s-export: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-s2s-export",
        description="Builds edge_s2s bundles.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {RUNTIME_VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_convert(commands)
    _add_static(commands)
    _add_sensitivity(commands)
    _add_restore(commands)
    for name, what in FACTORY.items():
        _add_factory(commands, name, what)
    return parser


def _add_convert(commands: Any) -> None:
    convert = commands.add_parser(
        "convert",
        help="a Hugging Face checkpoint becomes a checked bundle",
        description="Converts a checkpoint, compares it with transformers, and writes it if all gates pass.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.set_defaults(run=_convert)
    add = convert.add_argument
    add("source", metavar="SOURCE", help="a local Hugging Face folder, or a hub id")
    add("--out", required=True, type=Path, metavar="BUNDLE", help="a file NAME.es2s, or a directory")
    add("--dtype", choices=("int8", "float32"), default="int8", help="of the weights (default: %(default)s)")
    add(
        "--smooth-quant",
        type=float,
        metavar="ALPHA",
        help="move what is hard to quantize into weights, such as 0.5 (T5 only; default: no)",
    )
    add(
        "--kv-cache",
        choices=("float32", "float16"),
        default="float32",
        help="keys and values that a session keeps; float16 takes half of their memory, in int8 bundles "
        "(default: %(default)s)",
    )
    add(
        "--encoder",
        choices=("onnx", "native"),
        default="onnx",
        help="what runs the encoder: ONNX Runtime or the C core (default: %(default)s)",
    )
    add("--name", help="of the bundle (default: that of SOURCE)")
    add("--model-version", default="1.0.0", metavar="X.Y.Z", help="of the weights (default: %(default)s)")
    add("--task", default="text2text-generation", help="what it does (default: %(default)s)")
    add("--prefix", default="", metavar="TEXT", help="what every input starts with, its last blank included")
    add("--languages", nargs="+", default=[], metavar="CODE", help="such as: en de")
    add("--licence", default="NOASSERTION", metavar="SPDX", help="of the weights, such as Apache-2.0")
    add(
        "--data",
        action="append",
        default=[],
        metavar="LINE",
        help="a training set and its licence; repeatable",
    )
    add(
        "--texts",
        type=Path,
        metavar="FILE",
        help='checks use its rows {"source": ...} (default: English ones)',
    )
    add("--replace", action="store_true", help="replace BUNDLE if it exists")


def _add_static(commands: Any) -> None:
    static = commands.add_parser(
        "static",
        help="add encoders for NPUs and other accelerators to a bundle",
        description="Adds static encoders to a bundle, made from its checkpoint, checked against its own.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    static.set_defaults(run=_static)
    add = static.add_argument
    add("source", metavar="SOURCE", help="what the bundle was converted from: a local folder, or a hub id")
    add("--bundle", required=True, type=Path, metavar="BUNDLE", help="which gets more encoders")
    add("--out", required=True, type=Path, metavar="BUNDLE", help="a file NAME.es2s, or a directory")
    add(
        "--kinds",
        nargs="+",
        choices=("static", "qnn-static"),
        default=["static", "qnn-static"],
        help="static: for any provider; qnn-static: as Qualcomm's QNN wants it (default: both)",
    )
    add(
        "--buckets",
        nargs="+",
        type=int,
        default=[128, 256, 512],
        metavar="N",
        help="lengths that sources are padded to (default: 128 256 512)",
    )
    add(
        "--scheme",
        choices=("a16w8", "a8w8"),
        default="a16w8",
        help="bits of activations and weights (default: %(default)s)",
    )
    add("--texts", type=Path, metavar="FILE", help='calibrate on its rows {"source": ...} (default: English)')
    add("--replace", action="store_true", help="replace BUNDLE if it exists")


def _add_sensitivity(commands: Any) -> None:
    parser = commands.add_parser(
        "sensitivity",
        help="which matrices of a checkpoint int8 costs most",
        description="Rounds each matrix to int8 alone and tells what that changes, most expensive first.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_sensitivity)
    add = parser.add_argument
    add("source", metavar="SOURCE", help="a local Hugging Face folder, or a hub id")
    add("--prefix", default="", metavar="TEXT", help="what every input starts with, its last blank included")
    add("--texts", type=Path, metavar="FILE", help='rows {"source": ...} to write to (default: English ones)')


def _add_restore(commands: Any) -> None:
    parser = commands.add_parser(
        "restore",
        help="a bundle becomes a Hugging Face checkpoint again",
        description="Writes the T5 of a bundle as a Hugging Face folder in float32, to train or convert it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_restore)
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="a file NAME.es2s, or a directory")
    add("--out", required=True, type=Path, metavar="FOLDER", help="a new folder")


def _add_factory(commands: Any, name: str, what: str) -> None:
    parser = commands.add_parser(
        name, help=what, description=f"{what.capitalize()}. {FACTORY_NOTE}", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=_run_factory, command=name)
    add = parser.add_argument
    add("--recipe", required=True, metavar="NAME|PATH", help="a shipped recipe, or a file NAME.toml")
    data = Path(os.environ.get("EDGE_S2S_DATA", "data"))
    add(
        "--data",
        type=Path,
        default=data,
        metavar="FOLDER",
        help="of data sets (default: EDGE_S2S_DATA, or data)",
    )
    add("--work", type=Path, default=Path("work"), metavar="FOLDER", help="of finished and unfinished stages")
    add("--threads", type=int, metavar="N", help="of torch (default: one for each core)")
    if name == "build":
        add("--out", type=Path, metavar="BUNDLE", help="(default: NAME.es2s in the work folder)")
    if name == "ablate":
        add("--steps", type=int, metavar="N", help="of each student (default: as many as the recipe says)")


def _run_factory(options: argparse.Namespace) -> None:
    torch = _quiet_torch()
    from .factory.ablation import TABLE, ablate
    from .factory.build import Chain, build
    from .factory.display import Display
    from .factory.recipe import load_recipe
    from .factory.stages import is_main_process

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    recipe, display = load_recipe(options.recipe), Display()
    if options.command == "ablate" and (n_processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ExportError(f"ablate: expected one process, found {n_processes}; start it without a launcher")
    if not is_main_process():  # it helps to train
        with Path(os.devnull).open("w") as nowhere:
            chain = Chain(recipe, options.data, options.work, Display(nowhere))
            _ = chain.teacher if options.command == "train" else chain.student
        return
    if options.command == "build":
        built = build(recipe, data=options.data, work=options.work, out=options.out, display=display)
        print(f"{built.bundle}: {built.bundle.stat().st_size / 1e6:.1f} MB, sha256 {built.sha256}")
        print(f"{built.report}: what was measured")
        return
    if options.command == "ablate":
        folder = ablate(recipe, data=options.data, work=options.work, steps=options.steps, display=display)
        print((folder / TABLE).read_text(encoding="utf-8"), end="")
        return
    chain = Chain(recipe, options.data, options.work, display)
    with chain.work.locked():
        made = {
            "train": lambda: chain.teacher,
            "distill": lambda: chain.student,
            "evaluate": lambda: chain.evaluation,
        }
        print(made[options.command]())


def _quiet_torch() -> Any:
    """torch, or what to install; transformers speaks of errors alone from then on."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ExportError(
            f"{error.name} is missing; install it with: pip install 'edge_s2s[export]'"
        ) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=UserWarning)  # of the trace; the gates check its result
    return torch


def _convert(options: argparse.Namespace) -> None:
    _quiet_torch()
    from .convert import convert  # needs what the line above has just asked for

    report = convert(
        options.source,
        options.out,
        dtype=options.dtype,
        smooth_quant=options.smooth_quant,
        kv_cache=options.kv_cache,
        encoder=options.encoder,
        name=options.name,
        model_version=options.model_version,
        task=options.task,
        prefix=options.prefix,
        languages=options.languages,
        licence=options.licence,
        data=options.data,
        texts=None if options.texts is None else _read_texts(options.texts),
        replace=options.replace,
        on_step=_show_step,
    )
    _show_report(report)


def _show_step(step: str, seconds: float) -> None:
    print(f"{step:<32}{seconds:7.1f} s", file=sys.stderr)


def _show_report(report: "Report") -> None:
    for name, value in report.metrics.items():
        print(f"{name:<32}{value:9.4g}", file=sys.stderr)
    print(f"{report.path}: {report.size_bytes / 1e6:.1f} MB")


def _static(options: argparse.Namespace) -> None:
    _quiet_torch()
    from .static_variant import add_static_encoders  # needs what the line above has just asked for

    report = add_static_encoders(
        options.source,
        options.bundle,
        options.out,
        kinds=options.kinds,
        buckets=options.buckets,
        scheme=options.scheme,
        texts=None if options.texts is None else _read_texts(options.texts),
        replace=options.replace,
        on_step=_show_step,
    )
    _show_report(report)


def _restore(options: argparse.Namespace) -> None:
    _quiet_torch()
    from .restore import restore  # needs what the first line has just asked for

    manifest = restore(options.bundle, options.out)
    prefix = f", prefix {manifest.prefix!r}" if manifest.prefix else ""
    print(f"{options.out}: {manifest.name} {manifest.version}, licence {manifest.licence.weights}{prefix}")


def _sensitivity(options: argparse.Namespace) -> None:
    _quiet_torch()
    from tqdm import tqdm

    from .sensitivity import sensitivity  # needs what the first line has just asked for

    texts = None if options.texts is None else _read_texts(options.texts)
    with tqdm(unit="matrix", leave=False, disable=None) as bar:

        def show(n_done: int, n: int) -> None:
            bar.total = n
            bar.update(n_done - bar.n)

        costs = sensitivity(options.source, prefix=options.prefix, texts=texts, on_progress=show)
    print(f"{'rounded to int8':<44}{'weights':>11}{'mean KL':>11}{'p99 KL':>11}{'changed':>9}")
    for cost in costs:
        print(
            f"{cost.name:<44}{cost.n_weights:>11,}{cost.mean_kl:>11.2e}{cost.high_kl:>11.2e}{cost.changed:>9.2%}"
        )


def _read_texts(path: Path) -> list[str]:
    texts: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            text = json.loads(line)["source"]
        except (ValueError, TypeError, KeyError):
            text = None
        if not isinstance(text, str) or not text.strip():
            raise ExportError(
                f'{path}, line {number}: expected {{"source": "some text"}}, found {line[:60]!r}'
            )
        texts.append(text)
    return texts


if __name__ == "__main__":
    sys.exit(main())
