"""What all attacks start from: the valid bundle, and ways to put changed parts of it together.

`ATTACKS` maps the name of an attack to how it is built and to the file that the error must name. The modules
beside this one fill it. Where an attack is about meaning, all hashes are repaired, so that only the check in
question can refuse it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edge_s2s.manifest import FileEntry, seal
from edge_s2s.stored_zip import write_zip
from tiny_bundle import tiny_files, tiny_keys, tiny_manifest

BUNDLE = "(the bundle)"  # stands for the path of the bundle itself
MANIFEST, WEIGHTS = "manifest.json", "decoder.weights"


@dataclass(frozen=True)
class Attack:
    """`build` makes the bundle in an empty folder and returns its path; the error must name `file`."""

    build: Callable[[Path], Path]
    file: str


ATTACKS: dict[str, Attack] = {}
KEYS = tiny_keys()
FILES = tiny_files(KEYS)


def make_document(files: Mapping[str, bytes] = FILES) -> dict:
    """The manifest of these files as JSON, without its digest."""
    listed = {name: FileEntry(len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}
    document = json.loads(replace(tiny_manifest(KEYS), files=listed).to_bytes())
    del document["digest"]
    return document


def make_contents(files: Mapping[str, bytes] = FILES, document: dict | None = None) -> dict[str, bytes]:
    """All files in the order of an .es2s, with hashes that are right unless `document` says otherwise."""
    return {MANIFEST: seal(document or make_document(files)), **dict(sorted(files.items()))}


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> Path:
    (folder / "tiny").mkdir()
    for name, data in contents.items():
        (folder / "tiny" / name).write_bytes(data)
    return folder / "tiny"


def write_archive(folder: Path, data: bytes) -> Path:
    (folder / "tiny.es2s").write_bytes(data)
    return folder / "tiny.es2s"


VALID = make_contents()
VALID_ZIP = b"".join(write_zip(VALID))


def flip(data: bytes, bit: int) -> bytes:
    """`data` with one bit flipped."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def add_folder(name: str, file: str, changes: Mapping[str, bytes | None]) -> None:
    """An attack by the files of a directory: `changes` replaces the bytes of some, or removes them."""
    contents = {name: data for name, data in {**VALID, **changes}.items() if data is not None}
    ATTACKS[name] = Attack(lambda folder: write_folder(folder, contents), file)


def add_zip(name: str, file: str, data: bytes) -> None:
    """An attack by the bytes of an .es2s."""
    ATTACKS[name] = Attack(lambda folder: write_archive(folder, data), file)
