"""What was compiled is found again exactly while nothing it depends on has changed."""

from pathlib import Path

import pytest

from edge_s2s.context_cache import context_key, read_context, remove_context, write_context

FACTS = {"graph": "ab", "provider": "QNN", "version": "2.7", "options": {"a": "1", "b": "2"}}
KEY = context_key(**FACTS)


def test_what_was_written_is_read(tmp_path: Path):
    assert read_context(tmp_path / "new", "encoder", KEY) is None
    write_context(tmp_path / "new", "encoder", KEY, b"model")
    assert read_context(tmp_path / "new", "encoder", KEY) == b"model"
    assert read_context(tmp_path / "new", "other", KEY) is None
    remove_context(tmp_path / "new", "encoder", KEY)
    assert read_context(tmp_path / "new", "encoder", KEY) is None


def test_every_fact_changes_the_key_and_their_order_does_not():
    changed = [{**FACTS, name: "other"} for name in FACTS]
    changed.append({**FACTS, "options": {"a": "2", "b": "1"}})
    assert len({KEY, *(context_key(**facts) for facts in changed)}) == 1 + len(changed)
    assert context_key(**{**FACTS, "options": {"b": "2", "a": "1"}}) == KEY


def test_what_is_stale_is_removed_when_it_is_replaced_and_nothing_else(tmp_path: Path):
    other = context_key(**{**FACTS, "version": "2.8"})
    for name, key in (("encoder-128", KEY), ("encoder-1", KEY), ("encoder-128", other)):
        write_context(tmp_path, name, key, b"model")
    assert read_context(tmp_path, "encoder-128", KEY) is None
    assert read_context(tmp_path, "encoder-128", other) == b"model"
    assert read_context(tmp_path, "encoder-1", KEY) == b"model"
    assert len([*tmp_path.iterdir()]) == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "rename"])
def test_a_damaged_file_is_none(tmp_path: Path, damage: str):
    write_context(tmp_path, "encoder", KEY, b"model")
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    other = context_key(**{**FACTS, "graph": "cd"})
    if damage == "flip":
        path.write_bytes(data[:-1] + b"X")
    elif damage == "cut":
        path.write_bytes(data[:-1])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.rename(tmp_path / path.name.replace(KEY, other))
    assert read_context(tmp_path, "encoder", KEY) is None
    assert read_context(tmp_path, "encoder", other) is None
