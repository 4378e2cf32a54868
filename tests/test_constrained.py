"""Constrained decoding against exhaustive search: every result is valid, and the best is the best there is.

Tries and schemas are small enough to list all sequences that they allow. The list is made here, without the
code under test; each sequence is scored by feeding it to the decoder.
"""

import dataclasses
import itertools
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models

import edge_s2s
from edge_s2s import AllowedSequences, Constraint, ConstraintError, GenerationOptions, Seq2SeqModel
from edge_s2s.constrained import ConstraintProcessor, results_of
from edge_s2s.decoder import Floats, Hypothesis
from edge_s2s.json_schema import JsonSchema, Vocabulary
from edge_s2s.manifest import GenerationDefaults
from edge_s2s.tokenizer import Tokenizer
from tiny_models import TinyModel, random_model

REPORT = Path(__file__).parent.parent / "reports" / "constrained.json"
TOLERANCE = 1e-3  # of scores: float32 sums in another order; measured below 1e-5
MAX_SEQUENCES = 48
KINDS = ["t5", "bart", "marian", "umt5"]
TEXT = "The meeting was moved to Friday because the room is taken."

# Some ways to write the same: `"a` and `"`, `a`; a blank first.
PIECES = ["▁", "▁{", "{", "}", '"', '"a', "a", "b", "ab", '":', '"', ":", ",", "▁[", "[", "]", "1", "2", "12",
          "tr", "ue", "true", "false", "null", '":▁', "],", '"}']  # fmt: skip


@cache
def json_tokenizer() -> Tokenizer:
    """A tokenizer with few tokens, of which JSON can be made."""
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(["<pad>", "</s>", "<unk>", *PIECES]))}
    tokenizer = HfTokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.decoder = decoders.Metaspace()
    return Tokenizer(tokenizer.to_str().encode(), vocab_size=len(vocab), unk_id=2)


VOCAB_SIZE = 3 + len(set(PIECES))


@cache
def json_model(seed: int) -> TinyModel:
    return random_model("t5", seed, vocab_size=VOCAB_SIZE)


@cache
def vocabulary() -> Vocabulary:
    return Vocabulary(json_tokenizer(), vocab_size=VOCAB_SIZE, eos_token_id=1)


# ------------------------------------------ the search under test ------------------------------------------


def search(
    model: TinyModel, cross_kv: Floats, constraint: Constraint, **options: Any
) -> list[tuple[tuple[int, ...], float]]:
    """Results and scores, best first."""
    num_beams = options["num_beams"]
    processor = ConstraintProcessor(constraint, eos_token_id=model.eos, n_given=1, beams=num_beams > 1)
    options = {"max_new_tokens": 24, "num_return_sequences": num_beams, **options}
    [hypotheses] = model.generate([cross_kv], callbacks={"logits_processors": [processor]}, **options)
    names = ("num_beams", "length_penalty", "max_new_tokens")
    given = {name: options[name] for name in names if name in options}
    params = dataclasses.replace(GenerationDefaults.from_keys(model.spec.keys), **given)
    results = results_of(constraint, hypotheses, eos_token_id=model.eos, n_forced=0, params=params)
    assert num_beams == 1 or len({result.token_ids for result in results}) == len(results)
    return [(result.token_ids, result.score) for result in results]


# ------------------------------------------ exhaustive search ------------------------------------------


@dataclass(frozen=True)
class Exhaustive:
    """All sequences that are allowed, with EOS, and what the model thinks of each."""

    sequences: dict[tuple[int, ...], list[float]]
    """Log-probabilities of the tokens"""
    next_logits: dict[tuple[int, ...], Floats]
    """float32 [vocab_size] after each beginning of a sequence"""

    def best(self, length_penalty: float) -> list[tuple[float, tuple[int, ...]]]:
        scored = [
            (sum(logprobs) / len(ids) ** length_penalty, ids) for ids, logprobs in self.sequences.items()
        ]
        return sorted(scored, reverse=True)

    def greedy(self) -> tuple[int, ...]:
        chosen: tuple[int, ...] = ()
        while chosen not in self.sequences:
            n = len(chosen)
            options = {ids[n] for ids in self.sequences if ids[:n] == chosen and len(ids) > n}
            chosen += (max(sorted(options), key=lambda token: self.next_logits[chosen][token]),)
        return chosen


