"""Search and rules against transformers' generate(): the same tokens, scores and log-probabilities.

Random models of all ten families decode batches of unequal sources. A *run* is one source under one
combination of options on one model; a combination is a search and rules. It counts only if its rules change
the first sequence of at least 30 % of its runs compared with the same search without rules, so none could be
missing unnoticed. Each family has at least 60 combinations that count, beside those without rules.

Cross-attention keys and values come from torch, so a difference is the decoder's or the search's.
"""

import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EncoderRepetitionPenaltyLogitsProcessor

from tiny_models import ALL_KINDS, FAMILY_KINDS, TinyModel, random_model

# Of scores and log-probabilities: float32 sums in another order. Measured for scores below 50: below 2e-4.
TOLERANCE = {"atol": 1e-3, "rtol": 1e-5}
TIE_MARGIN = 1e-4
N_SHAKES = 20
MAX_TIES = 0.005  # of all runs
MIN_CHANGED = 0.3  # of a combination's runs
MIN_COMBINATIONS = 60  # that count, of a family
N_SOURCES = 6  # a batch

REPORT = Path(__file__).parent.parent / "reports" / "search_parity.json"

Tokens = Sequence[int]
Options = dict[str, Any]  # names and values of generate()


def beams(n: int, length_penalty: float, early_stopping: bool | str, n_return: int = 1) -> Options:
    return {
        "num_beams": n,
        "length_penalty": length_penalty,
        "early_stopping": early_stopping,
        "num_return_sequences": n_return,
        **MANY_NEW_TOKENS,
    }


MANY_NEW_TOKENS = {"max_new_tokens": 14}
FEW_NEW_TOKENS = {"max_new_tokens": 5}  # so that most sequences get to the end that a forced EOS changes
GREEDY: Options = {"num_beams": 1, **MANY_NEW_TOKENS}
# Without rules: every kind of beam search.
PLAIN = [
    beams(n, length_penalty, early_stopping, n_return=n)
    for n, length_penalty, early_stopping in itertools.product(
        (2, 4, 8), (0.6, 1.0, 2.0), (False, True, "never")
    )
]
MORE_PLAIN = [
    beams(n, length_penalty, early_stopping, n_return=n)
    for n, length_penalty, early_stopping in itertools.product(
        (2, 3, 4, 8), (0.6, 1.0, 2.0, -0.7), (False, True, "never")
    )
]
# With rules: each rule under greedy search and under some of these in turn.
RULED = [
    beams(2, 0.6, False, n_return=2),
    beams(3, 1.0, True, n_return=3),
    beams(4, 2.0, "never"),
    beams(8, 1.0, False, n_return=3),
    beams(2, 2.0, True),
    beams(3, -0.7, False, n_return=2),
    beams(4, 0.6, True, n_return=4),
]


@dataclass(frozen=True)
class Outputs:
    """What a model writes under a search without rules."""

    model: TinyModel
    sequences: list[Tokens]

    def most_common(self, n: int, count: int) -> list[Tokens]:
        """The n-grams that occur most often; a single EOS is no candidate."""
        ngrams = Counter(
            ngram
            for ids in self.sequences
            for ngram in zip(*(ids[i:] for i in range(n)), strict=False)
            if ngram != (self.model.eos,)
        )
        return [list(ngram) for ngram, _ in ngrams.most_common(count)]


Rule = Callable[[Outputs], Options]


def bad_words(**count_of: int) -> Rule:
    lengths = {"single": 1, "pairs": 2, "triples": 3}

    def options(outputs: Outputs) -> Options:
        words = [word for name, n in count_of.items() for word in outputs.most_common(lengths[name], n)]
        return {"bad_words_ids": words or [[outputs.model.pad]]}  # transformers refuses an empty list

    return options


def fixed(**options: Any) -> Rule:
    return lambda outputs: options


def suppress(outputs: Outputs) -> Options:
    return {"suppress_tokens": [token for (token,) in outputs.most_common(1, 5)]}


def suppress_at_begin(outputs: Outputs) -> Options:
    """Also where a forced token comes first: what comes first, and what comes second."""
    return {"begin_suppress_tokens": sorted({token for ids in outputs.sequences for token in ids[:2]})}


def biases(outputs: Outputs) -> Options:
    """Against what is common, and for what is not."""
    against = {tuple(word): -2.5 for n in (1, 2, 3) for word in outputs.most_common(n, 5)}
    return {"sequence_bias": against | {(9,): 1.5, (11, 12): 3.0}}


