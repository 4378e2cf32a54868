import dataclasses
import hashlib
import json
import tomllib
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given, settings

from edge_s2s.errors import BundleError
from edge_s2s.manifest import RUNTIME_VERSION, FileEntry, Manifest, seal
from json_values import json_values
from tiny_bundle import tiny_files, tiny_keys, tiny_manifest, write_tiny_bundle

KEYS = tiny_keys()
FILES = tiny_files(KEYS)
MANIFEST = tiny_manifest(KEYS)


def test_a_manifest_survives_writing_and_reading():
    files = {name: FileEntry(1, "ab" * 32) for name in FILES}
    manifest = dataclasses.replace(MANIFEST, files=files)
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


def test_a_manifest_is_json_that_describes_its_own_hash(tmp_path):
    data = (write_tiny_bundle(tmp_path / "tiny") / "manifest.json").read_bytes()
    document = json.loads(data)
    assert (
        hashlib.sha256(data.replace(document["digest"].encode(), b"0" * 64)).hexdigest() == document["digest"]
    )
    assert document["schema"] == "edge-s2s-bundle/1"
    assert document["generation"]["early_stopping"] == "never"
    assert document["generation"]["forced_bos_token_id"] is None
    assert document["special_tokens"] == {"decoder_start": 0, "eos": 1, "pad": None, "unk": 2}
    assert list(document) == sorted(document)


def test_the_runtime_version_is_the_version_of_the_package():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["version"] == RUNTIME_VERSION


@given(value=json_values, where=st.data())
@settings(max_examples=300, deadline=None)
def test_any_value_anywhere_in_a_manifest_loads_or_raises_bundle_error(value, where):
    files = {name: FileEntry(1, "ab" * 32) for name in FILES}
    document = json.loads(dataclasses.replace(MANIFEST, files=files).to_bytes())
    del document["digest"]
    target = document
    while True:
        key = where.draw(st.sampled_from(sorted(target) if isinstance(target, dict) else range(len(target))))
        if not isinstance(target[key], dict | list) or not target[key] or where.draw(st.booleans()):
            break
        target = target[key]
    target[key] = value
    data = seal(document)
    try:
        manifest = Manifest.from_bytes(data)
    except BundleError:
        return
    assert manifest.to_bytes() == data
