"""The README's table of promises, with the counts of the last release run.

    pytest -m release && python tests/promises.py

rewrites it from `reports/*.json`; `test_docs.py` checks that it was done.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- promises: begin -->", "<!-- promises: end -->"

Report = dict[str, Any]


@dataclass(frozen=True)
class Promise:
    """A row: a sentence that a user can quote, the report that backs it, and its counts in words."""

    sentence: str
    report: str
    counts: Callable[[Report], str]


def _file_faults(report: Report) -> str:
    counts = [form["counts"] for form in report.values()]
    total = sum(sum(c.values()) - c["calls"] - c["power cuts"] for c in counts)
    cuts = sum(c["power cuts"] for c in counts)
    broken = sum(len(form["broken"]) for form in report.values())
    return f"{total:,} failed or killed calls, {cuts:,} power cuts: {broken} broken bundles"


def _read_faults(report: Report) -> str:
    n_faults = sum(sum(form["counts"].values()) for form in report.values())
    broken = sum(len(form["broken"]) for form in report.values())
    return f"{n_faults:,} failed calls: {broken} untyped errors, wrong answers or leaks"


def _threads(report: Report) -> str:
    counts = report["threads"]
    return "{n_threads} threads x {n_requests_each} requests: {n_different} other answers".format(**counts)


def _cancels(report: Report) -> str:
    return "{n_cancels:,} cancels: 99 % within {p99_ms} ms".format(**report["cancels"])


def _accelerators(report: Report) -> str:
    parts = []
    for name, found in report["providers"].items():
        low, high = found["rouge"]["rougeL"]["change_95"]
        parts.append(f"{name} {low:+.1f} to {high:+.1f}")
    n_dialogues = min(found["dialogues"] for found in report["providers"].values())
    return f"{n_dialogues} dialogues, change of ROUGE-L: {', '.join(parts)} (95 %)"


def _growth(report: Report) -> str:
    counts = report["requests"]
    return f"{counts['n_requests']:,} requests: {counts['rss'] / 1024:,.0f} KiB more"


def _arm64(report: Report) -> str:
    n_cases = sum(cpu["cases"] for cpu in report.values())
    n_different = sum(cpu["different"] for cpu in report.values())
    return f"{n_cases} golden answers on {', '.join(report)}: {n_different} other tokens"


def _native_program(report: Report) -> str:
    runs = {name: run for name, run in report.items() if "ROUGE" not in name}
    n_documents = min(run["documents"] for run in runs.values())
    different = sum(run["different"] for run in runs.values())
    return f"{len(runs)} CPUs and kernel sets, {n_documents} documents each: {different} differ"


def _native_tokenizer(report: Report) -> str:
    n_strings = sum(counts["strings"] for counts in report.values())
    different = sum(counts["different"] for counts in report.values())
    return f"{len(report)} tokenizers, {n_strings:,} strings: {different} differ"


def _mutants(report: Report) -> str:
    return (
        f"{report['n_mutants']:,} mutants behind valid hashes: {report['n_crashes']} crashes, "
        f"{report['n_hangs']} hangs, {report['n_opened_elsewhere']} other files opened"
    )


def _fuzz(report: Report) -> str:
    targets, planted = report["targets"].values(), report["planted"].values()
    n = sum(target["n_inputs"] for target in targets)
    n_findings = sum(target["n_findings"] for target in targets)
    slowest = max(bug["seconds"] for bug in planted)
    return (
        f"{n:,} inputs to {len(targets)} fuzz targets: {n_findings} findings; "
        f"{len(planted)} planted bugs found, each within {slowest:.0f} s"
    )


def _damage(report: Report) -> str:
    tried = report["tried"].values()
    n, n_accepted = sum(part["n"] for part in tried), sum(part["n_accepted"] for part in tried)
    return f"{n:,} truncations and flipped bits: {n_accepted} not noticed"


def _search_parity(report: Report) -> str:
    n_runs, n_different, n_ties = (
        sum(family[count] for family in report.values()) for count in ("runs", "differences", "ties")
    )
    return f"{len(report)} families, {n_runs:,} searches: {n_different} differences, {n_ties} ties"


def _sampling(report: Report) -> str:
    worst = min(report["p_values"].values())
    return f"{len(report['p_values'])} sets of options x {report['draws']:,} draws: each p >= {worst:.2g}"


def _cpu_parity(report: Report) -> str:
    cpus = {name.partition(", threads")[0] for name in report}
    n, n_tokens = (min(run[count] for run in report.values()) for count in ("sources", "tokens"))
    different = sum(run["different"] for run in report.values())
    runs = f"{len(cpus)} CPUs and kernel sets, {len(report)} runs of {n} sources"
    return f"{runs}, {n_tokens:,} tokens each: {different} differ"


def _int8(report: Report) -> str:
    worst = min(kind["int8_agreement"] for kind in report["kinds"])
    return f"{len(report['kinds'])} models of ten families: {100 * worst:.1f} % of the best tokens or more"


def _constrained(report: Report) -> str:
    return (
        f"{report['tries']:,} tries, {report['schemas']:,} JSON schemas: {report['invalid']} invalid, "
        f"{report['worse_than_exhaustive_search']} worse than by exhaustive search"
    )


def _documents(report: Report) -> str:
    long = report["long"]
    meetings = [counts for name, counts in report.items() if name != "long"]
    gains = [min(scores[0][i] - other[i] for other in scores[1:] for i in (0, 2))
             for scores in ([*counts["rouge_1_2_l"].values()] for counts in meetings)]  # fmt: skip
    n = sum(counts["documents"] for counts in meetings)
    return (
        f"{n} meetings: ROUGE-1 and L {min(gains):.1f} or more above "
        f"truncation and lead; {long['words']:,} words in {long['seconds']:.0f} s"
    )


def _loops(report: Report) -> str:
    counts = report["adversarial"]
    return "{outputs:,} hostile inputs: {loops_in_drafts:,} loops mended, {loops_left} left".format(**counts)


def _new_numbers(report: Report) -> str:
    off, on = (report[f"dialogsum valid, checks {checks}"] for checks in ("off", "loops, numbers"))
    return (
        f"{on['summaries']} summaries: {off['number_percent']} % before, {on['number_percent']} % after; "
        f"ROUGE-L {off['rouge_l']:.2f} and {on['rouge_l']:.2f}"
    )


def _tokenizers(report: Report) -> str:
    n_texts, n_ties = (sum(one[count] for one in report.values()) for count in ("texts", "ties"))
    different = sum(one["differences"] for one in report.values())
    return f"{len(report)} tokenizers, {n_texts:,} texts: {different} differences, {n_ties} ties"


def _text_robustness(report: Report) -> str:
    worst = max(ratio for family in report["families"].values() for ratio in family["ratios"])
    return (
        f"{report['random_texts']:,} random texts, {len(report['families'])} hostile kinds up to 16 MiB: "
        f"{report['crashes']} crashes, {worst} times the time for twice the text"
    )


def _never(report: Report) -> str:
    return "{requests:,} requests: {attempts} attempts to connect".format(**report)


def _chaos(report: Report) -> str:
    return (
        f"{report['faults']} faults, {report['calls']:,} calls: 0 later than "
        f"{1000 * report['late_s']:.0f} ms and the machine's own delays, 0 without a reason, "
        f"{report['sockets_left']} sockets left"
    )


def _redaction(report: Report) -> str:
    return (
        f"{report['entities']:,} entities, {report['by_faker']:,} of them by Faker: recall "
        f"{100 * report['recall']:.2f} %; {report['lines_touched']} of {report['lines']:,} ordinary lines "
        "touched"
    )


def _servers(report: Report) -> str:
    return ", ".join(f"{name}: {counts['same']} of {counts['texts']}" for name, counts in report.items())


def _arm64_suite(report: Report) -> str:
    files = [found for found in report["files"].values() if found["passed"]]
    passed, failed = (sum(found[count] for found in files) for count in ("passed", "failed"))
    return f"{passed:,} tests of {len(files)} files on {report['cpu']}: {failed} failed"


PROMISES = [
    Promise("Results are those of transformers' `generate()`", "search_parity", _search_parity),
    Promise("Token ids and texts are those of transformers' tokenizers", "tokenizers", _tokenizers),
    Promise("What is drawn has the probabilities of transformers' warpers", "sampling", _sampling),
    Promise("A constrained result is valid, and the best one", "constrained", _constrained),
    Promise("No loop reaches who asks for a summary", "checks", _loops),
    Promise("A summary's numbers are those of its source", "checks", _new_numbers),
    Promise("All of a long document is read", "documents", _documents),
    Promise("Same tokens and same bits of logits on every CPU", "cpu_parity", _cpu_parity),
    Promise("int8 weights choose the tokens of float32 weights", "int8_families", _int8),
    Promise("Any bytes given as a bundle load or raise `BundleError`", "mutants", _mutants),
    Promise("No file and no text makes a reader or the core misbehave", "fuzz", _fuzz),
    Promise("Any text becomes tokens in proportional time", "text_robustness", _text_robustness),
    Promise("A bundle that was damaged on its way is refused", "damage", _damage),
    Promise(
        "A bundle on the disk is the old one or the new one, whatever fails while it is written",
        "file_faults",
        _file_faults,
    ),
    Promise("A disk that fails while a bundle is opened is a typed error", "read_faults", _read_faults),
    Promise("From text to tokens, golden answers hold on 64-bit ARM (emulated)", "arm64_pipeline", _arm64),
    Promise("The package's own tests pass in a 64-bit ARM Python (emulated)", "arm64_suite", _arm64_suite),
    Promise("The C program writes Python's tokens and bits on every CPU", "native_program", _native_program),
    Promise("The C tokenizer gives what the tokenizers library gives", "native_tokenizer", _native_tokenizer),
    Promise(
        "The encoder runs whole on OpenVINO (CPU) and on Qualcomm's emulator, and no worse",
        "npu",
        _accelerators,
    ),
    Promise("Threads share a model and get the answers of serial calls", "endurance", _threads),
    Promise(
        "A process that forks never hangs",
        "endurance",
        lambda report: "{n_forks} forks: {n_hangs} hangs".format(**report["forks"]),
    ),
    Promise("Whoever stops listening is obeyed within one step", "endurance", _cancels),
    Promise("Memory, descriptors and threads do not grow", "endurance", _growth),
    Promise('Under `privacy="never"` no connection is opened', "hybrid_never", _never),
    Promise("A call to the cloud ends by its deadline, whatever the network does", "hybrid_chaos", _chaos),
    Promise(
        "E-mail, phone, IBAN, card, IP, MAC and keys do not leave under `redacted`", "redaction", _redaction
    ),
    Promise("Open Inference servers give our client their answers", "open_inference_servers", _servers),
]


def table() -> str:
    """The table in Markdown, of those reports that are there."""
    lines = ["| promise | last release run | report |", "|---|---|---|"]
    for promise in PROMISES:
        path = ROOT / "reports" / f"{promise.report}.json"
        if path.exists():
            counts = promise.counts(json.loads(path.read_text(encoding="utf-8")))
            lines.append(f"| {promise.sentence} | {counts} | `reports/{path.name}` |")
    return "\n".join(lines)


def with_table(readme: str) -> str:
    """A README with the table between its marks."""
    head, rest = readme.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
