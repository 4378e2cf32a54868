"""The tokenizer of the C core gives what the tokenizers library does, on every string, for every family."""

import dataclasses
import json
import random
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import edge_s2s
from c_builds import ROOT
from edge_s2s.bundle import open_bundle
from edge_s2s.decoder import DecoderModel
from edge_s2s.errors import BundleError, CoreError
from edge_s2s.manifest import TOKENIZER, FileEntry
from edge_s2s.tokenizer import Tokenizer, open_tokenizers
from edge_s2s_export.errors import ExportError
from edge_s2s_export.probe_texts import probe_texts
from edge_s2s_export.tokenizer_json import text_rules, tokenizer_files
from edge_s2s_export.tokenizer_table import compile_tokenizer
from random_weights import random_weights
from tiny_bundle import tiny_keys, tiny_manifest
from tiny_tokenizers import FAMILIES, strings

DEFAULT = edge_s2s.default_bundle_path()
REPORT = ROOT / "reports" / "native_tokenizer.json"
COMPILED = [name for name in FAMILIES if not name.startswith("marian")]
LETTERS: list[Callable[[random.Random], str]] = [
    lambda draw: chr(draw.randrange(0x20, 0x7F)),
    lambda draw: draw.choice(" \n\t.,;:!?()[]\"'-\u2581\u2581  0123456789"),
    lambda draw: chr(draw.choice([draw.randrange(0, 0xD800), draw.randrange(0xE000, 0x110000)])),
    lambda draw: chr(draw.randrange(0x300, 0x370)),
    lambda draw: chr(draw.randrange(0xAC00, 0xD7A4)),
    lambda draw: chr(draw.randrange(0x1100, 0x1200)),
    lambda draw: chr(draw.randrange(0x80, 0x600)),
    lambda draw: chr(draw.randrange(0x2000, 0x3400)),
    lambda draw: draw.choice(["</s>", "<pad>", "<unk>", "<0x41>", "'re", " the", "\u1e9b\u0323", "\ufdfa"]),
]


def random_strings(n: int, seed: int) -> Iterator[str]:
    draw = random.Random(seed)
    for _ in range(n):
        yield "".join(draw.choice(LETTERS)(draw) for _ in range(draw.randrange(1, 40)))


@dataclasses.dataclass(frozen=True)
class Pair:
    """The two tokenizers of one tokenizer.json."""

    library: Tokenizer
    core: DecoderModel
    n_tokens: int

    def differ_on(self, text: str) -> bool:
        """Whether they encode it, or decode what it becomes, to different results."""
        ids = self.library.encode(text)
        return self.core.tokenize(text) != ids or self.core.detokenize(ids) != self.library.decode(ids)

    def differ_on_ids(self, draw: random.Random) -> bool:
        """The same for random ids, among them those of no token."""
        ids = [draw.randrange(self.n_tokens + 5) for _ in range(draw.randrange(30))]
        return self.core.detokenize(ids) != self.library.decode(ids)


@cache
def family(name: str, folder: Path) -> Pair:
    hf = FAMILIES[name](folder)
    files = tokenizer_files(hf, len(hf))
    decoder = random_weights({"vocab_size": len(hf), "prefix": "say: ", "embedding_norm": 0})
    manifest = tiny_manifest(tiny_keys(vocab_size=len(hf), prefix="say: "))
    manifest = dataclasses.replace(
        manifest,
        text=text_rules(hf),
        special_tokens=dataclasses.replace(manifest.special_tokens, unk=hf.unk_token_id),
        files=dict.fromkeys(files, FileEntry(0, "")),
    )
    library, _ = open_tokenizers(manifest, lambda name: files[name])
    table = compile_tokenizer(library, files, manifest)
    return Pair(library, DecoderModel(decoder, tokenizer=table), len(hf))


