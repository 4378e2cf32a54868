"""The command `edge-s2s`. Exit codes: 0 ok, 1 error, 2 usage, 3 some rows failed, 130 interrupted."""

import argparse
import dataclasses
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NoReturn

from edge_s2s import __version__
from edge_s2s.cli_bundle import bundle_path, info, verify
from edge_s2s.cli_cloud import add_cloud_options, cloud_check, cloud_sign, with_cloud
from edge_s2s.constrained import Constraint
from edge_s2s.errors import EdgeS2SError
from edge_s2s.generation import CHECKS, GenerationOptions, Replacement
from edge_s2s.jsonl import Values, generate_rows, open_output
from edge_s2s.loading import load
from edge_s2s.model import Seq2SeqModel
from edge_s2s.providers import PROVIDERS
from edge_s2s.threads import MAX_THREADS

OK, ERROR, USAGE, SOME_ROWS_FAILED, INTERRUPTED = 0, 1, 2, 3, 130


def _json(text: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"expected JSON such as [3, 4], found {text}") from error
    return value


def _names(text: str) -> list[str]:
    return [] if text == "none" else text.split(",")


_OPTIONS: dict[str, tuple[Callable[[str], object], str]] = {  # of `generate` and `summarize`: type and help
    "num_beams": (int, "hypotheses followed at a time; 1 is greedy search"),
    "num_beam_groups": (int, "above 1, diverse beam search by so many groups"),
    "diversity_penalty": (float, "for a token that an earlier group has chosen"),
    "do_sample": (bool, "draw tokens by their probability instead of taking the best"),
    "temperature": (float, "sampling: below 1 favours likely tokens"),
    "top_k": (int, "sampling: among the N most likely tokens; 0 is off"),
    "top_p": (float, "sampling: among the most likely tokens of this probability together"),
    "min_p": (float, "sampling: among tokens at least X times as likely as the best"),
    "typical_p": (float, "sampling: among tokens of typical information of this probability together"),
    "seed": (int, "sampling: the same seed draws the same"),
    "max_new_tokens": (int, "longest result in tokens"),
    "min_new_tokens": (int, "shortest result in tokens"),
    "length_penalty": (float, "above 0, beam search favours longer results"),
    "no_repeat_ngram_size": (int, "no n-gram of this size occurs twice; 0 is off"),
    "prompt_lookup_num_tokens": (int, "greedy: read up to so many tokens ahead, 0..16; changes no result"),
    "renormalize_logits": (bool, "beam search: what rules have left has probability 1 again"),
    "repetition_penalty": (float, "above 1, tokens that occurred become less likely"),
    "encoder_repetition_penalty": (float, "above 1, tokens of the source become more likely"),
    "encoder_no_repeat_ngram_size": (int, "no n-gram of this size of the source occurs; 0 is off"),
    "forced_bos_token_id": (int, "the first new token; -1 is off"),
    "forced_eos_token_id": (int, "the last token at the longest length; -1 is off"),
    "suppress_tokens": (_json, "token ids that never occur, such as '[3, 4]'"),
    "begin_suppress_tokens": (_json, "token ids that do not come first, such as '[3, 4]'"),
    "bad_words_ids": (_json, "token sequences that never occur, such as '[[3, 4], [5]]'"),
    "sequence_bias": (_json, "what is added to scores of token sequences, such as '[[[3, 4], -2.5]]'"),
    "exponential_decay_length_penalty": (
        _json,
        "'[START, FACTOR]': from START tokens on, EOS grows by FACTOR",
    ),
    "source_language": (str, "code of the text's language, for a model with several"),
    "target_language": (str, "code of the result's language"),
    "careful": (bool, "draw other answers, too: says more surely how good a result is, takes longer"),
    "checks": (_names, f"what is mended in results, such as loops,numbers, of {', '.join(CHECKS)}; or none"),
}