def exhaustive(model: TinyModel, cross_kv: Floats, sequences: list[tuple[int, ...]]) -> Exhaustive:
    start = model.hf.config.decoder_start_token_id
    found: dict[tuple[int, ...], list[float]] = {}
    logits_after: dict[tuple[int, ...], Floats] = {}
    for sequence in sequences:
        ids = (*sequence, model.eos)
        with model.decoder.session(1, 1, cross_kv.shape[3], len(ids)) as session:
            session.set_source(0, cross_kv)
            logits = np.concatenate([session.step([token]) for token in (start, *sequence)])
        exact = torch.from_numpy(logits).double().log_softmax(dim=-1).numpy()
        found[ids] = [float(exact[i, token]) for i, token in enumerate(ids)]
        logits_after |= {ids[:i]: logits[i] for i in range(len(ids))}
    return Exhaustive(found, logits_after)


def check(model: TinyModel, constraint: Constraint, sequences: list[tuple[int, ...]], seed: int) -> None:
    """Greedy search, and beams as many as there are sequences, which then are exhaustive, too."""
    rng = random.Random(seed)
    cross_kv = model.cross_kv(rng.choices(model.plain_tokens, k=rng.randint(1, 12)))
    expected = exhaustive(model, cross_kv, sequences)
    [(greedy, _)] = search(model, cross_kv, constraint, num_beams=1)
    assert greedy == expected.greedy()
    length_penalty = rng.choice([0.0, 0.6, 1.0, 2.0])
    n = max(2, len(sequences))
    found = search(
        model, cross_kv, constraint, num_beams=n, length_penalty=length_penalty, early_stopping="never"
    )
    best = expected.best(length_penalty)
    assert {ids for ids, _ in found} == {ids for _, ids in best}
    np.testing.assert_allclose([score for _, score in found], [score for score, _ in best], atol=TOLERANCE)
    few = search(model, cross_kv, constraint, num_beams=2, length_penalty=length_penalty)
    assert {ids for ids, _ in few} <= set(expected.sequences)


# ------------------------------------------ random tries ------------------------------------------


def random_sequences(rng: random.Random, tokens: Sequence[int]) -> list[tuple[int, ...]]:
    some = rng.sample(tokens, rng.randint(2, 5))
    n = rng.choice([1, 2, 5, 12, 30])
    return sorted({tuple(rng.choices(some, k=rng.randint(1, 6))) for _ in range(n)})


def check_trie(seed: int) -> None:
    model = kept_model(KINDS[seed % len(KINDS)], seed % 7)
    sequences = random_sequences(random.Random(seed), model.plain_tokens)
    check(model, AllowedSequences(sequences), sequences, seed)


@cache
def kept_model(kind: str, seed: int) -> TinyModel:
    return random_model(kind, seed)


# ------------------------------------------ random schemas ------------------------------------------