@cache
def default() -> Pair:
    if not DEFAULT.exists():
        pytest.skip("installed without the default bundle")
    with open_bundle(DEFAULT) as bundle:
        library, _ = open_tokenizers(bundle.manifest, bundle.read)
        table = compile_tokenizer(library, {TOKENIZER: bytes(bundle.read(TOKENIZER))}, bundle.manifest)
        core = DecoderModel(bundle.read("decoder.weights"), tokenizer=table)
    return Pair(library, core, core.dims.vocab_size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(params=["default", *COMPILED])
def pair(request: pytest.FixtureRequest, folder: Path) -> Pair:
    if request.param == "default":
        return default()
    (own := folder / request.param).mkdir(exist_ok=True)
    return family(request.param, own)


def test_texts_of_all_kinds_have_the_same_tokens(pair: Pair):
    texts = [*strings(400, seed=3), *probe_texts(60)]
    assert [text for text in texts if pair.differ_on(text)] == []


def test_random_strings_and_ids_have_the_same_tokens_and_texts(pair: Pair):
    draw = random.Random(5)
    assert [text for text in random_strings(1000, seed=4) if pair.differ_on(text)] == []
    assert not any(pair.differ_on_ids(draw) for _ in range(1000))


def test_ten_thousand_random_strings_have_the_tokens_of_the_default_tokenizer():
    pair = default()
    assert [text for text in random_strings(10_000, seed=6) if pair.differ_on(text)] == []


# Scripts with marks, compatibility characters and numbers; the rest is under -m release.
RANGES = [range(0xD800), range(0xE000, 0x110000)]
SOME = [range(0x3400), range(0xA600, 0xAC80), range(0xF900, 0x11000), range(0x1D000, 0x1FA00)]


@pytest.mark.parametrize(
    "ranges", [SOME, pytest.param(RANGES, marks=pytest.mark.release)], ids=["some", "all"]
)
def test_every_character_has_the_same_tokens_between_others(ranges: list[range]):
    """Alone, behind a letter and before marks, which shows decompositions, classes and compositions."""
    pair = default()
    characters = [chr(c) for some in ranges for c in some]
    wrong = []
    for start in range(0, len(characters), 1 << 10):
        some = characters[start : start + (1 << 10)]
        text = " ".join(f"{c} a{c}\u0316\u0301" for c in some)
        if pair.core.tokenize(text) != pair.library.encode(text):
            wrong += [c for c in some if pair.differ_on(f"{c} a{c}\u0316\u0301")]
    assert wrong == []


def test_hostile_texts_take_time_in_proportion():
    """Twice the text may take 2.6 times as long: a logarithm, and noise."""
    pair = default()
    for unit in ("a", "\u0301\u0316", " ", "漢", "1", "\u2581", "ab "):
        short, long = (_seconds(pair.core, unit * n) for n in (20_000, 80_000))
        assert long < 4 * 2.6 * max(short, 1e-3), unit


def _seconds(core: DecoderModel, text: str) -> float:
    times = []
    for _ in range(3):
        start = time.thread_time()
        core.tokenize(text)
        times.append(time.thread_time() - start)
    return min(times)


def test_a_text_that_is_no_utf8_is_refused():
    with pytest.raises(ValueError, match="text: expected UTF-8, found another byte at 3"):
        default().core.tokenize("abc\ud800")


def test_a_model_without_a_tokenizer_says_so():
    with pytest.raises(CoreError, match="expected a model with one"):
        DecoderModel(random_weights({})).tokenize("a")


@pytest.mark.parametrize("name", ["marian", "marian-separate"])
def test_a_tokenizer_that_the_core_cannot_express_is_refused(name: str, tmp_path: Path):
    hf = FAMILIES[name](tmp_path)
    files = tokenizer_files(hf, len(hf))
    manifest = tiny_manifest(tiny_keys(vocab_size=len(hf)))
    manifest = dataclasses.replace(
        manifest,
        text=text_rules(hf),
        special_tokens=dataclasses.replace(manifest.special_tokens, unk=hf.unk_token_id),
        files=dict.fromkeys(files, FileEntry(0, "")),
    )
    library, _ = open_tokenizers(manifest, lambda name: files[name])
    with pytest.raises(ExportError, match="convert it with --encoder onnx"):
        compile_tokenizer(library, files, manifest)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("normalizer", {"type": "Lowercase"}),
        ("pre_tokenizer", {"type": "WhitespaceSplit"}),
        (
            "pre_tokenizer",
            {"type": "Split", "pattern": {"String": "a"}, "behavior": "Removed", "invert": False},
        ),
        ("decoder", {"type": "Strip", "content": " ", "start": 0, "stop": 1}),
    ],
)
def test_a_part_that_the_core_lacks_is_named(part: str, value: dict[str, object]):
    with open_bundle(DEFAULT) as bundle:
        document = json.loads(bytes(bundle.read(TOKENIZER))) | {part: value}
        library, _ = open_tokenizers(bundle.manifest, bundle.read)
        with pytest.raises(ExportError, match=f"{part} {value['type']}|{part} Strip"):
            compile_tokenizer(library, {TOKENIZER: json.dumps(document).encode()}, bundle.manifest)


def test_damaged_tables_never_crash():
    """Every header, key and tensor entry, and places within tensors; the hash is set right."""
    from hostile_weights import repair_hash

    with open_bundle(DEFAULT) as bundle:
        library, _ = open_tokenizers(bundle.manifest, bundle.read)
        table = compile_tokenizer(library, {TOKENIZER: bytes(bundle.read(TOKENIZER))}, bundle.manifest)
        weights = bytes(bundle.read("decoder.weights"))
    draw = np.random.default_rng(7)
    n_accepted = 0
    for i in range(300):
        damaged = bytearray(table)
        limit = len(table) if i % 2 else 20_000
        for at in draw.integers(64, limit, 4):
            damaged[at] = draw.integers(256)
        try:
            core = DecoderModel(weights, tokenizer=repair_hash(bytes(damaged)), verify=False)
        except BundleError:
            continue
        n_accepted += 1
        core.detokenize(core.tokenize("Tom's dog, 12 e\u0301 \ufdfa漢字\n"))
    assert 0 < n_accepted < 300


@pytest.mark.release
@pytest.mark.timeout(7200)
def test_a_million_strings_have_the_same_tokens(folder: Path):
    counts = {}
    for name in ("default", *COMPILED):
        if name != "default":
            (folder / name).mkdir(exist_ok=True)
        pair = default() if name == "default" else family(name, folder / name)
        n = 400_000 if name == "default" else 60_000
        assert [text for text in random_strings(n, seed=8) if pair.differ_on(text)] == []
        assert [text for text in strings(2000, seed=9) if pair.differ_on(text)] == []
        counts[name] = {"random": n, "of_all_kinds": 2000, "different": 0}
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
