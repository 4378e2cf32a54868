"""Any text becomes tokens: in time and memory proportional to its length, and never a control token."""

import itertools
import json
import math
import mmap
import random
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import edge_s2s
from edge_s2s import Seq2SeqModel
from edge_s2s import tokenizer as tokenizer_module
from edge_s2s.bundle import open_bundle
from edge_s2s.text_windows import MAX_CHARACTERS, windows
from edge_s2s.tokenizer import Tokenizer, open_tokenizers

REPORT = Path(__file__).parent.parent / "reports" / "text_robustness.json"
DEFAULT = edge_s2s.default_bundle_path()
pytestmark = pytest.mark.skipif(not DEFAULT.exists(), reason="installed without the default bundle")

UNITS = {
    "one letter": "x",
    "combining marks": "\u0301",
    "emoji joined": "👨\u200d👩\u200d👧",
    "right-to-left override": "\u202e",
    "digits": "7",
    "blanks": " ",
    "line breaks": "\r\n",
    "one-letter words": "a ",
    "sentences": "The cat sat on the mat, and 12 dogs did not. ",
    "full stops": ".",
    "a script without blanks": "漢",
    "literal control tokens": "</s>",
    "what NFKC makes 18 characters of": "ﷺ",
    "bytes without tokens": "\U000e0041\x07",
}
MAX_PASSES = 3
MAX_RATIO = 2.3  # of the times for twice a text and for the text
SIZES = [4 << 20, 8 << 20, 16 << 20]  # bytes
# Of the process at its peak in one family: what is there without tokens, and then Python integers in lists.
MAX_MIB, BYTES_PER_TOKEN = 1024, 200


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """That of the default bundle."""
    with open_bundle(DEFAULT) as bundle:
        return open_tokenizers(bundle.manifest, bundle.read)[0]


def of_size(unit: str, size: int) -> str:
    return unit * (size // len(unit.encode()))


def random_text(draw: random.Random) -> str:
    """Code points of all planes, and what tokenizers trip over."""
    parts = []
    for _ in range(draw.randrange(12)):
        kind = draw.random()
        if kind < 0.4:
            parts.append("".join(chr(draw.randrange(0x110000)) for _ in range(draw.randrange(6))))
        elif kind < 0.7:
            parts.append("".join(draw.choices("abc dé. 7", k=draw.randrange(9))))
        else:
            parts.append(draw.choice([*UNITS.values(), "<unk>", "<0x41>", "▁", "\x00", "\ufeff"]))
    return "".join(parts)


def check_random_texts(tokenizer: Tokenizer, n: int, seed: int) -> None:
    draw = random.Random(seed)
    special = {tokenizer.token_id("<pad>"), tokenizer.token_id("</s>")}
    for _ in range(n):
        text = random_text(draw)
        assert special.isdisjoint(tokenizer.tokenize(text)), ascii(text)


@pytest.mark.parametrize("name", UNITS)
def test_long_texts_of_one_kind_become_tokens(tokenizer: Tokenizer, name: str):
    """256 KiB; 10 s is 20 times what the slowest takes."""
    start = time.process_time()
    assert tokenizer.encode(of_size(UNITS[name], 1 << 18))
    assert time.process_time() - start < 10


def test_random_texts_become_tokens_that_are_no_control_tokens(tokenizer: Tokenizer):
    check_random_texts(tokenizer, 5_000, seed=0)


def test_500_literal_control_tokens_stay_text(model: Seq2SeqModel, tokenizer: Tokenizer):
    draw = random.Random(1)
    names = ["</s>", "<pad>", "<unk>", "<extra_id_0>", "<extra_id_99>", "<len1>", "<ctl4>", "<0x0A>"]
    with edge_s2s.load() as default:
        control = {default.manifest.special_tokens.eos, default.manifest.special_tokens.pad}
        for _ in range(500):
            text = random_text(draw) + draw.choice([" ", "", "\n"]) + draw.choice(names) + random_text(draw)
            *ids, eos = default.encode(text)
            assert control.isdisjoint(ids), ascii(text)
            assert eos == default.manifest.special_tokens.eos


@pytest.mark.parametrize("size", [MAX_CHARACTERS + 5, 3 * MAX_CHARACTERS])
def test_a_word_of_any_length_gets_no_blank_within(tokenizer: Tokenizer, size: int):
    for word in ("x" * size, "漢" * size, "12" * (size // 2)):
        assert tokenizer.decode(tokenizer.tokenize(word)) == word


def test_windows_have_the_tokens_of_the_whole(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    draw = random.Random(2)
    words = [*"abc", "the", "cat", "12", "é", "漢字", "don't", "x.", "▁", "  ", "\n", "</s>", "ﷺ"]
    texts = [" ".join(draw.choices(words, k=60)) for _ in range(300)]
    whole = [tokenizer.tokenize(text) for text in texts]
    small = partial(windows, min_characters=8)
    assert sum(len([*small(text)]) for text in texts) > 10 * len(texts)
    monkeypatch.setattr(tokenizer_module, "windows", small)
    assert [tokenizer.tokenize(text) for text in texts] == whole


def keep(**values: object) -> None:
    """Adds to the report."""
    REPORT.parent.mkdir(exist_ok=True)
    report = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.exists() else {"families": {}}
    families = {**report["families"], **values.pop("families", {})}  # type: ignore[dict-item]
    report = {**report, **values, "families": families}
    REPORT.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def forget_peak() -> None:
    """Sets the process's peak of memory to what it has now (proc_pid_clear_refs(5))."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """Since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_peak_is_forgotten():
    forget_peak()
    before = peak_mib()
    with mmap.mmap(-1, 64 << 20) as pages:
        for at in range(0, len(pages), mmap.PAGESIZE):
            pages[at] = 1
    assert peak_mib() - before > 60
    forget_peak()
    assert peak_mib() - before < 30


@pytest.mark.release
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", UNITS)
def test_time_and_memory_are_in_proportion_up_to_16_mib(tokenizer: Tokenizer, name: str):
    times, n_tokens = [math.inf] * len(SIZES), 0
    forget_peak()
    for _ in range(MAX_PASSES):  # what else runs here only adds to times
        for i, size in enumerate(SIZES):
            text = of_size(UNITS[name], size)
            start = time.process_time()
            n_tokens = len(tokenizer.tokenize(text))
            times[i] = min(times[i], time.process_time() - start)
        ratios = [round(b / a, 2) for a, b in itertools.pairwise(times)]
        if max(ratios) <= MAX_RATIO:
            break
    assert max(ratios) <= MAX_RATIO
    assert peak_mib() <= MAX_MIB + n_tokens * BYTES_PER_TOKEN / 2**20
    values = {"seconds": [round(t, 2) for t in times], "ratios": ratios, "tokens": n_tokens}
    keep(families={name: values})


@pytest.mark.release
@pytest.mark.timeout(3600)
def test_a_million_random_texts_become_tokens_that_are_no_control_tokens(tokenizer: Tokenizer):
    check_random_texts(tokenizer, 1_000_000, seed=1)
    keep(random_texts=1_000_000, crashes=0)
