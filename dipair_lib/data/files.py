"""A file's bytes, told by what they begin with: unpacked and decoded, or named for what they are."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

SEPARATORS = {
    ".tsv": "\t",
    ".csv": ",",
    ".txt": "\t",
    ".tab": "\t",
    ".psv": "|",
}  # the usual one of each suffix
JSON = (".jsonl", ".json", ".ndjson")
BINARY = (".parquet", ".arrow", ".xlsx")
FORMATS = (
    ".tsv",
    ".csv",
    ".jsonl",
    ".parquet",
    ".txt",
    ".tab",
    ".psv",
    ".json",
    ".ndjson",
    ".arrow",
    ".xlsx",
)
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
WORKBOOK = b"PK\x03\x04"  # after `contents`, whose other archives are unpacked

NO_TABLE = (  # first bytes, what they are of, what to do
    (b"version https://git-lfs", "a Git LFS pointer, a note in place of the data", "run `git lfs pull` in the clone it is from"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file (.xls or .doc)", "save the sheet as .xlsx or as CSV UTF-8"),
    (b"%PDF-", "a PDF", "give the table itself"),
    (b"SQLite format 3\0", "an SQLite database", "export its table as CSV"),
    (b"\x93NUMPY", "a NumPy array", "write texts and labels as CSV or Parquet"),
    (b"\x80\x04\x95", "a Python pickle, which is never opened here", "write the table as Parquet or CSV"),
    (b"\x80\x05\x95", "a Python pickle, which is never opened here", "write the table as Parquet or CSV"),
    (b"Obj\x01", "an Avro file", "write the table as Parquet or CSV"),
    (b"FEA1", "an old Feather file", "write the table as Parquet or CSV"),
    (b"\x89HDF\r\n", "an HDF5 file", "write the table as Parquet or CSV"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"{\\rtf", "an RTF document", "save the table as CSV UTF-8"),
)  # fmt: skip


class TaskError(ValueError):
    """The data cannot be used as it is; the message names file, row, column and what to do."""


def suffix_of(name: str) -> str:
    """The suffix that says what a file holds, in lower case, without that of a packer; "" if it is none of
    `FORMATS`.
    """
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    while suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else ""


def contents(path: Path) -> tuple[bytes, str]:
    """A file's bytes, unpacked, and the suffix that says what they hold.

    Raises:
        TaskError: the file cannot be read, is empty, or holds no table.
    """
    suffix = suffix_of(path.name)
    try:
        data = path.read_bytes()
        while unpack := unpacker(data):
            data = unpack(data)
        if data.startswith(b"PK\x03\x04") and suffix != ".xlsx":
            data, inner = unzipped(path, data)
            suffix = suffix_of(inner) or suffix
            while unpack := unpacker(data):
                data = unpack(data)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError) as error:
        raise TaskError(
            f"{path}: cannot be read ({error}); check the path, or download the file again"
        ) from error
    if not data.strip():
        raise TaskError(f"{path}: the file is empty")
    refuse_others(path, data)
    return data, suffix


def unpacker(data: bytes) -> Callable[[bytes], bytes] | None:
    """What unpacks these bytes, whatever the file is called."""
    if data.startswith(b"\x1f\x8b"):
        return gzip.decompress
    if data.startswith(b"BZh") and data[4:10] == b"1AY&SY":
        return bz2.decompress
    if data.startswith(b"\xfd7zXZ\0"):
        return lzma.decompress
    return unzstd if data.startswith(b"\x28\xb5\x2f\xfd") else None


def unzstd(data: bytes) -> bytes:
    """Bytes packed by Zstandard, unpacked by Arrow."""
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.BufferReader(data), "zstd").read()


def unzipped(path: Path, data: bytes) -> tuple[bytes, str]:
    """The one file of a zip archive and its name; an Excel workbook, which is such an archive too, as it is."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [
            name
            for name in archive.namelist()
            if not name.endswith("/")
            and not name.startswith("__MACOSX/")
            and not PurePosixPath(name).name.startswith(".")
        ]
        if "xl/workbook.xml" in names:
            return data, "workbook.xlsx"
        for part, what in (("word/document.xml", "a Word document"), ("content.xml", "an OpenDocument file")):
            if part in names:
                raise TaskError(f"{path}: {what}; save its table as CSV UTF-8 or .xlsx")
        tables = [name for name in names if suffix_of(name)]
        readable = tables if len(tables) == 1 else names
        if len(readable) != 1:
            shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise TaskError(
                f"{path}: a zip archive with {len(names)} files ({shown}); unpack it and give the file, or their folder"
            )
        return archive.read(readable[0]), readable[0]


def refuse_others(path: Path, data: bytes) -> None:
    """Raise for bytes that hold no table, by what they are."""
    for begin, what, advice in NO_TABLE:
        if data.startswith(begin):
            raise TaskError(f"{path}: {what}; {advice}")
    if data[257:262] == b"ustar":
        raise TaskError(f"{path}: a tar archive; unpack it and give the file or the folder")
    begins = data[:200].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if begins.startswith((b"<!doctype html", b"<html")):
        raise TaskError(f"{path}: a web page (a login, or an error?), not the data; download the file itself")
    if begins.startswith(b"<?xml"):
        raise TaskError(f"{path}: an XML document; write its rows as CSV or JSONL")


def decode(path: Path, data: bytes) -> tuple[str, str]:
    """Text, and the name of its encoding where that is not UTF-8.

    Raises:
        TaskError: neither UTF-8 nor UTF-16 or UTF-32 told by a mark or by its zeros.
    """
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "") or unmarked(data)
    if encoding:
        try:
            return data.decode(encoding).removeprefix("\ufeff"), encoding.upper().replace("_", "-")
        except UnicodeDecodeError as error:
            raise TaskError(
                f"{path}: begins as {encoding.upper()}, but byte {error.start} is not; save it again as UTF-8"
            ) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TaskError(
            f"{path}, line {line}: byte {error.start} (0x{data[error.start]:02x}) is not UTF-8; re-encode the file: save it as UTF-8 "
            f"(Excel: CSV UTF-8), or where it is from Western Europe iconv -f WINDOWS-1252 -t UTF-8 {path.name} > new{suffix_of(path.name)}"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise TaskError(f"{path}, line {line}: NUL byte; a text file has none: save it again as UTF-8")
    return text, ""


MARKS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def unmarked(data: bytes) -> str:
    """The kind of UTF-16 without a mark: nearly every line break has its zero, and zeros stand at one parity
    only; "" for other bytes.
    """
    zeros, breaks = data.count(b"\0"), data.count(b"\n")
    if len(data) % 2 or not breaks or zeros < 0.02 * len(data):
        return ""
    low, high = data[::2].count(0), data[1::2].count(0)
    if not low and data.count(b"\n\0") >= 0.9 * breaks:
        return "utf-16-le"
    return "utf-16-be" if not high and data.count(b"\0\n") >= 0.9 * breaks else ""
