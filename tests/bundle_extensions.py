"""A bundle as it is, with other extensions in its manifest."""

import dataclasses
from pathlib import Path

from edge_s2s.bundle import open_bundle, write_bundle


def with_extensions(bundle: Path, path: Path, **extensions: object) -> Path:
    """Writes a copy of a bundle to `path` and returns that."""
    with open_bundle(bundle) as opened:
        manifest = dataclasses.replace(opened.manifest, extensions=extensions)
        files = {name: bytes(opened.read(name)) for name in manifest.files}
    write_bundle(path, manifest, files)
    return path
