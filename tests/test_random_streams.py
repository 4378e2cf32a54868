"""2,000 random searches: what is streamed is the first sequence, and a cancel takes effect within a step."""

import random
from typing import Any

import pytest

from edge_s2s.decoder import Cancellation, Floats, Ints, LogitsProcessor
from tiny_models import EOS, TinyModel, random_t5

N_RUNS = 2000
MODELS = [("t5", 0), ("t5-untied", 1), ("t5-v1.1", 2), ("t5-silu", 4)]


def random_search(rng: random.Random) -> dict[str, Any]:
    """Greedy search, beams, diverse beams, sampling or sampled beams, with random rules."""
    options: dict[str, Any] = {"max_new_tokens": rng.randint(1, 16)}
    kind = rng.choice(["greedy", "beams", "beams", "groups", "sampling", "sampled beams"])
    if kind in ("beams", "sampled beams"):
        options["num_beams"] = rng.choice([2, 3, 4, 8])
    if kind == "groups":
        options |= {"num_beam_groups": rng.choice([2, 3]), "diversity_penalty": rng.choice([0.1, 1.0])}
        options["num_beams"] = options["num_beam_groups"] * rng.choice([1, 2])
    if kind.startswith("sampl"):
        options |= {"do_sample": True, "temperature": rng.choice([0.5, 1.0, 2.0])}
        options["top_p"] = rng.choice([0.5, 0.9, 1.0])
    if "num_beams" in options:
        options["early_stopping"] = rng.choice([False, True, "never"])
        options["length_penalty"] = rng.choice([-0.7, 0.0, 1.0, 2.0])
        options["num_return_sequences"] = rng.randint(1, options["num_beams"])
    elif kind == "sampling":
        options["num_return_sequences"] = rng.randint(1, 4)
    rules = {
        "no_repeat_ngram_size": 2,
        "repetition_penalty": 1.5,
        "min_new_tokens": rng.randint(1, options["max_new_tokens"]),
        "forced_eos_token_id": EOS,
    }
    return options | {name: rules[name] for name in rng.sample(list(rules), rng.choice([0, 0, 1, 2]))}


@pytest.fixture(scope="module")
def models() -> list[TinyModel]:
    return [random_t5(kind, seed) for kind, seed in MODELS]


def test_in_2000_random_runs_the_joined_stream_is_the_first_sequence(models: list[TinyModel]):
    rng = random.Random(11)
    n_cancelled = n_pieces = 0
    n_cancelled_beams = 0
    for _ in range(N_RUNS // 2):
        model, options = rng.choice(models), random_search(rng)
        sources = [[rng.randrange(2, 64) for _ in range(rng.randint(1, 12))] for _ in range(2)]
        cross_kvs = [model.cross_kv(ids) for ids in sources]
        prefixes = [[rng.randrange(2, 64) for _ in range(rng.choice([0, 0, 1, 5]))] for _ in sources]
        streamed: list[list[int]] = [[], []]
        cancellation = Cancellation()
        cancel_at = rng.choice([None, rng.randint(1, 8)])  # calls of on_tokens
        lens_then: list[int] = []
        calls = 0
        steps: list[set[int]] = [set(), set()]  # of each row: lengths of histories that processors see
        steps_then: list[int] = []

        def watch(row: int, steps: list[set[int]] = steps) -> LogitsProcessor:
            def processor(tokens: Ints, scores: Floats) -> None:
                steps[row].add(tokens.shape[1])

            return processor

        def on_tokens(
            row: int,
            tokens: list[int],
            streamed: list[list[int]] = streamed,
            cancellation: Cancellation = cancellation,
            cancel_at: int | None = cancel_at,
            lens_then: list[int] = lens_then,
            steps: list[set[int]] = steps,
            steps_then: list[int] = steps_then,
        ) -> None:
            nonlocal calls
            calls += 1
            streamed[row] += tokens
            if calls == cancel_at:
                cancellation.cancel()
                lens_then[:] = map(len, streamed)
                steps_then[:] = map(len, steps)
                steps_then[1 - row] += 1  # it may come later in the same step

        seeds = [rng.getrandbits(64), rng.getrandbits(64)]
        found = model.generate(
            cross_kvs,
            prefixes=prefixes,
            callbacks={
                "on_tokens": on_tokens,
                "cancellation": cancellation,
                "seeds": seeds,
                "logits_processors": [watch(0), watch(1)],
            },
            **options,
        )
        n_pieces += calls
        for row, hypotheses in enumerate(found):
            assert tuple(streamed[row]) == hypotheses[0].token_ids, options
        if lens_then:
            assert all(len(after) <= n for after, n in zip(steps, steps_then, strict=True)), options
            n_cancelled_beams += options.get("num_beams", 1) > 1
        if not lens_then or options.get("num_beams", 1) > 1:
            continue
        n_cancelled += 1
        for row, hypotheses in enumerate(found):  # a row that comes later in the same step gets its token
            assert len(hypotheses[0].token_ids) - lens_then[row] <= 1, options
    assert n_cancelled > 100
    assert n_cancelled_beams > 100
    assert n_pieces > 5000