# Options from what the same search gives without them, so that they forbid what would have come.
RULES: dict[str, Rule] = {
    "penalty": fixed(repetition_penalty=1.8),
    "reward": fixed(repetition_penalty=0.6),
    "1-gram": fixed(no_repeat_ngram_size=1),
    "2-gram": fixed(no_repeat_ngram_size=2),
    "3-gram": fixed(no_repeat_ngram_size=3),
    "bad-tokens": bad_words(single=6),
    "bad-pairs": bad_words(pairs=15),
    "bad-triples": bad_words(triples=15),
    "bad-words": bad_words(single=2, pairs=6, triples=4),
    "suppress": suppress,
    "min-new": fixed(min_new_tokens=13),
    "min-length": fixed(min_length=12),
    "bos": fixed(forced_bos_token_id=7),
    "eos": lambda outputs: {"forced_eos_token_id": outputs.model.eos},
    "max-length": fixed(max_length=6),
    "begin": suppress_at_begin,
    "bias": biases,
    "decay": fixed(exponential_decay_length_penalty=(2, 1.7)),
    "late-decay": fixed(exponential_decay_length_penalty=(5, 2.5)),
    "source-penalty": fixed(encoder_repetition_penalty=0.4),
    "source-reward": fixed(encoder_repetition_penalty=2.5),
    "source-1-gram": fixed(encoder_no_repeat_ngram_size=1),
    "renormalize": fixed(renormalize_logits=True),
}
ALONE = [(name,) for name in RULES if name != "renormalize"]  # which changes what other rules leave
PAIRS = [
    ("penalty", "2-gram"),
    ("penalty", "min-new"),
    ("penalty", "bad-pairs"),
    ("reward", "2-gram"),
    ("2-gram", "min-new"),
    ("1-gram", "suppress"),
    ("bad-words", "3-gram"),
    ("bad-words", "min-length"),
    ("suppress", "min-new"),
    ("bos", "2-gram"),
    ("bos", "bad-pairs"),
    ("bos", "eos"),
    ("eos", "penalty"),
    ("eos", "bad-tokens"),
    ("begin", "bos"),
    ("begin", "decay"),
    ("bias", "penalty"),
    ("bias", "bad-pairs"),
    ("bias", "source-reward"),
    ("decay", "2-gram"),
    ("source-penalty", "penalty"),
    ("source-reward", "decay"),
    ("source-1-gram", "begin"),
    ("renormalize", "suppress"),
    ("renormalize", "penalty"),
    ("renormalize", "bad-words"),
]


@dataclass
class Combination:
    """A search, rules, and what came of it."""

    search: Options
    rules: tuple[str, ...] = ()
    n_runs: int = 0
    n_changed: int = 0
    n_ties: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return " ".join([*(f"{key}={value}" for key, value in self.search.items()), *self.rules])

    @property
    def counts(self) -> bool:
        return bool(self.rules) and self.n_changed >= MIN_CHANGED * self.n_runs


def plain_and_ruled(plain: list[Options], n_ruled: int, pairs: list[tuple[str, str]]) -> list[Combination]:
    """Searches without rules; then each rule and pair of rules greedily and under `n_ruled` of RULED."""
    ruled = itertools.cycle(RULED)
    return [Combination(GREEDY), *map(Combination, plain)] + [
        Combination(search | (FEW_NEW_TOKENS if "eos" in rules else {}), rules)
        for rules in [*ALONE, *pairs]
        for search in (GREEDY, *itertools.islice(ruled, n_ruled))
    ]


def all_pairs() -> list[tuple[str, str]]:
    """Of rules that set no option in common, and of which neither ends what the other needs.

    Where a rule forbids EOS, a growing length penalty is not a number in transformers: no such pair.
    """
    lengths = ["min-new", "min-length", "max-length"]
    forbid_eos = ["bad-tokens", "bad-pairs", "bad-triples", "bad-words", "min-new", "min-length", "1-gram"]
    apart = [
        ({"penalty"}, {"reward"}),
        ({"1-gram", "2-gram", "3-gram"},) * 2,
        ({"bad-tokens", "bad-pairs", "bad-triples", "bad-words"},) * 2,
        ({"source-penalty"}, {"source-reward"}),
        ({*lengths},) * 2,
        ({"eos"}, {*lengths, "late-decay"}),
        ({"decay", "late-decay"}, {"decay", "late-decay", *forbid_eos}),
    ]
    return [
        (a, b)
        for a, b in itertools.combinations(RULES, 2)
        if not any((a in x and b in y) or (a in y and b in x) for x, y in apart)
    ]


