"""Plain text for pretraining: files of the data folder's `pretrain/`, documents of sentences or turns.

A file is UTF-8, `.txt` or `.txt.zst`; an empty line ends a document. `TEXTS` names where each is public.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TextIO

from edge_s2s_export.errors import ExportError

from .datasets import Origin

FOLDER = "pretrain"
LONG_LINE = 300  # characters, from which on a line is cut into its sentences
TEXTS = {  # begin of a file's name -> origin
    "sgd_dialogues": Origin(
        "https://github.com/google-research-datasets/dstc8-schema-guided-dialogue",
        "Schema-Guided Dialogue, CC BY-SA 4.0",
    ),
    "changelog": Origin("https://github.com/thechangelog/transcripts", "Changelog transcripts, CC BY-SA 4.0"),
    "openstax": Origin("https://github.com/openstax", "OpenStax textbooks, CC BY 4.0"),
    "usgov": Origin("https://github.com/GSA/digitalgov.gov and 18F/18f.gsa.gov", "Digital.gov, 18F, CC0-1.0"),
    "techdocs": Origin(
        "https://github.com/rust-lang/rfcs, ethereum/EIPs, kubernetes/enhancements and python/peps",
        "Technical documents, CC0, Apache-2.0, MIT",
    ),
    "wiki2015": Origin("https://github.com/jason-feng/wikiVisual", "Wikipedia of May 2015, CC BY-SA 3.0"),
}
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")


def text_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """The files that begin with one of the names, each once. Raises `ExportError` if there is none of one."""
    found: dict[Path, None] = {}
    for name in names:
        files = sorted(path for path in (folder / FOLDER).glob("*.txt*") if path.name.startswith(name))
        if not files:
            known = [origin.url for text, origin in TEXTS.items() if name.startswith(text)]
            public = f"; it is public at {known[0]}" if known else ""
            raise ExportError(f"{folder / FOLDER}: expected a file {name}*.txt.zst, found none{public}")
        found |= dict.fromkeys(files)
    return [*found]


def documents(files: Iterable[Path], *, max_mb: int = 0) -> Iterator[list[str]]:
    """Documents as lists of sentences or turns, of each file the first `max_mb` million characters."""
    for path in files:
        n_chars = 0
        for document in _of_file(path):
            n_chars += sum(map(len, document))
            if max_mb and n_chars > max_mb * 1_000_000:
                break
            yield document


def licences(names: Sequence[str]) -> list[str]:
    """A line for each source."""
    return [origin.licence for text, origin in TEXTS.items() if any(name.startswith(text) for name in names)]


def _of_file(path: Path) -> Iterator[list[str]]:
    document: list[str] = []
    with _open(path) as file:
        for line in file:
            if stripped := line.strip():
                document += _SENTENCE_END.split(stripped) if len(stripped) > LONG_LINE else [stripped]
            elif document:
                yield document
                document = []
    if document:
        yield document


@contextmanager
def _open(path: Path) -> Iterator[TextIO]:
    if path.suffix != ".zst":
        with path.open(encoding="utf-8") as file:
            yield file
        return
    import zstandard

    try:
        with zstandard.open(path, "rt", encoding="utf-8") as file:
            yield file
    except (zstandard.ZstdError, UnicodeDecodeError) as error:
        raise ExportError(f"{path}: expected Zstandard with text in UTF-8; {error}") from error


def sample(files: Sequence[Path], n_chars: int) -> Iterator[str]:
    """The first documents of each file, so many characters, as lines."""
    for path in files:
        left = n_chars
        for document in islice(_of_file(path), n_chars):
            if left <= 0:
                break
            text = "\n".join(document)
            left -= len(text)
            yield text
