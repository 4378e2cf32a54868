"""Options are checked in one place, with sentences, and merged with the bundle's defaults."""

import dataclasses
import typing

import pytest
from transformers import GenerationConfig

from edge_s2s import GenerationOptions
from edge_s2s.manifest import Dimensions, GenerationDefaults
from tiny_bundle import tiny_keys

KEYS = tiny_keys()
DEFAULTS = GenerationDefaults.from_keys(KEYS, suppress_tokens=(3,), bad_words_ids=((4, 5),))
DIMENSIONS = Dimensions.from_keys(KEYS, n_encoder_layers=2)  # 20 tokens, 16 new ones


def complete(**options: object) -> GenerationDefaults:
    return GenerationOptions(**options).complete(DEFAULTS, DIMENSIONS)  # type: ignore[arg-type]


def test_options_have_transformers_names_but_for_our_own():
    ours = {"careful", "checks", "deadline_ms", "seed", "source_language", "target_language"}
    names = {field.name for field in dataclasses.fields(GenerationOptions)} - ours
    assert names <= vars(GenerationConfig()).keys() | {"num_beam_groups", "diversity_penalty"}


def test_no_options_are_the_bundles_defaults():
    assert complete() == DEFAULTS


SAMPLING = {"do_sample": True, "temperature": 0.5, "top_k": 7, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.8}
GROUPS = {"num_beam_groups": 3, "diversity_penalty": 0.5}  # which go with no sampling


@pytest.mark.parametrize("more", [SAMPLING, GROUPS], ids=["sampling", "groups"])
def test_every_option_that_is_given_replaces_its_default(more: dict[str, object]):
    given = {
        "num_beams": 3,
        "num_return_sequences": 3,
        "max_new_tokens": 7,
        "min_new_tokens": 2,
        "early_stopping": True,
        "length_penalty": -1.5,
        "repetition_penalty": 1.25,
        "no_repeat_ngram_size": 4,
        "bad_words_ids": ((7, 8), (9,)),
        "suppress_tokens": (),
        "forced_bos_token_id": 5,
        "forced_eos_token_id": 6,
        "begin_suppress_tokens": (1, 2),
        "encoder_repetition_penalty": 1.5,
        "encoder_no_repeat_ngram_size": 3,
        "exponential_decay_length_penalty": (4, 1.5),
        "sequence_bias": (((4, 5), -2.5), ((6,), 1.0)),
        "renormalize_logits": True,
        "prompt_lookup_num_tokens": 4,
        **more,
    }
    names = {field.name for field in dataclasses.fields(GenerationDefaults)}
    assert given.keys() | SAMPLING.keys() | GROUPS.keys() == names
    assert all(getattr(DEFAULTS, name) != value for name, value in given.items())
    assert dataclasses.asdict(complete(**given)) == dataclasses.asdict(DEFAULTS) | given


def test_lengths_that_count_the_start_token_are_one_more():
    assert complete(max_length=8, min_length=4) == dataclasses.replace(
        DEFAULTS, max_new_tokens=7, min_new_tokens=3
    )
    assert complete(min_length=0).min_new_tokens == 0


def test_minus_one_switches_a_forced_token_off():
    assert DEFAULTS.forced_eos_token_id == 1
    assert complete(forced_eos_token_id=-1).forced_eos_token_id is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"suppress_tokens": 3}, "suppress_tokens: expected a list of token ids, found 3"),
        ({"suppress_tokens": [1.5]}, r"suppress_tokens: expected a list of token ids, found \[1\.5\]"),
        ({"bad_words_ids": 3}, "bad_words_ids: expected lists of token ids, found 3"),
        ({"bad_words_ids": [3]}, "bad_words_ids: expected a list of token ids, found 3"),
        ({"begin_suppress_tokens": 3}, "begin_suppress_tokens: expected a list of token ids, found 3"),
        ({"sequence_bias": 3}, "sequence_bias: expected a dict from token sequences to numbers, found 3"),
        ({"sequence_bias": [(1, 2, 3)]}, "sequence_bias: expected a dict from token sequences to numbers"),
        ({"sequence_bias": {3: 1.0}}, "sequence_bias: expected a list of token ids, found 3"),
        ({"exponential_decay_length_penalty": 2}, r"expected \(start, factor\), found 2"),
        ({"exponential_decay_length_penalty": (2,)}, r"expected \(start, factor\), found \(2,\)"),
        ({"bad_words_ids": ["ab"]}, "bad_words_ids: expected a list of token ids, found 'ab'"),
    ],
)
def test_what_is_no_list_of_tokens_is_a_type_error_that_names_the_option(
    options: dict[str, object], sentence: str
):
    with pytest.raises(TypeError, match=sentence):
        GenerationOptions(**options)


