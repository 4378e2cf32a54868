"""Rows are what the files say, pairs pass their filters, and a bad file is named with its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from edge_s2s_export.errors import ExportError
from edge_s2s_export.factory.datasets import (
    DATA,
    OVERLAPPING,
    Pair,
    read_rows,
    swapped,
    train_pairs,
    valid_rows,
)
from edge_s2s_export.factory.recipe import load_recipe, parse_recipe, recipe_names


def write_set(folder: Path, name: str = "a", **splits: list[Any]) -> None:
    zstandard = pytest.importorskip("zstandard")
    (folder / name).mkdir(exist_ok=True)
    for split, rows in splits.items():
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        (folder / name / f"{split}.jsonl.zst").write_bytes(zstandard.compress(text.encode()))


def recipe_of(*sets: str):
    data = "".join(f"[[data]]\n{values}\n" for values in sets)
    trained = "network = {}\ntraining = { steps = 1 }\n"
    rest = f"[teacher]\n{trained}[student]\n{trained}"
    return parse_recipe(f'task = "t"\ngates = {{ max_size_mb = 1 }}\n{data}{rest}', "r")


ROWS = [
    {"id": "1", "source": "Anna pays 30.", "target": "Anna pays."},
    {"id": "2", "source": "Ben came.", "target": "Then Carla came."},
    {"id": "3", "source": "It was 4.", "target": "It was 5."},
    {"id": "4", "source": "Where?", "targets": ["Here.", "There."], "query": "Place"},
]


def test_rows_have_their_query_and_all_references(tmp_path: Path):
    write_set(tmp_path, valid=ROWS)
    rows = read_rows(tmp_path, "a", "valid")
    assert [row.id for row in rows] == ["1", "2", "3", "4"]
    assert rows[3].source == "Place\nWhere?"
    assert rows[3].targets == ("Here.", "There.")


def test_plain_files_are_read_too(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "valid.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    assert read_rows(tmp_path, "a", "valid")[0].targets == ("Anna pays.",)


def test_pairs_have_prefixes_and_repeat_and_follow_their_filters(tmp_path: Path):
    write_set(tmp_path, train=ROWS)
    write_set(tmp_path, "b", train=ROWS[:2])
    pairs = train_pairs(
        recipe_of(
            'name = "a"\nprefix = "p: "\nfilters = ["unsupported"]', 'name = "b"\nrepeat = 2\nmax_rows = 1'
        ),
        tmp_path,
    )
    assert pairs == [
        Pair("p: Anna pays 30.", "Anna pays."),
        Pair("p: Place\nWhere?", "Here."),
        Pair("p: Place\nWhere?", "There."),
        *[Pair("Anna pays 30.", "Anna pays.")] * 2,
    ]


def test_a_source_is_cut_before_filters_look_at_it_and_long_targets_are_left_out(tmp_path: Path):
    rows = [
        {"id": "1", "source": "Anna  pays.\nBen and Carla came.", "target": "It is Ben."},
        {"id": "2", "source": "Anna pays.\nThen Ben came.", "target": "It is Ben."},
        {"id": "3", "source": "Anna pays.", "target": "It is for Anna."},
    ]
    write_set(tmp_path, train=rows, valid=rows)
    recipe = recipe_of(
        'name = "a"\nprefix = "p: "\nfilters = ["unsupported"]\nmax_source_words = 3\nmax_target_words = 3'
    )
    assert train_pairs(recipe, tmp_path) == [Pair("p: Anna  pays.\nBen", "It is Ben.")]
    assert [row.source for row in valid_rows(recipe, tmp_path)] == [row["source"] for row in rows]


def test_rows_that_overlap_with_valid_are_left_out_of_training(tmp_path: Path):
    write_set(tmp_path, train=ROWS, valid=ROWS)
    (tmp_path / "a" / OVERLAPPING).write_text('["1", "3", "4"]')
    assert [pair.target for pair in train_pairs(recipe_of('name = "a"'), tmp_path)] == ["Then Carla came."]
    assert len(valid_rows(recipe_of('name = "a"'), tmp_path)) == 4


def test_slots_filter_leaves_out_what_says_other_facts(tmp_path: Path):
    mr = "name[Zizzi], food[French]"
    rows = [{"source": mr, "target": f"Zizzi serves {food} food."} for food in ("French", "Indian")]
    write_set(tmp_path, train=rows)
    pairs = train_pairs(recipe_of('name = "a"\nfilters = ["slots"]'), tmp_path)
    assert [pair.target for pair in pairs] == ["Zizzi serves French food."]


def test_a_blank_source_is_left_out_where_the_recipe_says_so_and_an_error_elsewhere(tmp_path: Path):
    write_set(tmp_path, train=[{"source": " ", "target": "y"}, {"source": "x", "target": "y"}])
    pairs = train_pairs(recipe_of('name = "a"\nfilters = ["blank"]'), tmp_path)
    assert pairs == [Pair("x", "y")]
    with pytest.raises(ExportError, match="line 1: expected a source, a text that is not blank; found ' '"):
        train_pairs(recipe_of('name = "a"'), tmp_path)
    write_set(tmp_path, train=[{"source": " ", "target": " "}])
    with pytest.raises(ExportError, match="line 1: expected a target"):
        train_pairs(recipe_of('name = "a"\nfilters = ["blank"]'), tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"source": "x"}, "line 2: expected a target, a text that is not blank; found None"),
        ({"source": "x", "target": " "}, "line 2: expected a target"),
        ({"source": "x", "targets": ["y", 3]}, "line 2: expected a target"),
        ({"target": "x"}, "line 2: expected a source"),
        ("[]", "line 2: expected a JSON object"),
        ("{", "line 2: expected a JSON object"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: Any, message: str):
    write_set(tmp_path, train=[ROWS[0], row])
    with pytest.raises(ExportError, match=message):
        read_rows(tmp_path, "a", "train")


def test_empty_and_damaged_files_and_filters_that_leave_nothing_are_refused(tmp_path: Path):
    write_set(tmp_path, train=[])
    with pytest.raises(ExportError, match="expected at least one row, found an empty file"):
        read_rows(tmp_path, "a", "train")
    (tmp_path / "a" / "train.jsonl.zst").write_bytes(b"no zstd")
    with pytest.raises(ExportError, match="expected Zstandard"):
        read_rows(tmp_path, "a", "train")
    write_set(tmp_path, train=[ROWS[2]])
    with pytest.raises(ExportError, match=r"found none of 1 that pass the filters unsupported"):
        train_pairs(recipe_of('name = "a"\nfilters = ["unsupported"]'), tmp_path)


def test_a_missing_set_names_where_it_is_public(tmp_path: Path):
    with pytest.raises(ExportError, match=r"e2e_nlg.*public at https://github.com/tuetschek/e2e-dataset"):
        read_rows(tmp_path, "e2e_nlg", "train")
    with pytest.raises(ExportError, match=r"found none$"):
        read_rows(tmp_path, "my_own", "train")


def test_every_set_of_a_shipped_recipe_has_an_origin():
    names = {data.name for name in recipe_names() for data in load_recipe(name).data}
    assert names <= {*DATA, "examples"}


def test_examples_need_no_file_and_valid_is_not_in_train(tmp_path: Path):
    train, valid = (read_rows(tmp_path, "examples", split) for split in ("train", "valid"))
    assert not {row.source for row in train} & {row.source for row in valid}
    assert all(row.source.startswith(row.targets[0]) for row in train + valid)


def test_swapped_pairs_have_the_next_name_for_each(tmp_path: Path):
    assert swapped("A1: hi, A2, A10 and A1", ["A1", "A2", "A10"]) == "A2: hi, A10, A1 and A2"
    write_set(tmp_path, train=[{"id": "1", "source": "Anna: hi Ben", "target": "Anna greets Ben."}])
    pairs = train_pairs(recipe_of('name = "a"\nprefix = "p: "\nswap = ["Anna", "Ben"]'), tmp_path)
    assert pairs == [Pair("p: Anna: hi Ben", "Anna greets Ben."), Pair("p: Ben: hi Anna", "Ben greets Anna.")]


def test_a_set_that_never_repeats_is_only_measured_on(tmp_path: Path):
    for name in ("a", "b"):
        row = {"id": name, "source": f"text of {name}", "target": "t"}
        write_set(tmp_path, name, train=[row], valid=[row])
    recipe = recipe_of('name = "a"', 'name = "b"\nrepeat = 0')
    assert [pair.source for pair in train_pairs(recipe, tmp_path)] == ["text of a"]
    assert [row.id for row in valid_rows(recipe, tmp_path)] == ["a", "b"]


def test_named_pairs_have_a_name_of_its_own_for_each_speaker(tmp_path: Path):
    write_set(tmp_path, train=[{"id": "1", "source": "#1#: hi\n#2#: oh, #1#", "target": "#1# greets #2#."}])
    recipe = recipe_of('name = "a"\nspeakers = ["#1#", "#2#"]\nnames = ["Ana", "Ben", "Li"]')
    given, renamed = train_pairs(recipe, tmp_path)
    first, greets, second = renamed.target.removesuffix(".").split()
    assert greets == "greets"
    assert first != second
    assert {first, second} <= {"Ana", "Ben", "Li"}
    assert renamed.source == f"{first}: hi\n{second}: oh, {first}"
    assert train_pairs(recipe, tmp_path) == [given, renamed]
