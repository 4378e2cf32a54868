"""What `export/built` says of each bundle fits together: recipe, manifest, eval.json, model card, README."""

import hashlib
import json
from pathlib import Path

import pytest

from edge_s2s_export.factory.recipe import load_recipe

BUILT = Path(__file__).parents[2] / "export" / "built"
NAMES = sorted(folder.name for folder in BUILT.iterdir() if folder.is_dir())


@pytest.mark.parametrize("name", NAMES)
def test_a_built_bundle_is_of_its_recipe_and_passed_its_gates(name: str):
    recipe = load_recipe(name)
    manifest = json.loads((BUILT / name / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["name"], manifest["version"]) == (recipe.name, recipe.version)
    assert manifest["licence"]["weights"] == recipe.licence
    assert manifest["prefix"] == recipe.main.prefix
    for option in ("max_new_tokens", "num_beams", "no_repeat_ngram_size", "length_penalty"):
        assert manifest["generation"][option] == getattr(recipe.generation, option)
    task = json.loads((BUILT / name / "eval.json").read_text(encoding="utf-8"))["task"]
    assert {*task["sets"]} == {data.name for data in recipe.data}
    assert task["refused"] == []
    assert all(gate["passes"] for gate in task["gates"])


@pytest.mark.parametrize("name", NAMES)
def test_files_are_those_of_the_manifest_and_the_readme_has_a_section(name: str):
    manifest = json.loads((BUILT / name / "manifest.json").read_text(encoding="utf-8"))
    for file in ("eval.json", "MODEL_CARD.md"):
        content = (BUILT / name / file).read_bytes()
        assert manifest["files"][file] == {
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
        }
    assert f"\n## `{name}`\n" in (BUILT / "README.md").read_text(encoding="utf-8")
