"""Slot errors of sentences whose faults are known, and of what people wrote."""

import pytest

from edge_s2s_export.factory.slots import parse_mr, slot_error_rate, slot_errors

MR = (
    "name[Raja Inn], eatType[pub], food[French], priceRange[less than £20], customer rating[5 out of 5],"
    " area[riverside], familyFriendly[no], near[Café Rouge]"
)
RIGHT = (
    "Raja Inn is a French pub near Café Rouge by the river."
    " It is rated 5 out of 5, costs less than £20 and is not family-friendly."
)


def test_a_meaning_representation_is_read_whole_or_not_at_all():
    assert parse_mr("name[A, B], customer rating[1 out of 5]") == {
        "name": "A, B",
        "customer rating": "1 out of 5",
    }
    assert parse_mr("Anna pays 30.") == {}
    assert parse_mr("name[A] and more") == {}


def test_a_right_sentence_has_no_errors():
    assert slot_errors(MR, RIGHT) == set()


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("Raja Inn", "Raya Inn", {"name"}),
        ("pub", "house", {"eatType"}),
        ("French", "Italian", {"food"}),
        ("French ", "", {"food"}),
        ("less than £20", "more than £30", {"priceRange"}),
        ("5 out of 5", "1 out of 5", {"customer rating"}),
        ("by the river", "in the city centre", {"area"}),
        ("by the river", "by the river in the city centre", {"area"}),
        ("not family-friendly", "family-friendly", {"familyFriendly"}),
        ("near Café Rouge ", "", {"near"}),
    ],
)
def test_a_fault_is_found_in_its_slot_alone(old: str, new: str, wrong: set[str]):
    assert old in RIGHT
    assert slot_errors(MR, RIGHT.replace(old, new)) == wrong


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ("familyFriendly[yes]", "Children are welcome at Zizzi."),
        ("familyFriendly[no]", "Zizzi is for adults only."),
        ("familyFriendly[no]", "Zizzi isn't good for families."),
        ("priceRange[£20-25]", "Zizzi costs between £20 and £25."),
        ("priceRange[high]", "Zizzi is pricey."),
        ("priceRange[moderate]", "Zizzi is mid-priced, with moderate prices."),
        ("customer rating[low]", "Zizzi has poor reviews."),
        ("customer rating[3 out of 5]", "Zizzi has three stars."),
        ("customer rating[high]", "Zizzi is highly rated."),
        ("area[city centre]", "Zizzi is in the center of the city."),
        ("food[Fast food]", "Zizzi sells fast-food."),
        ("near[Raja Indian Cuisine]", "Zizzi is next to Raja Indian Cuisine."),
    ],
)
def test_usual_phrasings_are_understood(facts: str, sentence: str):
    assert slot_errors(f"name[Zizzi], {facts}", sentence) == set()


@pytest.mark.parametrize(
    "added", ["It is by the river.", "It serves Indian food.", "It is kid friendly.", "It is near The Mill."]
)
def test_facts_that_nobody_gave_count(added: str):
    assert len(slot_errors("name[Zizzi], eatType[pub]", f"Zizzi is a pub. {added}")) == 1


def test_the_rate_is_wrong_slots_over_slots():
    mrs = ["name[Zizzi], food[Indian]", "name[Aromi], area[riverside]"]
    errors = slot_error_rate(mrs, ["Zizzi is French.", "Aromi is by the river."])
    assert (errors.n_slots, errors.n_wrong, errors.rate) == (4, 1, 0.25)