@dataclass(frozen=True)
class Reference:
    """A sequence of transformers'."""

    token_ids: tuple[int, ...]
    score: float
    token_logprobs: list[float]
    margins: list[float]
    """Greedy: for each step, by how much the best token beats the second one. Beams: empty."""


def transformers_search(model: TinyModel, sources: list[Tokens], options: Options) -> list[list[Reference]]:
    """One call of generate() for the whole padded batch; for each source its sequences.

    Rules that read the source take its padding for tokens: with them, one call for sources of one length.
    """
    lengths = set(map(len, sources))
    if len(lengths) > 1 and any(name.startswith("encoder_") for name in options):
        found: dict[int, list[Reference]] = {}
        for length in lengths:
            alike = [i for i, ids in enumerate(sources) if len(ids) == length]
            found |= zip(alike, transformers_search(model, [sources[i] for i in alike], options), strict=True)
        return [found[i] for i in range(len(sources))]
    length = max(map(len, sources))
    out = model.hf.generate(
        input_ids=torch.tensor([ids + [model.pad] * (length - len(ids)) for ids in sources]),
        attention_mask=torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids in sources]),
        do_sample=False,
        output_logits=True,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )
    logprobs = torch.stack(out.logits).log_softmax(dim=-1).numpy()  # [n_steps, n_rows, vocab_size]
    best_two = torch.stack(out.scores).topk(2).values  # [n_steps, n_rows, 2]
    margins = (best_two[..., 0] - best_two[..., 1]).numpy()  # [n_steps, n_rows]
    references = []
    for i, padded in enumerate(out.sequences[:, 1:].tolist()):
        ids = padded[: padded.index(model.eos) + 1] if model.eos in padded else padded
        steps = range(len(ids))
        if options["num_beams"] == 1:
            token_logprobs = logprobs[steps, i, ids]
            score, token_margins = token_logprobs.sum() / len(ids), margins[steps, i].tolist()
        else:
            token_logprobs = logprobs[steps, out.beam_indices[i, : len(ids)], ids]
            score, token_margins = out.sequences_scores[i], []
        references.append(Reference(tuple(ids), float(score), token_logprobs.tolist(), token_margins))
    n_return = len(references) // len(sources)
    return [references[i * n_return : (i + 1) * n_return] for i in range(len(sources))]


