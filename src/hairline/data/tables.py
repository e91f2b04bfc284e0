"""Read the CSV files that people and other programs write: any usual encoding, separator and column names."""

from __future__ import annotations

import codecs
import csv
import io
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hairline.config import commands
from hairline.data.folders import is_image, nfc
from hairline.data.manifest import ManifestError, printable

log = logging.getLogger(__name__)

COLUMNS = {"path": "path", "label": "label", "group": "group", "split": "split"}  # of a list of images, by role
REQUIRED = ("path", "label")
_SEPARATORS = ",;\t|"  # of two that fit equally well, the first; a space only where there is none of them
_INVISIBLE = "\ufeff\u200b\u200e\u200f"  # what copying from web pages and joining files leaves
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # how files of Excel and LibreOffice begin
# Other names of the columns, to propose.
_SYNONYMS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "photo", "name",
             "image_id", "id"),
    "label": ("label", "class", "class_name", "category", "target", "tag", "label_name", "y"),
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A CSV file.

    Attributes:
        file: Where it lies.
        header: Names of the columns, without spaces around them.
        rows: The fields of each row, without spaces around them, as many as columns.
        lines: Line number of each row, as in an editor: the header is line 1.
    """

    file: Path
    header: list[str]
    rows: list[list[str]]
    lines: list[int]

    def column(self, name: str) -> list[str] | None:
        """Return the values of a column, whose name may differ in upper and lower case; None if there is none."""
        if name in self.header:
            place = self.header.index(name)
        else:
            lowered = [known.lower() for known in self.header]
            if name.lower() not in lowered:
                return None
            place = lowered.index(name.lower())
        return [row[place] for row in self.rows]

    def roles(self, columns: Mapping[str, str]) -> dict[str, list[str]]:
        """Return the columns of a list of images, by role.

        Args:
            columns: Name of the column of each role.

        Raises:
            ManifestError: If a required column is missing, or one that differs from the default.
        """
        found = {role: self.column(nfc(columns[role])) for role in COLUMNS}
        missing = [
            role for role in COLUMNS if found[role] is None and (role in REQUIRED or columns[role] != COLUMNS[role])
        ]
        if missing:
            raise ManifestError(self._explain(missing, columns))
        empty = [""] * len(self.rows)
        return {role: empty if values is None else values for role, values in found.items()}

    def _explain(self, missing: list[str], columns: Mapping[str, str]) -> str:
        names = ", ".join(columns[role] for role in missing)
        has = ", ".join(map(printable, self.header)) or "none"
        if any(map(is_image, map(Path, self.header))):
            return f"{self.file}, line 1: {has}. The first line must name the columns: insert a line such as path,label"
        words = []
        for role in missing:
            known = {name.lower().replace(" ", "_"): name for name in self.header}
            guess = next((known[name] for name in _SYNONYMS.get(role, ()) if name in known), "<column>")
            words.append(commands.override(f"data.columns.{role}", guess))
        plural = "s" * (len(missing) > 1)
        return (
            f"{self.file} lacks the column{plural} {names}: it has {has}. The first line must name the columns; if "
            f"they have other names, add {' '.join(words)}"
        )


def read(file: Path) -> Table:
    """Read a CSV file.

    UTF-8 and UTF-16, with or without a byte order mark, else Windows' cp1252, which is logged. The columns are
    separated by commas, semicolons, tabs or vertical bars.

    Raises:
        ManifestError: If it cannot be read, a row has more or fewer fields than the first, or a column name is twice
            there.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ManifestError(f"{file} cannot be read as a CSV table: {error}") from error
    if content.startswith(_WORKBOOKS):
        raise ManifestError(f"{file} is a workbook, not a CSV table: save it as CSV UTF-8")
    text = decoded(content, file)
    lines = text.splitlines(keepends=True)
    skipped, separator = 0, None
    if lines and lines[0].lower().startswith("sep=") and len(lines[0].strip()) == 5:  # written by Excel
        skipped, separator = 1, lines[0][4]
    separator = separator or _separator(next((line for line in lines if line.strip()), ""))
    body = "".join(lines[skipped:])
    try:
        fields = _fields(body, separator)
    except csv.Error:  # spaces between a closing quote and the separator
        try:
            fields = _fields(re.sub(rf'(?<=")[ \t]+(?={re.escape(separator)}|\r|\n|\Z)', "", body), separator)
        except csv.Error as error:
            raise ManifestError(f"{file} cannot be read as a CSV table: {error}") from error
    header, rows = next(((values, fields[place + 1 :]) for place, (_, values) in enumerate(fields)), ([], []))
    header = [nfc(name) for name in _without_empty_end(header, 0)]
    rows = [(line + skipped, _without_empty_end(values, len(header))) for line, values in rows]
    if rows and all(len(values) == len(header) + 1 and values[0].isdecimal() for _, values in rows):
        header = ["", *header]  # R numbers the rows in a column without a name
    if header and header[0] in ("", "Unnamed: 0"):  # pandas numbers them too
        header, rows = header[1:], [(line, values[1:]) for line, values in rows]
    for line, values in rows:
        if len(values) != len(header):
            raise ManifestError(
                f"{file}, line {line}: {len(values)} fields, but the first line names {len(header)} "
                f"column{'s' * (len(header) != 1)} ({printable(', '.join(header))[:80]}). The first line must name the "
                f"columns; put texts that contain {'a comma' if separator == ',' else repr(separator)} in double quotes"
            )
    if len(set(header)) < len(header):
        raise ManifestError(f"{file} names a column twice: it has {printable(', '.join(header))}")
    return Table(file, header, [values for _, values in rows], [line for line, _ in rows])


def decoded(content: bytes, file: Path) -> str:
    """Return the text of a file, without a byte order mark.

    Raises:
        ManifestError: If it is in no known encoding.
    """
    encoding = _encoding(content)
    try:
        if encoding != "cp1252":
            # Names of files may hold single bytes that are no UTF-8.
            errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
            return content.decode(encoding, errors)
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{file} is neither UTF-8, UTF-16 nor cp1252: save it as UTF-8") from error
    log.warning("WARNING: %s is not UTF-8: read as cp1252 (Windows, Western Europe)", file)
    return text


def _encoding(content: bytes) -> str:
    """Return the likely encoding of a file."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    sample = content[:8]  # the names of the columns are likely Western: every other byte is zero
    for zeros, encoding in ((sample[::2], "utf-16-be"), (sample[1::2], "utf-16-le")):
        if len(sample) > 3 and not any(zeros) and any(sample):
            return encoding
    text = content.decode("utf-8", "surrogateescape")
    if text.isascii():
        return "utf-8-sig"
    invalid = sum("\udc80" <= char <= "\udcff" for char in text)
    valid = sum(char > "\x7f" for char in text) - invalid
    return "cp1252" if invalid and not valid else "utf-8-sig"


def _fields(text: str, separator: str) -> list[tuple[int, list[str]]]:
    """Return the line number and the fields of each row that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    rows = ([value.strip().strip(_INVISIBLE) for value in row] for row in reader)
    return [(reader.line_num, row) for row in rows if any(row)]


def _separator(header: str) -> str:
    """Return the character that separates the columns, by the line that names them."""
    fields = {mark: next(csv.reader([header[:10_000]], delimiter=mark), []) for mark in _SEPARATORS}
    best = max(_SEPARATORS, key=lambda mark: len(fields[mark]))
    return best if len(fields[best]) > 1 else " "


def _without_empty_end(values: list[str], least: int) -> list[str]:
    """Return a row without empty fields at its end: spreadsheets write them."""
    while len(values) > least and not values[-1]:
        values = values[:-1]
    return values