_METAVARS: dict[Callable[[str], object], str] = {
    int: "N",
    float: "X",
    str: "CODE",
    _json: "JSON",
    _names: "NAMES",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller; the next file must not get its number
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  open as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what the terminal cannot show
    try:
        arguments = _parser().parse_args(argv)
        code: int = arguments.command(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader has gone; nothing may be written when Python flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR
    except (EdgeS2SError, ValueError, OSError, MemoryError) as error:
        print(f"edge-s2s: error: {_sentence(error)}", file=sys.stderr)
        return ERROR


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


# ------------------------------------------------ command line ----------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"edge-s2s: error: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="edge-s2s", description="Encoder-decoder Transformers on the device.")
    parser.add_argument("--version", action="version", version=f"edge-s2s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = _add(
        commands,
        "summarize",
        _summarize,
        "summarize a document of any length",
        "edge-s2s summarize meeting.txt",
        "cat mail.txt | edge-s2s summarize - --json",
        "edge-s2s summarize meeting.txt --focus 'the budget'",
    )
    command.add_argument("file", metavar="FILE", help="text in UTF-8; - is standard input")
    _add_bundle(command)
    add_cloud_options(command)
    _add_options(command)
    command.add_argument(
        "--focus",
        metavar="TEXT",
        help="words or a question: read only the parts of a long text that have most",
    )
    command.add_argument("--json", action="store_true", help="one JSON object, when all is done")

    command = _add(
        commands,
        "generate",
        _generate,
        "generate for each row of a JSON-lines file",
        "edge-s2s generate --jsonl in.jsonl --out out.jsonl",
        "edge-s2s generate --jsonl in.jsonl --out out.jsonl --resume   # after a crash",
        "zcat in.jsonl.gz | edge-s2s generate --jsonl - --out - | gzip > out.jsonl.gz",
        "edge-s2s generate --jsonl in.jsonl --out out.jsonl --allowed labels.txt",
    )
    command.add_argument(
        "--jsonl",
        metavar="IN",
        required=True,
        help='rows with "source" (text) or "input_ids" (token ids), and "options" of their own such as '
        '{"num_beams": 4}; - is standard input',
    )
    command.add_argument(
        "--out",
        metavar="OUT",
        required=True,
        help="the rows and their results, or their error; - is standard output",
    )
    command.add_argument("--resume", action="store_true", help="go on after the last complete row of OUT")
    command.add_argument("--truncation", action="store_true", help="cut sources that are too long")
    constraint = command.add_mutually_exclusive_group()
    constraint.add_argument("--allowed", metavar="FILE", help="each result is one of the lines of FILE")
    constraint.add_argument(
        "--json-schema", metavar="FILE", help="each result is JSON that follows the schema in FILE"
    )
    _add_bundle(command)
    _add_options(command)

    command = _add(
        commands,
        "score",
        _score,
        "say how likely a given result is, token by token",
        "edge-s2s score meeting.txt summary.txt",
        "edge-s2s score meeting.txt summary.txt --num-alternatives 3 --json",
    )
    command.add_argument("file", metavar="FILE", help="text in UTF-8; - is standard input")
    command.add_argument("target", metavar="TARGET", help="file with the result, in UTF-8")
    command.add_argument(
        "--num-alternatives", type=int, default=0, metavar="N", help="the N likeliest tokens in each place"
    )
    command.add_argument("--truncation", action="store_true", help="cut a text that is too long")
    command.add_argument("--json", action="store_true", help="one JSON object")
    _add_bundle(command)

    cloud = commands.add_parser(
        "cloud", help="look at a cloud endpoint, or sign a policy for it", allow_abbrev=False
    ).add_subparsers(title="commands", required=True, metavar="COMMAND")
    command = _add(
        cloud,
        "check",
        cloud_check,
        "say whether an endpoint answers, and which protocols it speaks",
        "edge-s2s cloud check cloud.toml",
        "edge-s2s cloud check cloud.toml --json",
    )
    command.add_argument("config", metavar="CONFIG", help="TOML file with the table [cloud]")
    command.add_argument("--json", action="store_true", help="the checks as JSON")

    command = _add(
        cloud,
        "sign",
        cloud_sign,
        "sign a policy that devices fetch, on standard output",
        "edge-s2s cloud sign policy.json --key private.pem > signed.json",
    )
    command.add_argument("policy", metavar="POLICY", help="JSON file; hybrid/remote_policy.py has its keys")
    command.add_argument("--key", metavar="PEM", required=True, help="private key of Ed25519")

    command = _add(
        commands,
        "info",
        info,
        "say what a bundle is, or what this machine has for its encoder",
        "edge-s2s info default",
        "edge-s2s info model.es2s --json",
        "edge-s2s info --providers",
    )
    command.add_argument("bundle", metavar="BUNDLE", nargs="?", help="a directory, an .es2s file, or default")
    command.add_argument("--providers", action="store_true", help="list accelerators, or why there are none")
    command.add_argument("--json", action="store_true", help="the manifest, or the list, as JSON")

    command = _add(
        commands,
        "verify",
        verify,
        "check every hash, shape and golden answer of a bundle",
        "edge-s2s verify default",
        "edge-s2s verify model.es2s --json",
    )
    command.add_argument("bundle", metavar="BUNDLE", help="a directory, an .es2s file, or default")
    _add_num_threads(command)
    command.add_argument("--json", action="store_true", help="the checks as JSON")
    return parser


def _add(
    commands: "argparse._SubParsersAction[_Parser]", name: str, run: object, help_text: str, *examples: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=help_text,
        description=f"{help_text[0].upper()}{help_text[1:]}.",
        epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(command=run, usage_error=command.error)
    return command


def _add_bundle(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--bundle",
        metavar="DIR",
        default="default",
        help="a directory or an .es2s file; default: the shipped one",
    )
    _add_num_threads(command)
    command.add_argument(
        "--provider", choices=PROVIDERS, help="run the encoder there; see edge-s2s info --providers"
    )
    command.add_argument("--fallback", choices=("cpu",), help="where what --provider refuses runs")


def _add_num_threads(command: argparse.ArgumentParser) -> None:
    command.add_argument("--num-threads", type=_num_threads, metavar="N", help="threads; by default up to 4")


def _num_threads(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_THREADS:
        raise argparse.ArgumentTypeError(f"expected a number in 1..{MAX_THREADS}, found {text}")
    return int(text)


def _add_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("generation", "as in transformers; by default what the bundle says")
    for name, (kind, help_text) in _OPTIONS.items():
        flag = f"--{name.replace('_', '-')}"
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, help=help_text)
        else:
            group.add_argument(flag, type=kind, metavar=_METAVARS[kind], help=help_text)


def _options(arguments: argparse.Namespace) -> GenerationOptions:
    try:
        return GenerationOptions(**{name: getattr(arguments, name) for name in _OPTIONS})
    except (TypeError, ValueError) as error:
        arguments.usage_error(str(error))
        raise


def _load(arguments: argparse.Namespace) -> Seq2SeqModel:
    if arguments.fallback is not None and arguments.provider is None:
        arguments.usage_error("--fallback is for --provider")
    if arguments.provider is not None:
        _keep_standard_output()
    return load(
        bundle_path(arguments.bundle),
        num_threads=arguments.num_threads,
        providers=None if arguments.provider is None else [arguments.provider],
        fallback=arguments.fallback,
    )


def _keep_standard_output() -> None:
    """Standard output is ours alone: what a provider's library prints there goes to standard error."""
    if not isinstance(sys.stdout, io.TextIOWrapper):
        return
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(
        ours,
        "w",
        encoding=sys.stdout.encoding,
        errors="backslashreplace",
        buffering=1 if os.isatty(ours) else -1,
    )


# -------------------------------------------------- commands ------------------------------------------------


def _summarize(arguments: argparse.Namespace) -> int:
    options = _options(arguments)
    document = _read_text(arguments.file)
    with ExitStack() as stack:
        model = stack.enter_context(_load(arguments))
        summarizer = with_cloud(arguments, model, stack)
        on_progress = _Parts() if sys.stderr.isatty() else None
        focus = arguments.focus
        if arguments.json:
            summary = summarizer.summarize(document, options, focus=focus, on_progress=on_progress)
            values = dataclasses.asdict(summary)
            if math.isnan(summary.score):  # the cloud's; JSON has no NaN
                values["score"] = None
            print(json.dumps(values, ensure_ascii=False))
            return OK
        if not sys.stdout.isatty():  # what a check or the cloud replaces cannot be taken back
            print(summarizer.summarize(document, options, focus=focus, on_progress=on_progress).text)
            return OK
        for piece in summarizer.stream_summary(document, options, focus=focus, on_progress=on_progress):
            if isinstance(piece, Replacement):
                print(f"\n\n{piece.announcement}\n")
            print(piece, end="", flush=True)
        print()
    return OK


def _score(arguments: argparse.Namespace) -> int:
    text, target = _read_text(arguments.file), _read_text(arguments.target).strip()
    with _load(arguments) as model:
        [score] = model.score(
            [text], [target], num_alternatives=arguments.num_alternatives, truncation=arguments.truncation
        )
        if arguments.json:
            values = {
                "token_ids": score.token_ids,
                "token_logprobs": score.token_logprobs,
                "score": score.score,
                "alternatives": [[a._asdict() for a in step] for step in score.alternatives],
            }
            print(json.dumps(values, ensure_ascii=False))
            return OK
        print(f"score {score.score:.3f}, sum {sum(score.token_logprobs):.3f}")
        alternatives = score.alternatives or ((),) * len(score.token_ids)
        for token_id, logprob, step in zip(score.token_ids, score.token_logprobs, alternatives, strict=True):
            others = "  ".join(f"{a.text!r} {a.logprob:.3f}" for a in step)
            print(f"{logprob:8.3f}  {model.decode([token_id])!r:<16}{others}".rstrip())
    return OK


class _Parts:
    """A line on a terminal while a long document is read; the last call clears it."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, n_done: int, n_parts: int) -> None:
        left = round((time.monotonic() - self._start) / n_done * (n_parts - n_done))
        line = f"read {n_done} of {n_parts} parts, {_clock(left)} left" if n_done < n_parts else ""
        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)


def _read_text(name: str) -> str:
    data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = "standard input" if name == "-" else name
        raise ValueError(f"{where} is not UTF-8: byte {error.start} is 0x{data[error.start]:02X}") from error
    return text.replace("\r\n", "\n")


def _generate(arguments: argparse.Namespace) -> int:
    options = _options(arguments)
    if arguments.out == "-" and arguments.resume:
        arguments.usage_error("--resume needs a file to go on with, not standard output")
    if (
        Path(arguments.out).exists()
        and Path(arguments.jsonl).exists()
        and Path(arguments.out).samefile(arguments.jsonl)
    ):
        arguments.usage_error("IN and OUT are the same file")
    with ExitStack() as stack:
        if arguments.jsonl == "-":
            lines: BinaryIO = sys.stdin.buffer
        else:
            lines = stack.enter_context(Path(arguments.jsonl).open("rb"))
        model = stack.enter_context(_load(arguments))
        options.complete(model.manifest.generation, model.manifest.dimensions)  # else every row would fail
        constraint = _constraint(arguments, model)
        if arguments.out == "-":
            out: BinaryIO = sys.stdout.buffer
            kept: Iterator[Values] = iter(())
        else:
            out, kept = stack.enter_context(open_output(Path(arguments.out), resume=arguments.resume))
        progress = stack.enter_context(_Progress(lines))
        counts = generate_rows(
            model,
            lines,
            out,
            options,
            truncation=arguments.truncation,
            constraint=constraint,
            kept=kept,
            progress=progress.add,
        )
    if counts.failed:
        print(f"edge-s2s: {counts.failed} of {counts.rows} rows failed; they have an error", file=sys.stderr)
        return SOME_ROWS_FAILED
    return OK


def _constraint(arguments: argparse.Namespace, model: Seq2SeqModel) -> Constraint | None:
    if arguments.allowed is not None:
        lines = _read_text(arguments.allowed).split("\n")
        return model.allow_texts(line for line in lines if line)
    if arguments.json_schema is not None:
        return model.json_schema(_read_text(arguments.json_schema))
    return None


class _Progress:
    """A line on a terminal: rows, rows a second and, where the size of the input is known, the time left."""

    def __init__(self, lines: BinaryIO) -> None:
        self._lines = lines
        self._size = os.fstat(lines.fileno()).st_size if lines.seekable() else 0
        self._start = self._shown = time.monotonic()
        self._n_kept: int | None = None
        self._n_rows = 0

    def add(self, n_rows: int) -> None:
        self._n_rows += n_rows
        now = time.monotonic()
        if self._n_kept is None:  # those of an earlier run come first
            self._n_kept, self._start, self._start_byte = n_rows, now, self._position()
        if now - max(self._start + 1, self._shown + 0.2) < 0 or not sys.stderr.isatty():
            return
        self._shown = now
        seconds = now - self._start
        line = f"{self._n_rows} rows, {(self._n_rows - self._n_kept) / seconds:.1f} rows/s"
        done = self._position() - self._start_byte
        if self._size and done:
            left = round(seconds * (self._size - self._start_byte - done) / done)
            line += f", {_clock(left)} left"
        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)

    def _position(self) -> int:
        return self._lines.tell() if self._size else 0

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._shown > self._start:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _clock(seconds: int) -> str:
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