class Shake:
    """A logits processor that moves every score by less than `TIE_MARGIN`."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, _input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores + TIE_MARGIN * (torch.rand(scores.shape, generator=self.generator) - 0.5)


def is_tie_of_the_pruned(
    model: TinyModel, sources: list[Tokens], options: Options, i: int, ours: Any
) -> bool:
    """Whether transformers gives our sequences, too, once its scores are shaken.

    Under beam search, hypotheses that are nearly equal may compete for the last place long before the end.
    """
    if options["num_beams"] == 1:
        return False
    for seed in range(N_SHAKES):
        shaken = transformers_search(model, sources, {**options, "logits_processor": [Shake(seed)]})[i]
        if [a.token_ids for a in ours] == [b.token_ids for b in shaken]:
            return True
    return False


def in_our_words(options: Options) -> Options:
    """`max_length` and `min_length` count the start token; we have `max_new_tokens` and `min_new_tokens`."""
    names = {"max_length": "max_new_tokens", "min_length": "min_new_tokens"}
    ours = {names.get(name, name): value - 1 if name in names else value for name, value in options.items()}
    return ours | {name: tuple(ours[name].items()) for name in ("sequence_bias",) if name in ours}


def is_tie(ours: Any, reference: Reference) -> bool:
    """Whether a difference is a choice between equals: of tokens, or under beam search of hypotheses."""
    if not reference.margins:
        return abs(ours.score - reference.score) < TIE_MARGIN
    pairs = zip(ours.token_ids, reference.token_ids, reference.margins, strict=False)
    return next((margin for a, b, margin in pairs if a != b), np.inf) < TIE_MARGIN


def compare(ours: list[Any], references: list[Reference]) -> tuple[str, bool]:
    """What differs in a run, empty if nothing does; and whether that is a tie."""
    for i, (a, b) in enumerate(zip(ours, references, strict=True)):
        if a.token_ids != b.token_ids:
            return f"sequence {i}: {a.token_ids} instead of {b.token_ids}", is_tie(a, b)
        if not np.allclose(a.score, b.score, **TOLERANCE):
            return f"sequence {i}: score {a.score} instead of {b.score}", False
        if not np.allclose(a.token_logprobs, b.token_logprobs, **TOLERANCE):
            return f"sequence {i}: log-probabilities {a.token_logprobs} instead of {b.token_logprobs}", False
    return "", False


def run(combinations: list[Combination], model: TinyModel, seed: int) -> None:
    """Adds a batch of one model to every combination."""
    rng = np.random.default_rng(seed)
    sources = [
        rng.choice(model.plain_tokens, size=length).tolist()
        for length in rng.integers(1, 24, size=N_SOURCES // 2)
        for _ in range(2)
    ]
    cross_kvs = [model.cross_kv(ids) for ids in sources]
    without_rules: dict[str, list[list[Reference]]] = {}
    for combination in combinations:
        options = dict(combination.search)
        if str(options) not in without_rules:
            without_rules[str(options)] = transformers_search(model, sources, options)
        plain = references = without_rules[str(options)]
        if combination.rules:
            outputs = Outputs(model, [reference.token_ids for source in plain for reference in source])
            for name in combination.rules:
                options |= RULES[name](outputs)
            if "max_length" in options:
                del options["max_new_tokens"]
            references = transformers_search(model, sources, options)
        for i, ours in enumerate(model.generate(cross_kvs, sources=sources, **in_our_words(options))):
            difference, tie = compare(ours, references[i])
            tie = tie or (bool(difference) and is_tie_of_the_pruned(model, sources, options, i, ours))
            combination.n_runs += 1
            combination.n_changed += references[i][0].token_ids != plain[i][0].token_ids
            combination.n_ties += tie
            if difference and not tie:
                combination.differences.append(f"{combination.name}, source {i}: {difference}")


def check(combinations: list[Combination]) -> str:
    """A summary of many runs. Fails if a run differs and is no tie, or if there are too many ties."""
    n_runs = sum(combination.n_runs for combination in combinations)
    n_ties = sum(combination.n_ties for combination in combinations)
    counting = [combination for combination in combinations if combination.counts]
    ruled = [combination for combination in combinations if combination.rules]
    summary = (
        f"{n_runs} runs, {n_ties} ties; of {len(ruled)} combinations with rules {len(counting)} count; "
        f"{len(combinations) - len(ruled)} without rules"
    )
    print(summary)
    for combination in ruled:
        if not combination.counts:
            print(
                f"does not count, {combination.n_changed} of {combination.n_runs} changed: {combination.name}"
            )
    differences = [difference for combination in combinations for difference in combination.differences]
    assert not differences, f"{len(differences)} of {summary}\n" + "\n".join(differences[:20])
    assert n_ties <= MAX_TIES * n_runs, summary
    assert len(counting) >= MIN_COMBINATIONS, summary
    return summary


class EncoderRepetitionPenalty(EncoderRepetitionPenaltyLogitsProcessor):
    """That of transformers 5, in numpy: 4.57 leaves all beams but the first alone."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        ruled = scores.numpy().copy()
        sources = self.encoder_input_ids.numpy().repeat(len(ruled) // len(self.encoder_input_ids), axis=0)
        for row, source_ids in zip(ruled, sources, strict=True):
            for token in set(source_ids):
                row[token] *= self.penalty if row[token] < 0 else 1 / self.penalty
        return torch.from_numpy(ruled)


@pytest.fixture(autouse=True)
def rules_of_transformers_5(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = "transformers.generation.utils.EncoderRepetitionPenaltyLogitsProcessor"
    monkeypatch.setattr(processor, EncoderRepetitionPenalty)


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Matrices this small are far slower with two, all the more if the machine is busy."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize("family", FAMILY_KINDS)
def test_search_agrees_with_transformers_in_tokens_scores_and_logprobs_for(family: str):
    combinations = plain_and_ruled(PLAIN, 1, PAIRS)
    kinds = FAMILY_KINDS[family]
    for i, kind in enumerate(kinds):  # a combination meets one kind of the family
        run(combinations[i :: len(kinds)], random_model(kind, seed=i), seed=i)
    check(combinations)


def random_options(rng: random.Random, model: TinyModel) -> Options:
    """Rules that may forbid nearly everything, and more beams than there are continuations."""
    vocab_size, eos = model.hf.config.vocab_size, model.eos
    n_new = rng.choice([1, 2, 3, 5, 8])
    options: Options = {"num_beams": rng.choice([1, 2, 3, 4, 8]), "max_new_tokens": n_new}
    if options["num_beams"] > 1:
        options["length_penalty"] = rng.choice([-1.0, -0.4, 0.0, 0.6, 1.0, 2.0])
        options["early_stopping"] = rng.choice([False, True, "never"])
        options["num_return_sequences"] = rng.randint(1, options["num_beams"])
    word = [
        rng.choice([model.hf.config.decoder_start_token_id, eos, rng.randrange(vocab_size)])
        for _ in range(rng.randint(2, 3))
    ]
    rules: Options = {
        "no_repeat_ngram_size": rng.choice([1, 2, 3, 9]),
        "repetition_penalty": rng.choice([0.5, 1.5, 3.0]),
        "bad_words_ids": [[eos], [rng.choice(model.plain_tokens)], word],
        "suppress_tokens": rng.sample(range(vocab_size), rng.choice([1, 2, vocab_size - 2])),
        "min_new_tokens": rng.randint(1, n_new),
        "forced_bos_token_id": rng.randrange(vocab_size),
        "forced_eos_token_id": eos,
        "begin_suppress_tokens": rng.sample(range(vocab_size), rng.choice([1, vocab_size - 2])),
        "sequence_bias": {(eos,): -1.5, (rng.randrange(vocab_size),): 2.0, tuple(word): 4.0},
        "encoder_no_repeat_ngram_size": rng.choice([1, 2, 3]),
        "encoder_repetition_penalty": rng.choice([0.5, 2.0]),
    }
    return options | {name: rules[name] for name in rng.sample(list(rules), rng.choice([0, 1, 2, 3]))}


def tiny_vocabulary(kind: str, vocab_size: int) -> TinyModel:
    ids = {"pad_token_id": vocab_size - 1, "decoder_start_token_id": vocab_size - 1}
    return random_model(
        kind, seed=vocab_size, vocab_size=vocab_size, **(ids if kind.startswith("marian") else {})
    )


# transformers gives a pad token in the output of M2M100 no position, and here pad tokens are forced.
@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if not kind.startswith("m2m100")])
def test_search_agrees_with_transformers_in_a_tiny_vocabulary_for(kind: str):
    rng, n_runs = random.Random(kind), 0
    for vocab_size in (5, 6, 12):
        model = tiny_vocabulary(kind, vocab_size)
        sources = [rng.choices(model.plain_tokens, k=n) for n in (1, 8, 4)]
        cross_kvs = [model.cross_kv(ids) for ids in sources]
        for _ in range(8):
            options = random_options(rng, model)
            references = transformers_search(model, sources, options)
            found = model.generate(cross_kvs, sources=sources, **in_our_words(options))
            for ours, reference in zip(found, references, strict=True):
                # Where too few are possible, transformers adds pieces of others with scores near -1e9.
                possible = [sequence for sequence in reference if sequence.score > -1e7]
                difference, tie = compare(ours[: len(possible)], possible)
                assert not difference or tie, f"{kind}, {sources}, {options}: {difference}"
                n_runs += len(possible) > 0
    assert n_runs >= 60


