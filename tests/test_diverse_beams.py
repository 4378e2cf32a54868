"""Diverse beam search against transformers' scorer and Hamming penalty, driven by a loop written here.

transformers 4.57 keeps BeamSearchScorer and HammingDiversityLogitsProcessor, but not the loop around them.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList
from transformers.generation.beam_search import BeamSearchScorer
from transformers.generation.logits_process import (
    HammingDiversityLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from tiny_models import EOS, START, TinyModel, random_t5

N_NEW = 10
SOURCES = [[5, 9, 30], [2], list(range(20, 44))]
GROUPS = [(2, 2), (4, 2), (4, 4), (6, 3), (6, 2)]
RULES: list[dict[str, Any]] = [
    {},
    {"no_repeat_ngram_size": 2},
    {"repetition_penalty": 1.5, "min_new_tokens": 4},
]
TIE_MARGIN = 1e-4


def rules_of(rules: dict[str, Any], n_prompt: int) -> LogitsProcessorList:
    kinds = {
        "no_repeat_ngram_size": NoRepeatNGramLogitsProcessor,
        "repetition_penalty": RepetitionPenaltyLogitsProcessor,
        "min_new_tokens": lambda n: MinNewTokensLengthLogitsProcessor(n_prompt, n, EOS),
    }
    order = ("repetition_penalty", "no_repeat_ngram_size", "min_new_tokens")
    return LogitsProcessorList([kinds[name](rules[name]) for name in order if name in rules])


@torch.no_grad()
def transformers_groups(
    model: TinyModel,
    source: list[int],
    n_beams: int,
    n_groups: int,
    penalty: float,
    rules: dict[str, Any],
    prefix: Sequence[int] = (),
    **search: Any,
) -> list[tuple[tuple[int, ...], float]]:
    """All sequences of one source and their scores, best first."""
    n_prompt = 1 + len(prefix)
    size = n_beams // n_groups
    scorer = BeamSearchScorer(
        batch_size=1,
        num_beams=n_beams,
        num_beam_groups=n_groups,
        device=torch.device("cpu"),
        length_penalty=search["length_penalty"],
        do_early_stopping=search["early_stopping"],
        num_beam_hyps_to_keep=n_beams,
        max_length=n_prompt + N_NEW,
    )
    diversity = HammingDiversityLogitsProcessor(penalty, n_beams, n_groups)
    encoder_ids = torch.tensor([source] * n_beams)
    encoded = model.hf.get_encoder()(encoder_ids)
    ids = torch.tensor([[START, *prefix]] * n_beams)
    sums = torch.full((n_beams,), -1e9)
    sums[::size] = 0
    end = {"pad_token_id": START, "eos_token_id": EOS, "decoder_prompt_len": n_prompt}
    while ids.shape[1] < n_prompt + N_NEW and not scorer.is_done:
        logits = model.hf(encoder_outputs=encoded, decoder_input_ids=ids).logits[:, -1]
        chosen = torch.zeros(n_beams, dtype=torch.long)
        parents = torch.arange(n_beams)
        for group in range(n_groups):
            rows = slice(group * size, (group + 1) * size)
            scores = rules_of(rules, n_prompt)(ids[rows], logits[rows].log_softmax(dim=-1))
            scores = diversity(ids[rows], scores, chosen, group)
            best = (scores + sums[rows, None]).view(1, -1).topk(2 * size)
            step = scorer.process(
                ids[rows],
                best.values,
                best.indices % scores.shape[1],
                best.indices // scores.shape[1],
                group_index=group,
                **end,
            )
            sums[rows] = step["next_beam_scores"]
            chosen[rows] = step["next_beam_tokens"]
            parents[rows] = step["next_beam_indices"] + group * size
        ids = torch.cat([ids[parents], chosen[:, None]], dim=1)
    out = scorer.finalize(ids, sums, chosen, parents, max_length=n_prompt + N_NEW, **end)
    found = []
    for row, score in zip(
        out["sequences"][:, n_prompt:].tolist(), out["sequence_scores"].tolist(), strict=True
    ):
        found.append((tuple(row[: row.index(EOS) + 1] if EOS in row else row), score))
    return found


@pytest.mark.parametrize("prefixes", [[[], [], []], [[17], [8, 9], [33, 12, 50, 33]]])
@pytest.mark.parametrize(("n_beams", "n_groups"), GROUPS)
def test_groups_agree_with_transformers_in_tokens_and_scores(
    n_beams: int, n_groups: int, prefixes: list[list[int]]
):
    n_runs = n_ties = n_changed = 0
    searches = itertools.cycle(itertools.product((0.6, 1.0, 2.0, -0.7), (False, True, "never")))
    for kind, seed in (("t5", 0), ("t5-untied", 1), ("t5-v1.1", 2)):
        model = random_t5(kind, seed)
        cross_kvs = [model.cross_kv(ids) for ids in SOURCES]
        for rules, penalty in itertools.product(RULES, (0.3, 1.5)):
            length_penalty, early_stopping = next(searches)
            search = {"length_penalty": length_penalty, "early_stopping": early_stopping}
            common = {"num_beams": n_beams, "num_return_sequences": n_beams, "max_new_tokens": N_NEW}
            groups = {"num_beam_groups": n_groups, "diversity_penalty": penalty}
            ours = model.generate(cross_kvs, prefixes=prefixes, **common, **search, **rules, **groups)
            plain = model.generate(cross_kvs, prefixes=prefixes, **common, **search, **rules)
            for i, source in enumerate(SOURCES):
                expected = transformers_groups(
                    model, source, n_beams, n_groups, penalty, rules, prefixes[i], **search
                )
                n_runs += 1
                n_changed += [h.token_ids for h in ours[i]] != [h.token_ids for h in plain[i]]
                for h, (ids, score) in zip(ours[i], expected, strict=True):
                    if h.token_ids != ids and abs(h.score - score) < TIE_MARGIN:
                        n_ties += 1
                        break
                    assert h.token_ids == ids, (kind, source, rules, penalty, search)
                    assert h.score == pytest.approx(score, abs=1e-3)
    assert n_changed > n_runs / 2
    assert n_ties <= 0.05 * n_runs