def test_a_default_gives_way_to_an_option():
    assert (DEFAULTS.num_beams, DEFAULTS.num_return_sequences) == (4, 2)
    assert complete(num_beams=1).num_return_sequences == 1
    defaults = dataclasses.replace(DEFAULTS, min_new_tokens=5)
    assert GenerationOptions(max_new_tokens=3).complete(defaults, DIMENSIONS).min_new_tokens == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences is 3 but num_beams is 2"),
        ({"num_return_sequences": 5}, "num_return_sequences is 5 but num_beams, by default, is 4"),
        ({"min_new_tokens": 6, "max_new_tokens": 5}, "min_new_tokens is 6 but max_new_tokens is 5"),
        ({"min_length": 8, "max_length": 7}, "min_new_tokens is 7 but max_new_tokens is 6"),
        ({"min_new_tokens": 13}, "min_new_tokens is 13 but max_new_tokens, by default, is 12"),
        ({"max_new_tokens": 5, "max_length": 6}, "max_new_tokens and max_length mean the same"),
        ({"min_new_tokens": 5, "min_length": 6}, "min_new_tokens and min_length mean the same"),
        ({"max_new_tokens": 17}, "max_new_tokens is 17 but this model generates at most 16"),
        ({"max_length": 18}, "max_new_tokens is 17 but this model generates at most 16"),
        ({"suppress_tokens": [19, 20]}, "suppress_tokens: expected token ids below 20, found 20"),
        ({"bad_words_ids": [[1], [20, 3]]}, "bad_words_ids: expected token ids below 20, found 20"),
        ({"forced_bos_token_id": 20}, "forced_bos_token_id: expected token ids below 20, found 20"),
        ({"num_beams": 0}, r"num_beams: expected an integer in 1\.\.64, found 0"),
        ({"num_beams": 2.0}, r"num_beams: expected an integer in 1\.\.64, found 2\.0"),
        ({"num_beams": True}, "num_beams: expected an integer .* found True"),
        ({"max_new_tokens": 0}, "max_new_tokens: expected an integer"),
        ({"max_length": 1}, "max_length: expected an integer"),
        ({"min_new_tokens": -1}, "min_new_tokens: expected an integer"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size: expected an integer"),
        ({"deadline_ms": 0}, "deadline_ms: expected an integer"),
        ({"length_penalty": float("nan")}, "length_penalty: expected a number in -100..100, found nan"),
        ({"length_penalty": "1"}, "length_penalty: expected a number"),
        ({"repetition_penalty": 0.0}, "repetition_penalty: expected a number"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty: expected a number"),
        ({"early_stopping": "always"}, 'early_stopping: expected True, False or "never"'),
        ({"early_stopping": 1}, 'early_stopping: expected True, False or "never"'),
        ({"bad_words_ids": [[1], []]}, "bad_words_ids: expected sequences of tokens, found an empty one"),
        ({"bad_words_ids": [[-1]]}, "bad_words_ids: expected an integer"),
        ({"suppress_tokens": [-1]}, "suppress_tokens: expected an integer"),
        ({"forced_eos_token_id": -2}, "forced_eos_token_id: expected an integer"),
        ({"begin_suppress_tokens": [20]}, "begin_suppress_tokens: expected token ids below 20, found 20"),
        ({"encoder_repetition_penalty": 0.0}, "encoder_repetition_penalty: expected a number"),
        ({"encoder_no_repeat_ngram_size": -1}, "encoder_no_repeat_ngram_size: expected an integer"),
        ({"sequence_bias": {(20,): 1.0}}, "sequence_bias: expected token ids below 20, found 20"),
        ({"sequence_bias": {(): 1.0}}, "sequence_bias: expected sequences of tokens, found an empty one"),
        ({"sequence_bias": {(1,): float("nan")}}, "sequence_bias: expected a number"),
        ({"sequence_bias": {(1,): float("-inf")}}, r"sequence_bias: expected a number in -1e\+06\.\.1e\+06"),
        ({"sequence_bias": {(1,): None}}, "sequence_bias: expected a number .* found None"),
        ({"exponential_decay_length_penalty": (-1, 2.0)}, "length_penalty, start: expected an integer"),
        ({"exponential_decay_length_penalty": (1, 0.0)}, "length_penalty, factor: expected a number"),
        ({"exponential_decay_length_penalty": (1.5, 2.0)}, "length_penalty, start: expected an integer"),
        ({"suppress_tokens": [1] * ((1 << 20) + 1)}, "suppress_tokens: expected at most 1048576 tokens"),
    ],
)  # fmt: skip
def test_wrong_or_contradicting_options_are_named_in_a_sentence(options: dict[str, object], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        complete(**options)


def test_options_are_frozen_and_hashable():
    options = GenerationOptions(bad_words_ids=[[1, 2]], suppress_tokens=[3])
    assert options == GenerationOptions(bad_words_ids=((1, 2),), suppress_tokens=(3,))
    assert hash(options) == hash(GenerationOptions(bad_words_ids=((1, 2),), suppress_tokens=(3,)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.num_beams = 2  # type: ignore[misc]


def test_a_sequence_bias_is_a_dict_or_the_list_that_json_has_for_one():
    as_dict = GenerationOptions(sequence_bias={(1, 2): 3, (4,): -1.5})
    as_list = GenerationOptions(sequence_bias=[([1, 2], 3.0), ([4], -1.5)])
    assert as_dict == as_list
    assert hash(as_dict) == hash(as_list)
    assert as_dict.sequence_bias == (((1, 2), 3.0), ((4,), -1.5))


def test_every_option_may_be_none():
    hints = typing.get_type_hints(GenerationOptions)
    assert all(type(None) in typing.get_args(hint) for hint in hints.values())
    assert all(getattr(GenerationOptions(), name) is None for name in hints)
