"""A bundle: everything one model needs, as a directory or as one file `*.es2s`, each byte verified.

    with open_bundle("summarizer.es2s") as bundle:
        bundle.manifest.prefix              # what every input starts with
        bundle.read("encoder.onnx")         # memoryview of bytes whose SHA-256 the manifest names
        bundle.weights.tensors              # views into decoder.weights

`manifest` says what `manifest.json` holds; it lists size and SHA-256 of every other file.

A directory holds the files as they are. Files that the manifest does not list are never opened. In the place
of a listed one a symbolic link is refused; a hard link is not, because stores share equal files that way.

An `.es2s` is a zip as `stored_zip` lays it out: manifest.json, then the other files in ascending order.

Opening hashes each file once, over the mapped bytes that are used later. A bundle must not change while open.
"""

import dataclasses
import errno
import hashlib
import mmap
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from edge_s2s.encoder_weights import read_encoder_weights
from edge_s2s.errors import BundleError
from edge_s2s.manifest import (
    GOLDEN,
    MANIFEST,
    FileEntry,
    Manifest,
    check_against_weights,
)
from edge_s2s.stored_zip import read_zip, write_zip
from edge_s2s.strict_json import build, parse_json, show
from edge_s2s.weights import FILE as WEIGHTS
from edge_s2s.weights import Weights, read_weights

SUFFIX = ".es2s"
MAX_GOLDEN_SIZE = 256 << 10
MAX_GOLDEN_CASES = 16


@dataclass(frozen=True)
class GoldenCase:
    """An input and what greedy decoding with the bundle's defaults must begin with.

    `token_ids` are the whole answer, EOS included, or its clear beginning.
    """

    text: str
    input_ids: tuple[int, ...]
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class _Golden:
    cases: tuple[GoldenCase, ...]


class Bundle:
    """An open, verified bundle, made by `open_bundle`. Close it, or use it as a context manager.

    `kind` is "directory" or "es2s". Views that it handed out stay valid after `close`: a mapped file is
    released with the last of them.
    """

    def __init__(
        self,
        path: Path,
        kind: Literal["directory", "es2s"],
        manifest: Manifest,
        weights: Weights,
        files: Mapping[str, memoryview],
    ) -> None:
        self.path = path
        self.kind = kind
        self.manifest = manifest
        self.weights = weights
        self._files = files

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, which has that of every other file."""
        return hashlib.sha256(self.read(MANIFEST)).hexdigest()

    def read(self, name: str) -> memoryview:
        """The verified bytes of a listed file, read-only; KeyError if there is no such file."""
        return self._files[name]

    def golden(self) -> tuple[GoldenCase, ...]:
        """The cases of golden.json, checked against the model's dimensions."""
        document = parse_json(self.read(GOLDEN), GOLDEN, MAX_GOLDEN_SIZE)
        golden = build(_Golden, document, GOLDEN)
        assert isinstance(golden, _Golden)
        if not 1 <= len(golden.cases) <= MAX_GOLDEN_CASES:
            raise BundleError(GOLDEN, f"1..{MAX_GOLDEN_CASES} cases", f"{len(golden.cases)}")
        dimensions = self.manifest.dimensions
        for i, case in enumerate(golden.cases):
            if any("\ud800" <= character <= "\udfff" for character in case.text):
                raise BundleError(GOLDEN, f"cases[{i}].text: Unicode text", "a lone surrogate")
            limits = {
                "input_ids": (dimensions.max_source_len, dimensions.n_source_tokens),
                "token_ids": (dimensions.max_target_len, dimensions.vocab_size),
            }
            for name, (limit, vocab_size) in limits.items():
                ids: tuple[int, ...] = getattr(case, name)
                if not 1 <= len(ids) <= limit or not all(0 <= token < vocab_size for token in ids):
                    expected = f"1..{limit} token ids below {vocab_size}"
                    raise BundleError(GOLDEN, f"cases[{i}].{name}: {expected}", show(ids))
        return golden.cases

    def close(self) -> None:
        """Lets go of the files; `read` then raises KeyError."""
        self._files = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Opens a directory or an .es2s and verifies all of it; raises BundleError for whatever is wrong."""
    path = Path(path)
    fd = _open(path, str(path))
    try:
        with _failures_are_the_files(str(path)):
            is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        if is_directory:
            files = {MANIFEST: _map_entry(MANIFEST, fd)}
        else:
            files = read_zip(_map(fd, str(path)), str(path))
            if next(iter(files)) != MANIFEST:
                raise BundleError(str(path), f"{MANIFEST} as its first entry", show(next(iter(files))))
        manifest = Manifest.from_bytes(files[MANIFEST])
        if is_directory:
            files |= {name: _map_entry(name, fd) for name in manifest.files}
        elif list(files) != [MANIFEST, *sorted(manifest.files)]:
            listed = f"the files that {MANIFEST} lists, in ascending order"
            raise BundleError(str(path), listed, ", ".join(files))
    finally:
        os.close(fd)
    for name, entry in manifest.files.items():
        if len(files[name]) != entry.size:
            raise BundleError(name, f"{entry.size} bytes", f"{len(files[name])} bytes")
        if (actual := hashlib.sha256(files[name]).hexdigest()) != entry.sha256:
            raise BundleError(
                name, f"SHA-256 {entry.sha256}", actual, hint="the file is damaged or was changed"
            )
    weights = read_weights(files[WEIGHTS])
    check_against_weights(manifest, weights.keys)
    for encoder in manifest.encoders:
        if encoder.kind == "native":
            _check_native_encoder(files[encoder.file], weights, manifest, encoder.file)
    for view in files.values():
        _let_go(view)
    return Bundle(path, "directory" if is_directory else "es2s", manifest, weights, files)


def _check_native_encoder(data: memoryview, decoder: Weights, manifest: Manifest, file: str) -> None:
    keys = read_encoder_weights(data, decoder.keys, file=file).keys
    for name, expected, found in (
        ("dimensions.n_encoder_layers", keys["n_layers"], manifest.dimensions.n_encoder_layers),
        ("quantization.encoder_weights", keys["weights_dtype"], manifest.quantization.encoder_weights),
    ):
        if expected != found:
            raise BundleError(MANIFEST, f"{name}: {show(expected)} as in {file}", show(found))


def _open(path: str | Path, file: str, *, flags: int = 0, dir_fd: int | None = None) -> int:
    with _failures_are_the_files(file):  # without O_NONBLOCK, opening a FIFO would wait for a writer
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | flags, dir_fd=dir_fd)


@contextmanager
def _failures_are_the_files(file: str) -> Iterator[None]:
    """Raises what the system answers as BundleError, or MemoryError."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError(f"{file}: {error.strerror}") from error
        found = "a symbolic link" if error.errno == errno.ELOOP else str(error.strerror)
        raise BundleError(file, "a file or directory that can be read", found) from error


