import io
import zipfile

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from edge_s2s import stored_zip
from edge_s2s.errors import BundleError
from edge_s2s.stored_zip import MAX_ENTRIES, NAME, read_zip, write_zip

contents = st.dictionaries(
    st.from_regex(NAME, fullmatch=True), st.binary(max_size=300), min_size=1, max_size=8
)


@given(contents)
@settings(max_examples=200, deadline=None)
def test_what_was_written_is_read_by_us_and_by_zipfile(files):
    data = b"".join(write_zip(files))
    read = read_zip(memoryview(data), "x.es2s")
    assert {name: bytes(view) for name, view in read.items()} == files
    assert list(read) == list(files)
    with zipfile.ZipFile(io.BytesIO(data)) as reader:
        assert reader.testzip() is None
        assert {name: reader.read(name) for name in reader.namelist()} == files


@given(contents)
@settings(max_examples=50, deadline=None)
def test_data_begin_at_multiples_of_64(files):
    data = b"".join(write_zip(files))
    with zipfile.ZipFile(io.BytesIO(data)) as reader:
        for info in reader.infolist():
            extra = int.from_bytes(data[info.header_offset + 28 :][:2], "little")
            assert (info.header_offset + 30 + len(info.filename) + extra) % 64 == 0


@given(contents, st.data())
@settings(max_examples=200, deadline=None)
def test_a_byte_changed_outside_the_data_is_noticed(files, where):
    data = bytearray(b"".join(write_zip(files)))
    views = read_zip(memoryview(bytes(data)), "x.es2s")
    at = where.draw(st.integers(0, len(data) - 1))
    data[at] ^= where.draw(st.integers(1, 255))
    try:
        changed = read_zip(memoryview(data), "x.es2s")
    except BundleError:
        return
    assert changed.keys() == views.keys()
    assert sum(changed[name] != views[name] for name in views) == 1, "a header was changed and not compared"


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda data: data + b"PK\5\6" + bytes(18)))
@settings(max_examples=200, deadline=None)
def test_random_bytes_raise_bundle_errors(data):
    with pytest.raises(BundleError):
        read_zip(memoryview(data), "x.es2s")


def test_the_largest_number_of_entries_is_read_and_one_more_not_written():
    names = [f"file{i}" for i in range(MAX_ENTRIES + 1)]
    data = b"".join(write_zip(dict.fromkeys(names[:-1], b"x")))
    assert len(read_zip(memoryview(data), "x.es2s")) == MAX_ENTRIES
    with pytest.raises(ValueError, match="write a directory instead"):
        next(write_zip(dict.fromkeys(names, b"x")))


def test_what_needs_zip64_is_not_written(monkeypatch):
    monkeypatch.setattr(stored_zip, "MAX_SIZE", 20_000)
    with pytest.raises(ValueError, match="write a directory instead"):
        next(write_zip({"a": bytes(10_000)}))
