"""The container of `*.es2s`: a zip of uncompressed entries with exactly one layout for given files.

    for each file   local header (30 bytes) | name | alignment record | data, at a multiple of 64
    for each file   central directory entry (46 bytes) | name
    end record      22 bytes, at the very end of the file

Every tool can unpack it. The reader takes name, size, CRC and offset of an entry from the central directory,
derives all other bytes with the functions that the writer uses, and compares. So what two readers could
understand differently cannot occur: holes, overlaps, bytes before or after, comments, links, compression,
encryption, data descriptors, zip64, headers that disagree, names that are paths. The CRC is compared between
the two headers but not with the data, which the bundle's SHA-256 covers.
"""

import re
import struct
import zlib
from collections.abc import Iterator, Mapping

from edge_s2s.errors import BundleError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ALIGNMENT = 64
MAX_ENTRIES = 65
MAX_SIZE = (1 << 32) - 2  # beyond, zip needs its 64-bit extension

_LOCAL = struct.Struct("<4s5H3I2H")
_LOCAL_FIELDS = (
    "signature", "version needed", "flags", "compression method", "time", "date", "crc", "compressed size",
    "size", "length of the name", "length of the extra field",
)  # fmt: skip
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_CENTRAL_FIELDS = (
    "signature", "version made by", "version needed", "flags", "compression method", "time", "date", "crc",
    "compressed size", "size", "length of the name", "length of the extra field", "length of the comment",
    "disk", "internal attributes", "external attributes", "offset",
)  # fmt: skip
_END = struct.Struct("<4s4H2IH")
_END_SIGNATURE = b"PK\5\6"
_END_FIELDS = (
    "signature", "disk", "first disk", "entries on this disk", "entries", "size of the central directory",
    "offset of the central directory", "length of the comment",
)  # fmt: skip
_VERSION = 10  # plain files, nothing else
_DATE = 0x21  # 1980-01-01, the first day that zip knows
_ALIGNMENT_RECORD = struct.Struct("<3H")  # id and size of the record, alignment; then zeros
_ALIGNMENT_ID = 0xD935  # registered for this use by Android's tools


def write_zip(files: Mapping[str, bytes]) -> Iterator[bytes]:
    """The parts of the zip, one after the other, with the entries in the order of `files`.

    Raises ValueError if there are too many or they are too large.
    """
    if len(files) > MAX_ENTRIES or sum(map(len, files.values())) + 256 * MAX_ENTRIES > MAX_SIZE:
        raise ValueError(f"an .es2s holds at most {MAX_ENTRIES} files and 4 GiB; write a directory instead")
    directory = b""
    offset = 0
    for name, data in files.items():
        crc = zlib.crc32(data)
        header = _local_header(name, len(data), crc, offset)
        yield header
        yield data
        directory += _central_header(name, len(data), crc, offset)
        offset += len(header) + len(data)
    yield directory
    yield _end_record(len(files), len(directory), offset)


def read_zip(view: memoryview, file: str) -> dict[str, memoryview]:
    """Name -> bytes of each entry, as views, in file order; raises BundleError, which names `file`."""
    if len(view) < _END.size:
        raise BundleError(file, f"a zip of at least {_END.size} bytes", f"{len(view)} bytes")
    end = len(view) - _END.size
    signature, _, _, _, n_entries, _, start, _ = _END.unpack_from(view, end)
    if signature != _END_SIGNATURE:
        raise BundleError(
            file, f"a zip that ends with {_END_SIGNATURE!r} and 18 bytes", ascii(signature),
            hint="the file is incomplete, or no bundle",
        )  # fmt: skip
    if not 1 <= n_entries <= MAX_ENTRIES:
        raise BundleError(file, f"1..{MAX_ENTRIES} entries", f"{n_entries}")
    if start > end:
        raise BundleError(file, f"the central directory before byte {end}", f"offset {start}")
    _compare(file, _end_record(n_entries, end - start, start), view[end:], _END, _END_FIELDS)

    files: dict[str, memoryview] = {}
    position = start  # in the central directory
    data_end = 0
    for _ in range(n_entries):
        name, size, crc, offset = _read_central_header(view[position:end], file)
        _compare(
            name,
            central := _central_header(name, size, crc, offset),
            view[position:end],
            _CENTRAL,
            _CENTRAL_FIELDS,
        )
        if name in files:
            raise BundleError(name, "one entry of this name", "two")
        if offset != data_end:
            raise BundleError(name, f"its local header at byte {data_end}", f"offset {offset}")
        local = _local_header(name, size, crc, offset)
        _compare(name, local, view[offset:start], _LOCAL, _LOCAL_FIELDS)
        data_end = offset + len(local) + size
        if data_end > start:
            raise BundleError(
                name, f"{size} bytes before the central directory", f"{start - offset - len(local)}"
            )
        files[name] = view[data_end - size : data_end]
        position += len(central)
    if position != end or data_end != start:
        raise BundleError(
            file, "nothing between its parts", f"{end - position + start - data_end} more bytes"
        )
    return files


def _read_central_header(directory: memoryview, file: str) -> tuple[str, int, int, int]:
    """Name, size, CRC and offset of the entry that `directory` begins with."""
    if len(directory) < _CENTRAL.size:
        raise BundleError(file, f"a directory entry of {_CENTRAL.size} bytes", f"{len(directory)} bytes")
    fields = dict(zip(_CENTRAL_FIELDS, _CENTRAL.unpack_from(directory), strict=True))
    raw = bytes(directory[_CENTRAL.size :][: fields["length of the name"]])
    name = raw.decode("ascii", "replace")
    if not NAME.fullmatch(name):
        raise BundleError(file, f"entry names of {NAME.pattern}", ascii(raw[:80]))
    return name, fields["size"], fields["crc"], fields["offset"]


def _compare(
    file: str, expected: bytes, found: memoryview, layout: struct.Struct, names: tuple[str, ...]
) -> None:
    found = found[: len(expected)]
    if found == expected:
        return
    if len(found) < layout.size:
        raise BundleError(file, f"a zip header of {len(expected)} bytes", f"{len(found)} bytes")
    for name, want, have in zip(names, layout.unpack_from(expected), layout.unpack_from(found), strict=True):
        if want != have:
            raise BundleError(file, f"{name} {want!r} in its zip header", f"{have!r}")
    raise BundleError(
        file, "its name and alignment record after its zip header", ascii(bytes(found[layout.size :]))
    )


def _local_header(name: str, size: int, crc: int, offset: int) -> bytes:
    fixed = offset + _LOCAL.size + len(name) + _ALIGNMENT_RECORD.size
    padding = -fixed % ALIGNMENT
    record = _ALIGNMENT_RECORD.pack(_ALIGNMENT_ID, 2 + padding, ALIGNMENT) + bytes(padding)
    header = _LOCAL.pack(b"PK\3\4", _VERSION, 0, 0, 0, _DATE, crc, size, size, len(name), len(record))
    return header + name.encode("ascii") + record


def _central_header(name: str, size: int, crc: int, offset: int) -> bytes:
    header = _CENTRAL.pack(
        b"PK\1\2", _VERSION, _VERSION, 0, 0, 0, _DATE, crc, size, size, len(name), 0, 0, 0, 0, 0, offset
    )
    return header + name.encode("ascii")


def _end_record(n_entries: int, directory_size: int, directory_offset: int) -> bytes:
    return _END.pack(_END_SIGNATURE, 0, 0, n_entries, n_entries, directory_size, directory_offset, 0)