def random_schema(rng: random.Random, depth: int = 2) -> dict[str, Any]:
    """One that allows few values."""
    kind = rng.choice(
        ["enum", "boolean", "null", "const", *["array", "object", "object", "any"] * (depth > 0)]
    )
    if kind == "enum":
        return {"enum": rng.sample(["a", "b", "ab", "aab", 1, 2, 12, True, None, ["a"], {"b": 1}], 3)}
    if kind == "const":
        return {"const": rng.choice(["ab", 112, [1, 2], {"a": "b"}])}
    if kind == "any":
        return {"anyOf": [random_schema(rng, depth - 1) for _ in range(2)]}
    if kind == "array":
        n = rng.randint(0, 2)
        return {"type": "array", "items": random_schema(rng, depth - 1), "minItems": n // 2, "maxItems": n}
    if kind == "object":
        names = rng.sample(["a", "b", "ab"], rng.randint(1, 2))
        return {
            "type": "object",
            "properties": {name: random_schema(rng, depth - 1) for name in names},
            "required": rng.sample(names, rng.randint(0, len(names))),
            "additionalProperties": False,
        }
    return {"type": kind}


def all_values(schema: dict[str, Any]) -> Iterator[Any]:
    """Every value that a random schema allows; properties in the schema's order."""
    if "enum" in schema:
        yield from schema["enum"]
    elif "const" in schema:
        yield schema["const"]
    elif "anyOf" in schema:
        for one in schema["anyOf"]:
            yield from all_values(one)
    elif schema["type"] == "array":
        items = [*all_values(schema["items"])]
        for n in range(schema["minItems"], schema["maxItems"] + 1):
            yield from map(list, itertools.product(items, repeat=n))
    elif schema["type"] == "object":
        choices = []
        for name, one in schema["properties"].items():
            absent = [] if name in schema["required"] else [()]
            choices.append([*absent, *(((name, value),) for value in all_values(one))])
        for parts in itertools.product(*choices):
            yield dict(pair for part in parts for pair in part)
    else:
        yield from {"boolean": [True, False], "null": [None]}[schema["type"]]


def spellings(text: str) -> Iterator[tuple[int, ...]]:
    """Every way to write a text with the tokens."""
    if not text:
        yield ()
    for piece in dict.fromkeys(PIECES):
        written = piece.replace("▁", " ")
        if text.startswith(written):
            token = json_tokenizer().token_id(piece)
            assert token is not None
            yield from ((token, *rest) for rest in spellings(text[len(written) :]))


def small_schema(rng: random.Random) -> tuple[dict[str, Any], tuple[str, str], list[tuple[int, ...]]]:
    """A schema, separators, and all sequences of tokens that are allowed."""
    while True:
        schema = random_schema(rng)
        separators = rng.choice([(", ", ": "), (",", ":")])
        texts = {
            json.dumps(value, separators=separators) for value in itertools.islice(all_values(schema), 40)
        }
        sequences = {
            ids for text in texts for t in (text, " " + text) for ids in itertools.islice(spellings(t), 99)
        }
        longest = max(map(len, sequences), default=0)
        if 0 < len(sequences) <= MAX_SEQUENCES and longest <= 20:
            for text in texts:
                jsonschema.validate(json.loads(text), schema)
            return schema, separators, sorted(sequences)


def check_schema(seed: int) -> None:
    schema, separators, sequences = small_schema(random.Random(seed))
    constraint = JsonSchema(schema, vocabulary(), separators=separators)
    check(json_model(seed % 5), constraint, sequences, seed)


# ------------------------------------------ what holds ------------------------------------------


@pytest.mark.parametrize("check_one", [check_trie, check_schema])
def test_results_are_valid_and_the_best_is_that_of_exhaustive_search(check_one: Callable[[int], None]):
    for seed in range(100):
        check_one(seed)


@pytest.mark.release
@pytest.mark.timeout(7200)
def test_results_are_those_of_exhaustive_search_for_a_thousand_tries_and_schemas():
    for seed in range(1000, 2000):
        check_trie(seed)
        check_schema(seed)
    REPORT.parent.mkdir(exist_ok=True)
    report = {"tries": 1000, "schemas": 1000, "invalid": 0, "worse_than_exhaustive_search": 0}
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 3, "num_return_sequences": 3}], ids=str)
def test_a_trie_is_what_prefix_allowed_tokens_fn_is_in_transformers(options: dict[str, int]):
    for seed in range(20):
        model = kept_model("t5", seed % 7)
        rng = random.Random(seed)
        sequences = [
            (first, *rng.choices(model.plain_tokens[:9], k=rng.randint(1, 5)))
            for first in range(2, 8)
            for _ in range(3)
        ]
        source = rng.choices(model.plain_tokens, k=5)
        ended = [(*sequence, model.eos) for sequence in sequences]

        def allowed(_batch_id: int, input_ids: torch.Tensor, ended: Any = ended) -> list[int]:
            so_far = tuple(input_ids.tolist()[1:])
            following = {ids[len(so_far)] for ids in ended if ids[: len(so_far)] == so_far and ids != so_far}
            return sorted(following) or [1]

        theirs = model.hf.generate(
            torch.tensor([source]),
            do_sample=False,
            max_new_tokens=12,
            prefix_allowed_tokens_fn=allowed,
            **options,
        )
        expected = [tuple(row[: row.index(model.eos) + 1]) for row in theirs[:, 1:].tolist()]
        found = search(
            model, model.cross_kv(source), AllowedSequences(sequences), **{"max_new_tokens": 12, **options}
        )
        assert [ids for ids, _ in found] == expected


@pytest.fixture(scope="module")
def default() -> Iterator[Seq2SeqModel]:
    """The bundle that ships with the package."""
    with edge_s2s.load(num_threads=2) as opened:
        yield opened


def test_texts_that_are_allowed_are_all_that_comes(default: Seq2SeqModel):
    texts = ["yes", "no", "no, thanks", "I do not know"]
    allowed = default.allow_texts(texts)
    options = GenerationOptions(num_beams=8, num_return_sequences=8, max_new_tokens=40)
    found = default.generate([TEXT, TEXT * 2], options, constraint=allowed)
    assert [sorted(result.text for result in results) for results in found] == [sorted(texts)] * 2
    assert {result.finish_reason for results in found for result in results} == {"eos"}
    scores = [result.score for result in found[0]]
    assert scores == sorted(scores, reverse=True)


