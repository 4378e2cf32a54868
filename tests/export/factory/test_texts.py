"""Documents are what stands between empty lines, long lines are cut at sentences, missing files are named."""

from pathlib import Path

import pytest

from edge_s2s_export.errors import ExportError
from edge_s2s_export.factory.texts import FOLDER, LONG_LINE, TEXTS, documents, licences, sample, text_files

DIALOGUE = "A: Hi. How are you?\nB: Fine.\n\n\nA: Bye.\n"
SENTENCE = "This is a sentence of several words, with a comma. "
PROSE = "Title\n" + SENTENCE * (LONG_LINE // len(SENTENCE) + 1) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    zstandard = pytest.importorskip("zstandard")
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "talk-00.txt").write_text(DIALOGUE)
    (tmp_path / FOLDER / "talk-01.txt.zst").write_bytes(zstandard.compress(PROSE.encode()))
    (tmp_path / FOLDER / "SOURCES").write_text("no text")
    return tmp_path


def test_documents_are_lines_and_long_lines_are_sentences(folder: Path):
    found = [*documents(text_files(folder, ["talk-"]))]
    assert found[:2] == [["A: Hi. How are you?", "B: Fine."], ["A: Bye."]]
    assert found[2] == ["Title", *[SENTENCE.strip()] * (LONG_LINE // len(SENTENCE) + 1)]


def test_each_file_is_read_once_however_many_names_it_has(folder: Path):
    names = [path.name for path in text_files(folder, ["talk-00", "talk"])]
    assert names == ["talk-00.txt", "talk-01.txt.zst"]


def test_of_each_file_only_the_beginning_is_read(folder: Path):
    (folder / FOLDER / "big.txt").write_text("word " * 100_000 + "\n\n" + "word " * 150_000 + "\n\nlast")
    assert len([*documents(text_files(folder, ["big"]), max_mb=1)]) == 1
    assert len([*documents(text_files(folder, ["big"]))]) == 3
    assert len([*sample(text_files(folder, ["big", "talk-00"]), 1000)]) == 3


def test_missing_texts_name_where_they_are_public(folder: Path):
    with pytest.raises(ExportError, match=r"a file wiki2015-01\*\.txt\.zst, found none; .*wikiVisual"):
        text_files(folder, ["talk", "wiki2015-01"])


def test_a_damaged_file_is_named(folder: Path):
    (folder / FOLDER / "bad.txt.zst").write_bytes(b"no zstd")
    with pytest.raises(ExportError, match=r"bad\.txt\.zst: expected Zstandard"):
        [*documents(text_files(folder, ["bad"]))]


def test_every_text_has_a_licence():
    assert licences(["sgd_dialogues", "wiki2015-00"]) == [
        TEXTS["sgd_dialogues"].licence,
        TEXTS["wiki2015"].licence,
    ]
