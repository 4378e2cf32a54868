"""Attacks by the zip: its records, its layout, the names of its entries."""

import io
import struct
import zipfile
from collections.abc import Mapping

from edge_s2s.manifest import seal
from edge_s2s.stored_zip import write_zip
from hostile import (
    BUNDLE,
    FILES,
    MANIFEST,
    VALID,
    VALID_ZIP,
    add_zip,
    flip,
    make_contents,
    make_document,
)
from hostile_manifest import NAMES

# The zip. Fields of its three records, from the published format: offset and struct code.

LOCAL = {
    "signature": (0, "I"),
    "version needed": (4, "H"),
    "flags": (6, "H"),
    "method": (8, "H"),
    "time": (10, "H"),
    "date": (12, "H"),
    "crc": (14, "I"),
    "compressed size": (18, "I"),
    "size": (22, "I"),
    "name length": (26, "H"),
    "extra length": (28, "H"),
}
CENTRAL = {
    "signature": (0, "I"),
    "made by": (4, "H"),
    "version needed": (6, "H"),
    "flags": (8, "H"),
    "method": (10, "H"),
    "time": (12, "H"),
    "date": (14, "H"),
    "crc": (16, "I"),
    "compressed size": (20, "I"),
    "size": (24, "I"),
    "name length": (28, "H"),
    "extra length": (30, "H"),
    "comment length": (32, "H"),
    "disk": (34, "H"),
    "internal attributes": (36, "H"),
    "external attributes": (38, "I"),
    "offset": (42, "I"),
}
END = {
    "signature": (0, "I"),
    "disk": (4, "H"),
    "first disk": (6, "H"),
    "entries on disk": (8, "H"),
    "entries": (10, "H"),
    "directory size": (12, "I"),
    "directory offset": (16, "I"),
    "comment length": (20, "H"),
}


def find_records(data: bytes) -> tuple[dict[str, int], dict[str, int]]:
    """Name -> offset of the local header, and of the central one, as Python's zipfile sees them."""
    with zipfile.ZipFile(io.BytesIO(data)) as reader:
        local = {info.filename: info.header_offset for info in reader.infolist()}
        position, central = reader.start_dir, {}
    for name in local:
        central[name] = position
        position += 46 + len(name)
    return local, central


LOCAL_AT, CENTRAL_AT = find_records(VALID_ZIP)
END_AT = len(VALID_ZIP) - 22
DIRECTORY_AT = min(CENTRAL_AT.values())


def patch(data: bytes, fields: Mapping[str, tuple[int, str]], at: int, **values: int) -> bytes:
    """`data` with fields of the record at `at` set; blanks in field names become underscores."""
    changed = bytearray(data)
    for name, value in values.items():
        offset, code = fields[name.replace("_", " ")]
        struct.pack_into(f"<{code}", changed, at + offset, value % (1 << 8 * struct.calcsize(code)))
    return bytes(changed)


def patch_both(name: str, **values: int) -> bytes:
    """The valid zip with the same lie in the local and the central header of `name`."""
    return patch(patch(VALID_ZIP, LOCAL, LOCAL_AT[name], **values), CENTRAL, CENTRAL_AT[name], **values)


def rename_entry(old: str, new: str) -> bytes:
    """The valid zip with an entry's name overwritten, in both headers, by one of the same length."""
    assert len(old) == len(new)
    changed = bytearray(VALID_ZIP)
    for at in (LOCAL_AT[old] + 30, CENTRAL_AT[old] + 46):
        changed[at : at + len(old)] = new.encode()
    return bytes(changed)


def insert(at: int, data: bytes, *, n_entries: int = 0, in_directory: int = 0) -> bytes:
    """The valid zip with bytes inserted, and the end record adjusted to them."""
    grown = VALID_ZIP[:at] + data + VALID_ZIP[at:]
    before = len(data) if at <= DIRECTORY_AT and not in_directory else 0
    return patch(
        grown,
        END,
        len(grown) - 22,
        entries_on_disk=len(VALID) + n_entries,
        entries=len(VALID) + n_entries,
        directory_size=END_AT - DIRECTORY_AT + in_directory,
        directory_offset=DIRECTORY_AT + before,
    )


