"""CTranslate2's names mean our options, or say what to use; none is left without an answer."""

import dataclasses
import inspect

import pytest

from edge_s2s import GenerationOptions
from edge_s2s.ctranslate2_names import ALIASES, ALWAYS, INSTEAD

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
    ],
)
def test_an_alias_is_the_option(theirs: dict[str, object], ours: dict[str, object]):
    assert GenerationOptions(**theirs) == GenerationOptions(**ours)  # type: ignore[arg-type]


def test_two_names_of_one_option_are_refused():
    with pytest.raises(TypeError, match="beam_size and num_beams are one option; give num_beams"):
        GenerationOptions(beam_size=2, num_beams=2)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", INSTEAD)
def test_a_name_without_an_equal_says_what_to_use(name: str):
    with pytest.raises(TypeError, match=f"{name}: .* has no equal here; "):
        GenerationOptions(**{name: 1})  # type: ignore[arg-type]


def test_an_unknown_name_is_still_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'beams'"):
        GenerationOptions(beams=2)  # type: ignore[call-arg]


def test_every_alias_is_of_an_option_and_hides_none():
    assert set(ALIASES.values()) <= FIELDS
    assert not (ALIASES.keys() | ALWAYS | INSTEAD.keys()) & FIELDS


def test_the_signature_stays_that_of_the_options():
    assert inspect.signature(GenerationOptions).parameters.keys() == FIELDS
    options = GenerationOptions(beam_size=4)  # type: ignore[call-arg]
    assert dataclasses.replace(options, max_new_tokens=5) == GenerationOptions(num_beams=4, max_new_tokens=5)
