"""A recipe is what its file says, or an error that names the place."""

import re

import pytest

from edge_s2s_export.errors import ExportError
from edge_s2s_export.factory.networks import Network
from edge_s2s_export.factory.recipe import DataSet, load_recipe, parse_recipe, recipe_names

SMALL = """
task = "t"
gates = { max_size_mb = 3 }
[[data]]
name = "a"
[teacher]
network = { d_model = 128 }
training = { steps = 5 }
[student]
network = { d_model = 128, num_layers = 2 }
training = { steps = 4, dropout = 0 }
"""


def test_values_have_their_types_and_defaults():
    recipe = parse_recipe(SMALL, "small")
    assert (recipe.name, recipe.version, recipe.main) == ("small", "1.0.0", DataSet("a"))
    assert recipe.teacher.network == Network(d_model=128)
    assert recipe.student
    assert recipe.student.network.num_layers == 2
    assert type(recipe.student.training.dropout) is float
    assert type(recipe.gates.max_size_mb) is float
    assert recipe.pseudo_labels is None


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_valid(name: str):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.licence != "NOASSERTION"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_layers = 2", "num_layer = 2", "student.network.num_layer: no such key; did you mean 'num_l"),
        ("num_layers = 2", "zzz = 2", "student.network.zzz: no such key; known: d_ff, d_model"),
        ("steps = 4", 'steps = "4"', "student.training.steps: expected a whole number, found '4'"),
        ("steps = 4", "steps = true", "student.training.steps: expected a whole number, found True"),
        ("steps = 4", "steps = 0", "student.training.steps: expected at least 1, found 0"),
        ("steps = 4, ", "", "student.training.steps: expected it, found no such key"),
        ('name = "a"', 'name = "a"\nfilters = ["slot"]', "data[0].filters[0]: expected 'blank' or 'unsup"),
        ("[[data]]", "[data]", "data: expected a list, found {'name': 'a'}"),
        ('task = "t"', "task = ", "expected TOML"),
        ('task = "t"', 'task = "t"\nname = "x"', "name: remove it"),
        ("[teacher]", '[teacher]\ninit = "x"', "expected a network to train from new weights, or init"),
        ("network = { d_model = 128 }\n", "", "expected a network to train from new weights, or init"),
        ("network = { d_model = 128 }\n", 'init = "x"\n', "tokenizer.folder: expected 'x'"),
        ("training = { steps = 5 }", "", "teacher.training: expected it"),
        ("[student]\nnetwork = { d_model = 128, num_layers = 2 }\ntraining = { steps = 4, dropout = 0 }",
         "[pseudo_labels]", "pseudo_labels: expected a student"),
        ('name = "a"', 'name = "a"\nspeakers = ["A", "B"]\nnames = ["C"]', "data[0].names: expected a name"),
        ("[teacher]", '[pretraining]\ntexts = ["a"]\ntraining.steps = 1\n[teacher]', "n_extra_ids of at"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_place(old: str, new: str, message: str):
    assert old in SMALL
    with pytest.raises(ExportError, match=rf"^small\.toml: .*{re.escape(message)}"):
        parse_recipe(SMALL.replace(old, new, 1), "small")


def test_a_file_is_a_recipe_of_its_name(tmp_path):
    (tmp_path / "mine.toml").write_text(SMALL)
    assert load_recipe(str(tmp_path / "mine.toml")).name == "mine"
    with pytest.raises(ExportError, match="no such file"):
        load_recipe(str(tmp_path / "other.toml"))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ExportError, match=r"'nothing' is unknown; known: .*e2e-data-to-text.*tiny"):
        load_recipe("nothing")
