"""Compiled models on disk, so that an accelerator compiles a graph once and not at every start.

A file `<name>-<key>.context` lies in a folder beside the bundle. `key` is a hash of everything that what it
holds depends on: graph, provider, its version and options, ONNX Runtime's version, device. Whatever changes,
the name is another one, and the file with the old one is removed. Content:

    32 bytes   SHA-256 of key and model
    the rest   the model, as ONNX Runtime writes it: one EPContext node with the provider's code in it

The hash finds damage, not malice: that code goes to the driver. Who can write to the folder must be trusted
as much as who can write to the bundle.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

SUFFIX = ".context"
FOLDER_SUFFIX = ".contexts"  # appended to the bundle's path
_HASH_SIZE = 32
_KEY_LENGTH = 32  # hexadecimal digits


def context_key(**facts: str | Mapping[str, str]) -> str:
    """The key of a model that depends on these facts."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]


def read_context(folder: Path, name: str, key: str) -> bytes | None:
    """The model; None if there is none, or a damaged one."""
    try:
        data = _path(folder, name, key).read_bytes()
    except OSError:
        return None
    digest, model = data[:_HASH_SIZE], data[_HASH_SIZE:]
    return model if digest == _digest(key, model) else None


def write_context(folder: Path, name: str, key: str, model: bytes) -> None:
    """Stores a model, complete or not at all, and removes those of the same name; raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = _path(folder, name, key)
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        with temporary.open("xb") as file:
            file.write(_digest(key, model))
            file.write(model)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    stale = f"{name}-{'?' * _KEY_LENGTH}{SUFFIX}"
    for other in folder.glob(stale):
        if other != path:
            other.unlink(missing_ok=True)


def remove_context(folder: Path, name: str, key: str) -> None:
    """Removes a model that does not load."""
    _path(folder, name, key).unlink(missing_ok=True)


def _path(folder: Path, name: str, key: str) -> Path:
    return folder / f"{name}-{key}{SUFFIX}"


def _digest(key: str, model: bytes) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(model)
    return digest.digest()