def _map_entry(name: str, dir_fd: int) -> memoryview:
    fd = _open(name, name, flags=os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        return _map(fd, name)
    finally:
        os.close(fd)


def _map(fd: int, file: str) -> memoryview:
    with _failures_are_the_files(file):
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(file, "a regular file", stat.filemode(status.st_mode))
        if status.st_size == 0:  # which cannot be mapped
            return memoryview(b"")
        return memoryview(mmap.mmap(fd, status.st_size, access=mmap.ACCESS_READ))


def _let_go(view: memoryview) -> None:
    """The pages of a mapping that was read are this process's memory no longer, until it reads them again."""
    if isinstance(view.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        view.obj.madvise(mmap.MADV_DONTNEED)


def write_bundle(
    path: str | os.PathLike[str], manifest: Manifest, files: Mapping[str, bytes], *, replace: bool = False
) -> None:
    """Writes a bundle, as an .es2s if `path` ends so, else as a directory, and reads it back first.

    `path` then is the complete new bundle, or what it was before, whatever happens in between; only when a
    directory is replaced is there an instant without either, and a power cut then leaves the old one beside
    it under a hidden name. The bytes depend on the arguments alone. Sizes and hashes in the manifest are
    filled in here. Raises FileExistsError if there is something at `path`, unless it is a bundle of the
    same kind and `replace` is set, and BundleError if the result would not open.
    """
    path = Path(path)
    _check_target(path, replace)
    listed = {
        name: FileEntry(len(files[name]), hashlib.sha256(files[name]).hexdigest()) for name in sorted(files)
    }
    manifest = dataclasses.replace(manifest, files=listed)
    contents = {MANIFEST: manifest.to_bytes(), **{name: files[name] for name in listed}}
    Manifest.from_bytes(contents[MANIFEST])  # before any name becomes a path
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        if path.suffix == SUFFIX:
            _write_file(temporary, write_zip(contents))
        else:
            temporary.mkdir()
            for name, data in contents.items():
                _write_file(temporary / name, [data])
            _sync(temporary)
        with open_bundle(temporary) as written:
            written.golden()
        _check_target(path, replace)
        _move(temporary, path)
    finally:
        _remove(temporary)


def _check_target(path: Path, replace: bool) -> None:
    if not os.path.lexists(path):
        return
    if path.suffix == SUFFIX:
        same_kind = path.is_file()
    else:
        same_kind = (path / MANIFEST).is_file() and not path.is_symlink()
        same_kind = same_kind and all(file.is_file() for file in path.iterdir())
    if not (replace and same_kind):
        hint = "pass replace=True to replace it" if same_kind else "and it is no bundle of that kind"
        raise FileExistsError(f"{path} exists; {hint}")


def _write_file(path: Path, parts: Iterable[bytes]) -> None:
    with path.open("xb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _move(temporary: Path, path: Path) -> None:
    """Puts the finished bundle in its place, and what was there out of the way."""
    old = temporary.with_name(f"{temporary.name}.old")
    if not path.is_dir():
        temporary.replace(path)
        _sync(path.parent)
        return
    path.rename(old)  # a directory cannot be renamed over another
    try:
        temporary.rename(path)
    except OSError:
        old.rename(path)
        raise
    try:
        _sync(path.parent)
    finally:
        _remove(old)


def _remove(path: Path) -> None:
    """Removes a bundle, if it is there; never what lies deeper than a bundle does."""
    if path.is_dir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
