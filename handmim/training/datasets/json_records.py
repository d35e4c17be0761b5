"""The records of large JSON label files, one at a time.

COCO-like files are one object with a few long lists: `{"images": [{...}, ...], "annotations": [{...}, ...]}`.
YouTube3DHands' training file is gigabytes of such text; parsed at once it would take many times that. Here one record
and one piece of the file are in memory. With pysimdjson most records are parsed several times faster.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from ...errors import DataError

PIECE_CHARACTERS = 2**22
# The longest record of the data sets read is 60,000 characters (778 vertices); COCO's crowds stay below a million.
MAX_RECORD_CHARACTERS = 2**25
_SPACE = " \t\r\n"


def json_records(path: Path, lists: Sequence[str]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Walk through the named lists of a JSON object.

    Args:
        path: The file.
        lists: Keys of the lists whose records are wanted; everything else in the file is skipped.

    Yields:
        Key, number in that list, and the record, in the order of the file.

    Raises:
        DataError: The file is missing, not such an object, cut off, lacks one of the lists, or holds a record that is
            no object; names the file and the record.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _Walk(path, file).records(lists)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


class _Walk:
    """A position in a text that is read in pieces."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self.file = path, file
        self.text, self.at = "", 0
        self.decoder = json.JSONDecoder()
        self.quick = _simdjson_parser()

    def records(self, lists: Sequence[str]) -> Iterator[tuple[str, int, dict[str, Any]]]:
        missing = set(lists)
        self._expect("{", "the file")
        while self._next("a key") != "}":
            key = self._value("a key")
            self._expect(":", f"key {key!r}")
            if key in lists and self._next(key) == "[":
                missing.discard(key)
                yield from self._items(key)
            else:
                self._value(f"field {key!r}")
            if self._next("the file") == ",":
                self.at += 1
        if missing:
            raise DataError(f"{self.path} lacks the list {', '.join(sorted(missing))}")

    def _items(self, key: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
        self._expect("[", key)
        number = 0
        while self._next(key) != "]":
            name = f"{key}[{number}]"
            record = self._value(name)
            if not isinstance(record, dict):
                raise DataError(f"{self.path}: {name} must be an object, got {type(record).__name__}")
            yield key, number, record
            number += 1
            if self._next(key) == ",":
                self.at += 1
            elif self._next(key) != "]":
                raise DataError(f"{self.path}: after {name} a comma or the list's end must follow")
        self.at += 1

    def _value(self, name: str) -> Any:
        """The value that starts here, which may reach beyond the text read so far."""
        if self._next(name) == "{" and self.quick is not None:
            # A JSON object is no beginning of another: if the text up to the next brace is one, it is the record.
            end = self.text.find("}", self.at) + 1
            value = self.quick(self.text[self.at : end]) if end else None
            if value is not None:
                self.at = end
                return value
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except RecursionError as error:
                raise DataError(f"{self.path}: {name} is nested too deeply") from error
            except ValueError as error:
                if len(self.text) - self.at > MAX_RECORD_CHARACTERS or not self._more():
                    raise DataError(f"{self.path}: {name} is no JSON value, or is cut off: {error}") from error
                continue
            if end < len(self.text) or not self._more():  # a number at the text's end may go on
                self.at = end
                return value

    def _expect(self, character: str, name: str) -> None:
        if self._next(name) != character:
            raise DataError(f"{self.path}: {name} must hold {character!r}, got {self.text[self.at]!r}")
        self.at += 1

    def _next(self, name: str) -> str:
        """The next character that is not white space; the position moves to it."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in _SPACE:
                    return self.text[self.at]
                self.at += 1
            if not self._more():
                raise DataError(f"{self.path} is cut off in {name}")

    def _more(self) -> bool:
        piece = self.file.read(PIECE_CHARACTERS)
        self.text, self.at = self.text[self.at :] + piece, 0
        return bool(piece)


def _simdjson_parser() -> Callable[[str], dict[str, Any] | None] | None:
    """Parses the text of an object; None if it is not one. None without pysimdjson."""
    try:
        import simdjson
    except ImportError:
        return None
    parser = simdjson.Parser()  # keeps its memory from record to record

    def parse(text: str) -> dict[str, Any] | None:
        try:
            return parser.parse(text.encode()).as_dict()
        except (ValueError, RuntimeError, AttributeError):  # NaN, numbers beyond 64 bits; braces in texts or records
            return None

    return parse
