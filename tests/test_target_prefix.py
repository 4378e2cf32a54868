"""What results begin with: transformers' decoder_input_ids, of any number for each source of a batch."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from edge_s2s import GenerationOptions, Seq2SeqModel
from edge_s2s.decoder import Cancellation, Floats, Hypothesis
from edge_s2s_export.probe_texts import probe_texts
from tiny_models import ALL_KINDS, EOS, TinyModel, random_model, random_t5

N_NEW = 10
SOURCES = [[5, 9, 30], [2, 40], list(range(20, 44))]
PREFIXES = [[17], [8, 9, 8], [33, 12, 50, 7, 33, 12]]
TIE_MARGIN = 1e-4
BEAMS = {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 1.6}

Rule = Callable[[list[tuple[int, ...]]], dict[str, Any]]
"""Options made of what the search gives without them, so that they forbid what would have come."""

RULES: dict[str, Rule] = {
    "none": lambda outputs: {},
    "penalty": lambda outputs: {"repetition_penalty": 1.8},
    "2-gram": lambda outputs: {"no_repeat_ngram_size": 2},
    "bad words": lambda outputs: {
        "bad_words_ids": [[ids[0]] for ids in outputs]
        + [[prefix[-1], ids[0]] for prefix, ids in zip(PREFIXES, outputs, strict=True)]
    },
    "bias": lambda outputs: {
        "sequence_bias": {(*prefix[-2:], ids[0]): -4.0 for prefix, ids in zip(PREFIXES, outputs, strict=True)}
    },
    "begin": lambda outputs: {"begin_suppress_tokens": sorted({ids[0] for ids in outputs})},
    "min": lambda outputs: {"min_new_tokens": max(map(len, outputs), default=1)},
    "decay": lambda outputs: {"exponential_decay_length_penalty": (2, 1.7)},
    "bos": lambda outputs: {"forced_bos_token_id": 7},  # which comes after the start token or never
    "source": lambda outputs: {"encoder_no_repeat_ngram_size": 1},
    "eos": lambda outputs: {"forced_eos_token_id": 5, "max_new_tokens": 4},
    "renormalize": lambda outputs: {
        "suppress_tokens": sorted({ids[0] for ids in outputs}),
        "renormalize_logits": True,
    },
}
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 0.7},
    "diverse beams": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "sampling": {"do_sample": True, "num_return_sequences": 3},
    "sampling beams": {"do_sample": True, "num_beams": 3},
    "rules": {"num_beams": 2, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
}


@pytest.fixture(scope="module")
def tiny() -> TinyModel:
    return random_t5("t5-untied", 1)


@pytest.fixture(scope="module")
def cross_kvs(tiny: TinyModel) -> list[Floats]:
    return [tiny.cross_kv(ids) for ids in SOURCES]


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def transformers_generate(
    tiny: TinyModel, source: list[int], prefix: list[int], options: dict[str, Any]
) -> list[tuple[tuple[int, ...], float | None, float]]:
    """For each sequence its new tokens, under beams its score, in greedy search its smallest margin."""
    config = tiny.hf.generation_config
    out = tiny.hf.generate(
        input_ids=torch.tensor([source]),
        decoder_input_ids=torch.tensor([prefix]),
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )
    n_prompt = len(prefix) + (prefix[0] != config.decoder_start_token_id)
    best_two = torch.stack(out.scores).topk(2).values[:, 0]
    margin = float((best_two[:, 0] - best_two[:, 1]).min())
    found = []
    for i, ids in enumerate(out.sequences[:, n_prompt:].tolist()):
        eos = config.eos_token_id
        new = tuple(ids[: ids.index(eos) + 1] if eos in ids else ids)
        score = float(out.sequences_scores[i]) if options.get("num_beams", 1) > 1 else None
        found.append((new, score, margin))
    return found


@pytest.mark.usefixtures("one_torch_thread")
def test_all_families_go_on_from_a_prefix_as_transformers_does():
    n_runs = n_ties = n_changed = 0
    by_rule = dict.fromkeys(RULES, 0)
    for (n, kind), search in itertools.product(enumerate(ALL_KINDS), ({"num_beams": 1}, BEAMS)):
        model = random_model(kind, seed=n)
        kvs = [model.cross_kv(ids) for ids in SOURCES]
        search = {"max_new_tokens": N_NEW, **search}
        outputs = [h[0].token_ids for h in model.generate(kvs, prefixes=PREFIXES, **search)]
        without = [h[0].token_ids for h in model.generate(kvs, **search)]
        n_changed += sum(a != b for a, b in zip(outputs, without, strict=True))
        for rule in ("none", *list(RULES)[1 + n % 3 :: 3]):
            options = search | RULES[rule](outputs)
            ours_options = options | {
                name: tuple(options[name].items()) for name in ("sequence_bias",) if name in options
            }
            found = model.generate(kvs, sources=SOURCES, prefixes=PREFIXES, **ours_options)
            for source, prefix, plain, ours in zip(SOURCES, PREFIXES, outputs, found, strict=True):
                start = [model.hf.generation_config.decoder_start_token_id] if len(prefix) % 2 else []
                expected = transformers_generate(model, source, start + prefix, options)
                n_runs += 1
                by_rule[rule] += ours[0].token_ids != plain
                for h, (ids, score, margin) in zip(ours, expected, strict=True):
                    if h.token_ids != ids:
                        tie = margin if score is None else abs(h.score - score)
                        assert tie < TIE_MARGIN, (kind, search, rule, source, prefix)
                        n_ties += 1
                        break
                    assert score is None or h.score == pytest.approx(score, abs=1e-3)
    assert n_changed > n_runs / 8, "prefixes change what comes after them"
    assert n_ties <= 0.01 * n_runs
    assert by_rule.pop("bos") == by_rule.pop("none") == 0
    assert min(by_rule.values()) > 5, by_rule


@pytest.mark.parametrize("search", SEARCHES)
def test_unequal_prefixes_in_a_batch_give_the_same_bits_as_each_alone(
    tiny: TinyModel, cross_kvs: list[Floats], search: str
):
    order = [2, 0, 1, 0, 2, 1]
    prefixes = [[33, 12, 50], [], [8] * 7, [17], [17], [9, 9, 9]]
    options = {"max_new_tokens": N_NEW, **SEARCHES[search]}
    seeds = {"seeds": list(range(6))}
    batch = tiny.generate([cross_kvs[i] for i in order], prefixes=prefixes, callbacks=seeds, **options)
    assert batch == [
        tiny.generate([cross_kvs[i]], prefixes=[prefix], callbacks={"seeds": [seed]}, **options)[0]
        for seed, (i, prefix) in enumerate(zip(order, prefixes, strict=True))
    ]
    assert len({h[0].token_ids for h in batch}) > 3, "prefixes matter"
    assert batch[1] == tiny.generate([cross_kvs[0]], callbacks={"seeds": [1]}, **options)[0]


def test_a_result_as_prefix_goes_on_with_its_rest_in_the_same_bits(tiny: TinyModel, cross_kvs: list[Floats]):
    options = {"max_new_tokens": N_NEW, "suppress_tokens": (EOS,)}
    for cross_kv, [whole] in zip(cross_kvs, tiny.generate(cross_kvs, **options), strict=True):
        for n in range(1, N_NEW):
            options["max_new_tokens"] = N_NEW - n
            [[rest]] = tiny.generate([cross_kv], prefixes=[whole.token_ids[:n]], **options)
            assert rest.token_ids == whole.token_ids[n:]
            assert rest.token_logprobs == whole.token_logprobs[n:]


@pytest.mark.parametrize("search", ["greedy", "beams", "diverse beams"])
def test_the_stream_is_what_comes_after_the_prefix(tiny: TinyModel, cross_kvs: list[Floats], search: str):
    streamed: list[list[int]] = [[], [], []]
    callbacks = {"on_tokens": lambda row, tokens: streamed[row].extend(tokens)}
    options = {"max_new_tokens": N_NEW, **SEARCHES[search]}
    found = tiny.generate(cross_kvs, prefixes=PREFIXES, callbacks=callbacks, **options)
    assert streamed == [list(h[0].token_ids) for h in found]


def test_a_logits_processor_sees_start_token_prefix_and_all_since(tiny: TinyModel, cross_kvs: list[Floats]):
    seen: list[list[tuple[int, ...]]] = [[], [], []]

    def record(row: int) -> Any:
        return lambda tokens, scores: seen[row].append(tuple(tokens[0].tolist()))

    callbacks = {"logits_processors": [record(row) for row in range(3)]}
    found = tiny.generate(cross_kvs, prefixes=PREFIXES, callbacks=callbacks, max_new_tokens=N_NEW)
    for [h], prefix, histories in zip(found, PREFIXES, seen, strict=True):
        whole = (tiny.decoder.dims.decoder_start_token_id, *prefix, *h.token_ids)
        assert histories == [whole[: 1 + len(prefix) + i] for i in range(len(h.token_ids))]


def test_cancelled_while_prefixes_are_read_there_is_nothing(tiny: TinyModel, cross_kvs: list[Floats]):
    cancellation = Cancellation()
    cancellation.cancel()
    for callbacks in ({"cancellation": cancellation}, {"deadline_ms": 0}):
        for [h] in tiny.generate(cross_kvs, prefixes=PREFIXES, num_beams=2, callbacks=callbacks):
            assert h == Hypothesis((), 0.0, (), h.finish_reason)
            assert h.finish_reason in ("cancelled", "deadline")


# ------------------------------------------------ in the model ---------------------------------------------

TEXTS = probe_texts(3)


def test_results_begin_with_the_prefix(model: Seq2SeqModel):
    start = model._parts.decoder.dims.decoder_start_token_id
    prefix = model._parts.target_tokenizer.tokenize("The meeting was")
    [[plain]] = model.generate(TEXTS[:1])
    [[found]] = model.generate(TEXTS[:1], decoder_input_ids=["The meeting was"])
    assert found.text.startswith(model.decode(prefix))
    assert found.token_ids[: len(prefix)] == tuple(prefix)
    assert found.text == model.decode(found.token_ids) != plain.text
    assert len(found.token_logprobs) == len(found.token_ids) - len(prefix)
    assert found.score == pytest.approx(sum(found.token_logprobs) / len(found.token_logprobs), abs=1e-5)
    for same in (prefix, [start, *prefix], np.array([start, *prefix]), tuple(prefix)):
        [[also]] = model.generate(TEXTS[:1], decoder_input_ids=[same])
        assert (also.text, also.token_ids, also.score) == (found.text, found.token_ids, found.score)
    for none in (None, [None], [[]], [[start]], [""]):
        [[also]] = model.generate(TEXTS[:1], decoder_input_ids=none)
        assert (also.text, also.token_ids) == (plain.text, plain.token_ids)


def test_each_text_has_its_own_prefix_whatever_the_others_have(model: Seq2SeqModel):
    prefixes = ["The", None, model._parts.target_tokenizer.tokenize("A longer beginning of it all,")]
    for options in (GenerationOptions(num_beams=3), GenerationOptions(do_sample=True, seed=4)):
        together = model.generate(TEXTS, options, decoder_input_ids=prefixes)
        for text, prefix, [found] in zip(TEXTS, prefixes, together, strict=True):
            [[alone]] = model.generate([text], options, decoder_input_ids=[prefix])
            assert (alone.token_ids, alone.score) == (found.token_ids, found.score)


def test_a_text_comes_after_the_forced_token_as_if_generated(model: Seq2SeqModel):
    options = GenerationOptions(forced_bos_token_id=9)
    [[plain]] = model.generate(TEXTS[:1], options)
    tokens = tuple(model._parts.target_tokenizer.tokenize("The"))
    [[found]] = model.generate(TEXTS[:1], options, decoder_input_ids=["The"])
    assert plain.token_ids[0] == 9
    assert found.token_ids[: 1 + len(tokens)] == (9, *tokens)
    [[of_ids]] = model.generate(TEXTS[:1], options, decoder_input_ids=[tokens])
    assert of_ids.token_ids[0] == tokens[0]


def test_pieces_of_a_stream_joined_are_prefix_and_result(model: Seq2SeqModel):
    stream = model.stream(TEXTS[0], decoder_input_ids="The meeting")
    pieces = []
    try:
        while True:
            pieces.append(next(stream))
    except StopIteration as end:
        streamed = end.value
    [[expected]] = model.generate(TEXTS[:1], decoder_input_ids=["The meeting"])
    assert "".join(pieces) == streamed.text == expected.text


def test_tokens_have_names_and_ctranslate2_has_one_for_all_of_it(model: Seq2SeqModel):
    ids = model._parts.target_tokenizer.tokenize("The meeting")
    names = [model._parts.target_tokenizer._tokenizer.id_to_token(i) for i in ids]
    [[expected]] = model.generate(TEXTS[:1], decoder_input_ids=[ids])
    for [[found]] in (
        model.generate(TEXTS[:1], decoder_input_ids=[names]),
        model.generate(TEXTS[:1], target_prefix=[["<pad>", *names]]),
    ):
        assert found.token_ids == expected.token_ids
    with pytest.raises(TypeError, match="one argument; give decoder_input_ids"):
        model.generate(TEXTS[:1], target_prefix=[names], decoder_input_ids=[ids])


WRONG: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ("The", {}, TypeError, "decoder_input_ids: expected one for each text, found one str"),
    ([[5], [6]], {}, ValueError, "expected one for each of 3 texts, found 2"),
    ([5, 6, 7], {}, TypeError, r"decoder_input_ids\[0\]: expected a str or a list of token ids, found int"),
    ([[5], [6, -1], []], {}, ValueError, r"decoder_input_ids\[1\]: expected token ids in 0..334, found -1"),
    ([[335], [], []], {}, ValueError, r"\[0\]: expected token ids in 0..334, found 335"),
    ([[], [], [5] * 501], {}, ValueError, r"\[2\]: 501 tokens and 12 max_new_tokens are more than the 512"),
    ([["nope"], [], []], {}, ValueError, r"\[0\]: expected names of tokens in the vocabulary, found 'nope'"),
    ([["e", 5], [], []], {}, ValueError, r"\[0\]: expected names of tokens in the vocabulary, found 5"),
    ([[5], [], []], {"max_length": 9}, ValueError, "max_length and min_length would count them"),
    ([[5], [], []], {"min_length": 9}, ValueError, "max_length and min_length would count them"),
]


@pytest.mark.parametrize(("given", "options", "error", "message"), WRONG)
def test_a_wrong_prefix_is_refused_with_its_place(
    model: Seq2SeqModel, given: Any, options: dict[str, Any], error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        model.generate(TEXTS, GenerationOptions(**options), decoder_input_ids=given)


def test_a_prefix_may_fill_what_max_new_tokens_leave(model: Seq2SeqModel):
    options = GenerationOptions(max_new_tokens=12)
    [[found]] = model.generate(TEXTS[:1], options, decoder_input_ids=[[5] * 500])
    assert 500 < len(found.token_ids) <= 512
