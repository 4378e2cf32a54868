"""CTranslate2's names mean our options, or say what to use; none is left without an answer."""

import dataclasses
import inspect

import pytest

from edge_s2s import GenerationOptions
from edge_s2s.ctranslate2_names import ALIASES, ALWAYS, INSTEAD, MEANINGS

FIELDS = {field.name for field in dataclasses.fields(GenerationOptions)}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"beam_size": 3}, {"num_beams": 3}),
        ({"beam_size": 3, "num_hypotheses": 2}, {"num_beams": 3, "num_return_sequences": 2}),
        ({"max_decoding_length": 9, "min_decoding_length": 2}, {"max_new_tokens": 9, "min_new_tokens": 2}),
        ({"suppress_sequences": [[3, 4]]}, {"bad_words_ids": [[3, 4]]}),
        ({"length_penalty": 0.6, "return_scores": True}, {"length_penalty": 0.6}),
        ({"beam_size": 3, "num_beams": None}, {"num_beams": 3}),
        ({"sampling_topk": 1}, {"do_sample": False}),
        ({"sampling_topk": 0}, {"do_sample": True, "top_k": 0}),
        ({"sampling_topk": 7, "sampling_topp": 0.9}, {"do_sample": True, "top_k": 7, "top_p": 0.9}),
        ({"sampling_temperature": 0.7}, {"temperature": 0.7}),  # greedy still, as there
        (
            {"sampling_temperature": 0.7, "sampling_topk": 5},
            {"do_sample": True, "top_k": 5, "temperature": 0.7},
        ),
        ({"sampling_temperature": 0, "sampling_topk": 5}, {"do_sample": False, "top_k": 5}),
    ],
)
def test_an_alias_is_the_option(theirs: dict[str, object], ours: dict[str, object]):
    assert GenerationOptions(**theirs) == GenerationOptions(**ours)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("beam_size", "num_beams"), ("sampling_topk", "do_sample"), ("sampling_topk", "top_k")],
)
def test_two_names_of_one_option_are_refused(theirs: str, ours: str):
    with pytest.raises(TypeError, match=f"{theirs} and {ours} are one option; give {ours}"):
        GenerationOptions(**{theirs: 2, ours: 2})  # type: ignore[arg-type]


def test_a_wrong_value_of_an_alias_is_refused():
    for wrong in ("5", 2.5, -1):
        with pytest.raises(ValueError, match="top_k: expected an integer"):
            GenerationOptions(sampling_topk=wrong)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", INSTEAD)
def test_a_name_without_an_equal_says_what_to_use(name: str):
    with pytest.raises(TypeError, match=f"{name}: .* has no equal here; "):
        GenerationOptions(**{name: 1})  # type: ignore[arg-type]


def test_an_unknown_name_is_still_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'beams'"):
        GenerationOptions(beams=2)  # type: ignore[call-arg]


def test_every_alias_is_of_an_option_and_hides_none():
    meanings = [MEANINGS[name](value) for name in MEANINGS for value in (0, 1, 2)]
    assert set(ALIASES.values()).union(*meanings) <= FIELDS
    assert not (ALIASES.keys() | MEANINGS.keys() | ALWAYS | INSTEAD.keys()) & FIELDS


def test_the_signature_stays_that_of_the_options():
    assert inspect.signature(GenerationOptions).parameters.keys() == FIELDS
    options = GenerationOptions(beam_size=4)  # type: ignore[call-arg]
    assert dataclasses.replace(options, max_new_tokens=5) == GenerationOptions(num_beams=4, max_new_tokens=5)