def test_each_text_may_have_a_constraint_of_its_own(model: Seq2SeqModel):
    options = GenerationOptions(max_new_tokens=40)
    constraints = [model.allow_texts([text]) for text in ("one", "two")]
    found = model.generate([TEXT, TEXT], options, constraint=constraints)
    assert [results[0].text for results in found] == ["one", "two"]
    with pytest.raises(ValueError, match="constraint: expected one, or 3 as texts, found 2"):
        model.generate([TEXT] * 3, options, constraint=constraints)


def test_draws_keep_to_a_constraint_and_may_repeat(model: Seq2SeqModel):
    texts = ["yes", "no"]
    options = GenerationOptions(
        do_sample=True, top_k=0, temperature=9.0, num_return_sequences=40, max_new_tokens=40, seed=1
    )
    [found] = model.generate([TEXT], options, constraint=model.allow_texts(texts))
    assert len(found) == 40
    assert {result.text for result in found} == set(texts)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_stream_keeps_to_a_constraint(default: Seq2SeqModel, num_beams: int):
    allowed = default.allow_texts(["It was on Friday", "It was on Monday", "Nobody came"])
    options = GenerationOptions(num_beams=num_beams, max_new_tokens=60)
    pieces = [*default.stream(TEXT, options, constraint=allowed)]
    [[expected]] = default.generate([TEXT], options, constraint=allowed)
    assert "".join(pieces) == expected.text


def test_a_constraint_begins_behind_a_prefix_and_a_forced_token(model: Seq2SeqModel):
    allowed = model.allow_texts(["yes"])
    forced = model.encode("a")[-2]
    plain = model.generate([TEXT], GenerationOptions(max_new_tokens=9), constraint=allowed)[0][0].token_ids
    options = GenerationOptions(max_new_tokens=9, forced_bos_token_id=forced)
    for num_beams in (1, 2):
        beams = GenerationOptions(max_new_tokens=9, forced_bos_token_id=forced, num_beams=num_beams)
        [[found]] = model.generate([TEXT], beams, constraint=allowed)
        assert found.token_ids == (forced, *plain)
    [[found]] = model.generate([TEXT], options, constraint=allowed, decoder_input_ids=[[7, 8]])
    assert found.token_ids == (7, 8, *plain)


@pytest.mark.parametrize("num_beams", [1, 4])
def test_rules_of_the_bundle_give_way_and_rules_of_the_caller_do_not(default: Seq2SeqModel, num_beams: int):
    assert default.manifest.generation.no_repeat_ngram_size == 3
    text = "ha ha ha ha ha ha ha ha ha ha ha ha ha ha"
    allowed = default.allow_texts([text])
    options = GenerationOptions(max_new_tokens=60, num_beams=num_beams)
    assert default.generate([TEXT], options, constraint=allowed)[0][0].text == text
    options = dataclasses.replace(options, no_repeat_ngram_size=2)
    with pytest.raises(ConstraintError, match="or the options forbid what it asks for"):
        default.generate([TEXT], options, constraint=allowed)


def test_a_constraint_with_results_too_long_for_max_new_tokens_is_refused(model: Seq2SeqModel):
    sequences = AllowedSequences([[5] * 8])
    with pytest.raises(ConstraintError, match=r"9 tokens with EOS, but max_new_tokens is 8; raise it"):
        model.generate([TEXT], GenerationOptions(max_new_tokens=8), constraint=sequences)
    assert model.generate([TEXT], GenerationOptions(max_new_tokens=9), constraint=sequences)[0]


def test_sequences_may_be_arrays_and_come_from_a_generator():
    allowed = AllowedSequences(np.array([5, i]) for i in range(3))
    state = allowed.start().advance(5)
    assert state is not None
    assert state.allowed().tolist() == [0, 1, 2]
    assert allowed.max_len == 2


def test_what_is_no_constraint_is_refused(model: Seq2SeqModel):
    with pytest.raises(ValueError, match="found none"):
        AllowedSequences([])
    with pytest.raises(ValueError, match="found an empty sequence"):
        AllowedSequences([[3], []])
    with pytest.raises(ValueError, match=r"constraint: expected token ids in 0\.\.334, found 5000\.\.5000"):
        model.generate([TEXT], constraint=AllowedSequences([[5000]]))
    with pytest.raises(ConstraintError, match="allow_texts: '' would become no tokens"):
        model.allow_texts([""])
    with pytest.raises(ConstraintError, match=r"'two ' would become 'two'|'ﬁne' would become 'fine'"):
        model.allow_texts(["ﬁne"])  # NFKC