def with_zipfile(
    contents: Mapping[str, bytes], method: int = zipfile.ZIP_STORED, comment: bytes = b""
) -> bytes:
    """What Python's zipfile writes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as writer:
        writer.comment = comment
        for name, data in contents.items():
            writer.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


for entry in (MANIFEST, "golden.json"):
    for title, fields, offsets in (("local", LOCAL, LOCAL_AT), ("central", CENTRAL, CENTRAL_AT)):
        for field, (offset, _) in fields.items():
            misnamed = entry[:-1] if (title, field) == ("central", "name length") else entry
            flipped = flip(VALID_ZIP, 8 * (offsets[entry] + offset))
            add_zip(f"zip, {title} {field} of {entry} off by one", misnamed, flipped)
for field, (offset, _) in END.items():
    add_zip(f"zip, end {field} off by one", BUNDLE, flip(VALID_ZIP, 8 * (END_AT + offset)))

LIES = {
    "encrypted": {"flags": 1},
    "data descriptor": {"flags": 8},
    "UTF-8 flag": {"flags": 0x800},
    "deflate": {"method": 8},
    "method 99": {"method": 99},
    "needs version 4.5": {"version_needed": 45},
    "another time": {"time": 1, "date": 0x5A21},
    "zip64 sizes": {"size": -1, "compressed_size": -1},
    "size 0": {"size": 0, "compressed_size": 0},
    "size + 1": {"size": len(VALID["golden.json"]) + 1, "compressed_size": len(VALID["golden.json"]) + 1},
    "size - 1": {"size": len(VALID["golden.json"]) - 1, "compressed_size": len(VALID["golden.json"]) - 1},
    "size of 2 GiB": {"size": 1 << 31, "compressed_size": 1 << 31},
    "compressed to nothing": {"compressed_size": 0},
}
for kind, values in LIES.items():
    # What lies about its size is found by where the next entry begins, unless it ends beyond the directory.
    blamed = "tokenizer.json" if kind in ("size 0", "size + 1", "size - 1") else "golden.json"
    add_zip(f"zip, {kind}, in both headers", blamed, patch_both("golden.json", **values))
for kind, values in {
    "a symbolic link": {"made_by": 0x031E, "external_attributes": 0o120777 << 16},
    "a directory": {"external_attributes": 0x10},
    "a device": {"made_by": 0x031E, "external_attributes": 0o060666 << 16},
    "set-uid": {"made_by": 0x031E, "external_attributes": 0o104755 << 16},
    "on another disk": {"disk": 1},
    "with a comment": {"comment_length": 5},
    "with an extra field": {"extra_length": 4},
    "at an offset beyond the end": {"offset": -1},
    "at the offset of another": {"offset": LOCAL_AT["eval.json"]},
    "in the central directory": {"offset": DIRECTORY_AT},
}.items():
    add_zip(
        f"zip, an entry {kind}", "golden.json", patch(VALID_ZIP, CENTRAL, CENTRAL_AT["golden.json"], **values)
    )

for kind, values in {
    "no entries": {"entries": 0, "entries_on_disk": 0},
    "65535 entries": {"entries": -1, "entries_on_disk": -1},
    "66 entries": {"entries": 66, "entries_on_disk": 66},
    "one entry more": {"entries": 9, "entries_on_disk": 9},
    "one entry less": {"entries": 7, "entries_on_disk": 7},
    "directory at 0": {"directory_offset": 0},
    "directory beyond the end": {"directory_offset": -1},
    "directory in the end record": {"directory_offset": END_AT},
    "zip64 everywhere": {"entries": -1, "entries_on_disk": -1, "directory_size": -1, "directory_offset": -1},
    "a comment that is not there": {"comment_length": -1},
    "second disk": {"disk": 1, "first_disk": 1},
}.items():
    add_zip(f"zip, {kind}", BUNDLE, patch(VALID_ZIP, END, END_AT, **values))

LICENSE_RECORD = VALID_ZIP[LOCAL_AT["LICENSE"] : LOCAL_AT["MODEL_CARD.md"]]
LICENSE_ENTRY = VALID_ZIP[CENTRAL_AT["LICENSE"] :][: 46 + len("LICENSE")]
ZIP64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 8, 8, END_AT - DIRECTORY_AT, DIRECTORY_AT)
ZIP64 += struct.pack("<4sIQI", b"PK\6\7", 0, END_AT, 1)
for kind, blamed, data in [
    ("bytes before", BUNDLE, b"#!/bin/sh\n" + VALID_ZIP),
    ("bytes before, offsets adjusted", MANIFEST, insert(0, b"#!/bin/sh\n")),
    ("bytes after", BUNDLE, VALID_ZIP + b"\0"),
    ("a second zip after", BUNDLE, VALID_ZIP * 2),
    ("a comment", BUNDLE, with_zipfile(VALID, comment=b"hello")),
    ("a hole between entries", "LICENSE", insert(LOCAL_AT["LICENSE"], bytes(64))),
    ("a hole before the directory", BUNDLE, insert(DIRECTORY_AT, bytes(64))),
    ("bytes after the directory", BUNDLE, insert(END_AT, b"hidden", in_directory=6)),
    ("zip64 records", BUNDLE, insert(END_AT, ZIP64, in_directory=len(ZIP64))),
    ("zip64 records outside the directory", BUNDLE, insert(END_AT, ZIP64)),
    (
        "a duplicate directory entry",
        "LICENSE",
        insert(END_AT, LICENSE_ENTRY, n_entries=1, in_directory=len(LICENSE_ENTRY)),
    ),
    (
        "alignment record filled with text",
        "LICENSE",
        VALID_ZIP.replace(LICENSE_RECORD, LICENSE_RECORD[:-5] + b"hello"),
    ),
    (
        "alignment record of another kind",
        "LICENSE",
        VALID_ZIP.replace(LICENSE_RECORD, LICENSE_RECORD.replace(b"\x35\xd9", b"UT")),
    ),
    ("an entry renamed in both headers", BUNDLE, rename_entry("eval.json", "evil.json")),
    ("an entry renamed to a path", BUNDLE, rename_entry("eval.json", "../al.exe")),
    ("an entry renamed to a folder", BUNDLE, rename_entry("eval.json", "folder12/")),
    ("the manifest renamed", BUNDLE, rename_entry(MANIFEST, "manifest.jsom")),
    ("written by zipfile", MANIFEST, with_zipfile(VALID)),
    ("deflated", MANIFEST, with_zipfile(VALID, zipfile.ZIP_DEFLATED)),
    ("empty", BUNDLE, with_zipfile({})),
    ("only the manifest", BUNDLE, b"".join(write_zip({MANIFEST: VALID[MANIFEST]}))),
    ("manifest last", BUNDLE, b"".join(write_zip(dict(reversed(VALID.items()))))),
    (
        "files in another order",
        BUNDLE,
        b"".join(write_zip({MANIFEST: VALID[MANIFEST], **dict(reversed(FILES.items()))})),
    ),
    ("an unlisted file", BUNDLE, b"".join(write_zip({**VALID, "zzz": b"hidden"}))),
    (
        "a listed file missing",
        BUNDLE,
        b"".join(write_zip({k: v for k, v in VALID.items() if k != "eval.json"})),
    ),
    ("a folder entry", BUNDLE, b"".join(write_zip({**VALID, "zzz/": b""}))),
    ("a bomb of a gibibyte", MANIFEST, with_zipfile({MANIFEST: bytes(1 << 24)}, zipfile.ZIP_DEFLATED)),
    ("a tar", BUNDLE, b"manifest.json".ljust(512, b"\0") + bytes(1024)),
    ("text", BUNDLE, b"not a bundle\n" * 100),
    ("no byte", BUNDLE, b""),
    ("21 bytes", BUNDLE, VALID_ZIP[-21:]),
    ("the end record alone", BUNDLE, VALID_ZIP[-22:]),
    ("the directory alone", BUNDLE, VALID_ZIP[DIRECTORY_AT:]),
    ("without the end record", BUNDLE, VALID_ZIP[:-22]),
    ("first half", BUNDLE, VALID_ZIP[: len(VALID_ZIP) // 2]),
]:
    add_zip(f"zip, {kind}", blamed, data)
for victim, valid in VALID.items():
    if valid:
        at = VALID_ZIP.index(valid, LOCAL_AT[victim]) + len(valid) // 2
        add_zip(f"zip, bit of {victim} flipped", victim, flip(VALID_ZIP, 8 * at))


def overlap_entries() -> bytes:
    """As in a bomb of overlapping files: the header of one entry lies in the data of another."""
    inner = b"".join(write_zip({"eval.json": b"{}"}))
    files = {**FILES, "encoder.onnx": inner, "eval.json": b"{}"}
    data = b"".join(write_zip(make_contents(files)))
    _, central = find_records(data)
    return patch(data, CENTRAL, central["eval.json"], offset=data.index(inner))


add_zip("zip, two entries share their bytes", "eval.json", overlap_entries())


for kind, name in NAMES.items():
    if not name.isascii() or name == MANIFEST:
        continue
    document = make_document()
    document["files"][name] = document["files"]["LICENSE"]
    data = b"".join(write_zip({MANIFEST: seal(document), **dict(sorted({**FILES, name: b""}.items()))}))
    add_zip(f"zip entry, {kind}", MANIFEST if kind in ("MANIFEST", "case twin") else BUNDLE, data)