@pytest.mark.release
@pytest.mark.timeout(7200)
@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize("family", FAMILY_KINDS)
def test_search_agrees_with_transformers_for_many_models_of(family: str):
    """Every combination on six models, every pair of rules on one."""
    combinations = plain_and_ruled(MORE_PLAIN, 3, PAIRS)
    pairs = plain_and_ruled([], 1, all_pairs())
    kinds = FAMILY_KINDS[family]
    for i in range(6):
        run(combinations, random_model(kinds[i % len(kinds)], seed=100 + i), seed=100 + i)
    for i, kind in enumerate(kinds):
        run(pairs[i :: len(kinds)], random_model(kind, seed=200 + i), seed=200 + i)
    write_report(family, combinations + pairs, check(combinations + pairs))


def write_report(family: str, combinations: list[Combination], summary: str) -> None:
    REPORT.parent.mkdir(exist_ok=True)
    report = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.exists() else {}
    ruled = [combination for combination in combinations if combination.rules]
    report[family] = {
        "summary": summary,
        "kinds": FAMILY_KINDS[family],
        "runs": sum(c.n_runs for c in combinations),
        "combinations_without_rules": len(combinations) - len(ruled),
        "combinations_with_rules_that_count": sum(c.counts for c in ruled),
        "ties": sum(c.n_ties for c in combinations),
        "differences": sum(len(c.differences) for c in combinations),
        "combinations_that_do_not_count": [c.name for c in ruled if not c.counts],
    }
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def test_beams_for_which_the_rules_leave_no_first_token_are_as_hopeless_as_in_transformers():
    model = random_model("t5", 0)
    options = {"num_beams": 3, "max_new_tokens": 4, "suppress_tokens": [7], "forced_bos_token_id": 7}
    [[reference]] = transformers_search(model, [[9, 8]], options)
    [[found]] = model.generate([model.cross_kv([9, 8])], num_return_sequences=1, **options)
    assert (found.token_ids, found.score) == ((), reference.score)
    assert reference.score == -1e9