@pytest.mark.parametrize("tokens", [(4, 5), (4, 5, 1), (4,), ()])
def test_beams_that_only_fill_up_are_left_out(tokens: tuple[int, ...]):
    params = GenerationDefaults.from_keys(json_model(0).spec.keys)
    beams = dataclasses.replace(params, num_beams=4)
    good = Hypothesis((4, 5, 1), -3.0, (), "eos")
    filler = Hypothesis(tokens, -1e9 / max(len(tokens), 1), (), "length")
    kept = results_of(AllowedSequences([[4, 5]]), [good, filler], eos_token_id=1, n_forced=0, params=beams)
    assert kept == [good]


# ------------------------------------------ JSON ------------------------------------------

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mood": {"enum": ["good", "bad", None]},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,5}$"}, "maxItems": 2},
        "home": {"$ref": "#/$defs/place"},
    },
    "required": ["name", "age", "mood", "tags", "home"],
    "additionalProperties": False,
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"is_far": {"type": "boolean"}},
            "required": ["is_far"],
            "additionalProperties": False,
        }
    },
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3, "num_return_sequences": 3},
        {"num_beams": 1, "do_sample": True, "num_return_sequences": 5, "seed": 3},
    ],
    ids=str,
)
def test_json_of_a_schema_parses_and_validates(options: dict[str, Any], default: Seq2SeqModel):
    found = default.generate(
        [TEXT, "Anna is 34 and happy."],
        GenerationOptions(max_new_tokens=250, **options),
        constraint=default.json_schema(PERSON),
    )
    for results in found:
        assert results
        for result in results:
            assert result.finish_reason == "eos"
            jsonschema.validate(json.loads(result.text), PERSON)


def test_json_that_max_new_tokens_cuts_says_so(default: Seq2SeqModel):
    [[result]] = default.generate(
        [TEXT], GenerationOptions(max_new_tokens=5), constraint=default.json_schema(PERSON)
    )
    assert result.finish_reason == "length"
    assert '{"name": "'.startswith(result.text[:10])


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("no JSON", "expected a schema as JSON, found Expecting value"),
        ("[" * 100_000, "expected a schema as JSON"),
        ("[]", "expected a JSON object or true"),
        (False, "expected a JSON object or true"),
        ({"type": "person"}, "Invalid type: person"),
        ({"$ref": "#/nowhere"}, "Pointer '/nowhere' does not exist"),
        ({"type": "string", "pattern": "("}, "regex parse error"),
        ({"enum": []}, "Unsatisfiable schema"),
        ({"type": "array", "uniqueItems": True}, "Unimplemented keys"),
        ({"description": "x" * (1 << 20)}, "expected at most 1048576 characters"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_schema_that_cannot_be_followed_is_refused(default: Seq2SeqModel, schema: Any, message: str):
    with pytest.raises(ConstraintError, match=message):
        default.json_schema(schema)


def test_a_schema_that_turns_out_too_complex_says_so(default: Seq2SeqModel):
    """And not that nothing keeps to it: {} does."""
    schema = {"anyOf": [{"type": "object", "properties": {f"p{i}": {"type": "string"}}} for i in range(2000)]}
    with pytest.raises(ConstraintError, match=r"^json_schema: Parser Error: .* items; max is \d+"):
        default.generate(["a"], constraint=default.json_schema(schema))


def test_a_vocabulary_without_the_characters_of_json_is_refused():
    vocab = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3}
    tokenizer = HfTokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    words = Vocabulary(
        Tokenizer(tokenizer.to_str().encode(), vocab_size=4, unk_id=2), vocab_size=4, eos_token_id=1
    )
    with pytest.raises(ConstraintError, match="no token with which a result could begin"):
        JsonSchema({"type": "object"}, words)


def test_a_tokenizer_that_loses_blanks_is_refused(model: Seq2SeqModel):
    with pytest.raises(ConstraintError, match="does not give blanks back"):
        model.json_schema(PERSON)


def test_without_the_library_the_error_says_what_to_install(
    default: Seq2SeqModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ConstraintError, match=r"pip install 'edge_s2s\[json\]'"):
        default.json_schema({})
