"""Regular arrays of numbers in JSON text: FreiHAND's and HO3D's label and submission files.

FreiHAND's training vertices are 1.5 GB of text. They are read in pieces of a few megabytes that end where an item
ends, so no more than the result and one piece is ever in memory. The form is checked before any number is parsed: with
the digits taken out, what remains of a piece must be the brackets and commas of whole items, byte for byte.

pysimdjson parses several times faster than the standard library; both give the same doubles.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .atomic_files import atomic_file
from .errors import DataError

MAX_BYTES = 4 * 2**30
PIECE_BYTES = 2**20
# Text that one number may take, white space of an indented file included.
NUMBER_BYTES = 256
NUMBERS_AND_SPACE = b"0123456789.+-eE \t\r\n"
SPACE = b" \t\r\n"

ItemShape = tuple[int | None, ...]


def read_array(
    path: str | Path, item_shape: ItemShape, dtype: Any = np.float32, *, max_bytes: int = MAX_BYTES
) -> np.ndarray:
    """An array of equal items from a JSON file `[item, item, ...]`.

    Args:
        path: The file.
        item_shape: Of every item. The first size may be None: then the first item's holds for all.
        dtype: Of the result; numbers are parsed as float64 and then rounded.
        max_bytes: Largest file to read.

    Returns:
        (N, *item_shape), finite numbers.

    Raises:
        DataError: The file is missing, too large, cut off, or holds anything but such items; names file and item.
    """
    return _Reader(Path(path), dtype, max_bytes).read([item_shape], listed=False)[0]


def read_arrays(
    path: str | Path, item_shapes: Sequence[ItemShape], dtype: Any = np.float64, *, max_bytes: int = MAX_BYTES
) -> list[np.ndarray]:
    """Several arrays from a JSON file `[[item, ...], [item, ...], ...]`, as in a submission (joints, then vertices).

    Args:
        path, dtype, max_bytes: As for `read_array`.
        item_shapes: One for each array that the file must hold.

    Returns:
        The arrays, which may differ in length.

    Raises:
        DataError: As for `read_array`.
    """
    return _Reader(Path(path), dtype, max_bytes).read(list(item_shapes), listed=True)


def write_array(path: str | Path, array: np.ndarray, decimals: int | None = None) -> None:
    """Write (N, ...) numbers as `[item, item, ...]`; the counterpart of `read_array`."""
    with atomic_file(Path(path)) as file:
        _write_items(file, array, decimals)


def write_arrays(path: str | Path, arrays: Sequence[np.ndarray], decimals: int | None = None) -> None:
    """Write arrays as `[[item, ...], [item, ...]]`, the form of a submission; the counterpart of `read_arrays`.

    Args:
        path: The file; it appears when it is complete.
        arrays: Each (N, ...), finite.
        decimals: Digits after the point; None writes every number exactly. Nine are nanometres.

    Raises:
        DataError: A number is not finite: JSON has no such numbers.
    """
    with atomic_file(Path(path)) as file:
        for index, array in enumerate(arrays):
            file.write(b", " if index else b"[")
            _write_items(file, array, decimals)
        file.write(b"]")


def _write_items(file: BinaryIO, array: np.ndarray, decimals: int | None) -> None:
    array = np.asarray(array, np.float64)
    finite = np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
    if not finite.all():
        raise DataError(f"item {int(finite.argmin())} of an array to be written as JSON is not finite")
    if not len(array):
        file.write(b"[]")
    for start in range(0, len(array), 64):  # as Python numbers, an item takes ten times its memory
        part = array[start : start + 64]
        text = json.dumps((part if decimals is None else np.round(part, decimals)).tolist())
        file.write((", " if start else "[").encode() + text[1:-1].encode())
    file.write(b"]" if len(array) else b"")


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def skeleton(shape: tuple[int, ...]) -> bytes:
    """The JSON text of an array of this shape without its numbers: (2, 2) gives `[[,],[,]]`."""
    if not shape:
        return b""
    return b"[" + b",".join([skeleton(shape[1:])] * shape[0]) + b"]"


def _count(text: bytes, shape: tuple[int, ...]) -> int:
    """Number of items of this shape that the text consists of; 0 if there is anything else in it."""
    form, one = text.translate(None, NUMBERS_AND_SPACE), skeleton(shape)
    items, rest = divmod(len(form) + 1, len(one) + 1)
    return items if not rest and form == ((one + b",") * items)[:-1] else 0


def _parser() -> Callable[[bytes], np.ndarray]:
    """A function from the text of a JSON array to all its numbers in a row, float64; ValueError if it is not JSON."""
    try:
        import simdjson
    except ImportError:
        return _slow_parse
    parser = simdjson.Parser()  # keeps its memory from piece to piece

    def parse(text: bytes) -> np.ndarray:
        try:
            return np.frombuffer(parser.parse(text).as_buffer(of_type="d"))
        except (ValueError, RuntimeError, TypeError):  # or a whole number beyond 64 bits, which JSON admits
            return _slow_parse(text)

    return parse


def _slow_parse(text: bytes) -> np.ndarray:
    values = json.loads(text)
    while values and isinstance(values[0], list):
        values = [value for row in values for value in row]
    return np.array(values, np.float64)


class _Result:
    """A growing array of items. What is never written to costs no memory, so its size is guessed once, too large."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, expected: int) -> None:
        self.shape, self.width, self.count = shape, math.prod(shape), 0
        self.numbers = np.empty(expected * self.width, dtype)

    def add(self, numbers: np.ndarray) -> int | None:
        """Append whole items; the index of the first that is not finite in the result's type, or None."""
        start = self.count * self.width
        if start + len(numbers) > len(self.numbers):
            self.numbers.resize(start + len(numbers) + len(self.numbers) // 4, refcheck=False)
        part = self.numbers[start : start + len(numbers)]
        with np.errstate(over="ignore"):
            part[:] = numbers
        finite = np.isfinite(part)
        return None if finite.all() else self.count + int(finite.argmin()) // self.width

    def finish(self) -> np.ndarray:
        """The array; unused memory is given back."""
        self.numbers.resize(self.count * self.width, refcheck=False)
        return self.numbers.reshape(self.count, *self.shape)


class _Reader:
    """Reads one file from the front: `text` is what has been read and not yet taken."""

    def __init__(self, path: Path, dtype: Any, max_bytes: int) -> None:
        self.path, self.dtype = path, np.dtype(dtype)
        if not path.is_file():
            raise DataError(f"{path} is missing or not a file")
        self.size = path.stat().st_size
        if self.size > max_bytes:
            raise DataError(f"{path} has {self.size} bytes, more than the {max_bytes} that are read")
        self.text, self.ended = b"", False
        self.parse = _parser()

    def read(self, shapes: list[ItemShape], listed: bool) -> list[np.ndarray]:
        """All arrays of the file; `listed` when brackets stand around them."""
        arrays = []
        with self.path.open("rb") as self.file:
            for index, shape in enumerate(shapes):
                if listed:
                    self._expect(b"," if index else b"[", f"{len(shapes)} arrays in a list")
                self._expect(b"[", "lists of numbers")
                arrays.append(self._array(shape, f"array {index}, " if listed else ""))
            if listed:
                self._expect(b"]", f"no more than {len(shapes)} arrays")
            self._expect(b"", "nothing after the last item")
        return arrays

    def _refill(self) -> None:
        more = self.file.read(PIECE_BYTES)
        self.text, self.ended = self.text + more, not more

    def _peek(self) -> bytes:
        """The next byte that is not white space; b"" at the end of the file."""
        self.text = self.text.lstrip(SPACE)
        while not self.text and not self.ended:
            self._refill()
            self.text = self.text.lstrip(SPACE)
        return self.text[:1]

    def _expect(self, token: bytes, form: str) -> None:
        found = self._peek()
        if found != token:
            said = repr(found.decode("latin1")) if found else "the end of the file"
            raise DataError(f"{self.path} must hold {form}; got {said}, not {token.decode() or 'the end'!r}")
        self.text = self.text[1:]

    def _array(self, shape: ItemShape, name: str) -> np.ndarray:
        """The array whose opening bracket has been taken, and its closing bracket."""
        if self._peek() == b"]":
            self.text = self.text[1:]
            return np.empty((0, *(size or 0 for size in shape)), self.dtype)
        known = self._resolved(shape, name)
        result, more = None, True
        while more:
            count = result.count if result else 0
            text, items, more = self._piece(known, name, count)
            if result is None:
                result = _Result(known, self.dtype, int(1.02 * self.size / max(1, len(text) / items)) + 2)
            try:
                numbers = self.parse(b"[%b]" % text)
            except (ValueError, OverflowError):
                numbers = np.empty(0)
            if len(numbers) != items * result.width:
                raise self._fault(text, known, name, count)
            bad = result.add(numbers)
            if bad is not None:
                raise DataError(f"{self.path}: {name}item {bad} has a number too large for {self.dtype}")
            result.count += items
        return result.finish()

    def _resolved(self, shape: ItemShape, name: str) -> tuple[int, ...]:
        """The shape with a first size None replaced by that of the first item, which is read for it."""
        if not shape or shape[0] is not None:
            return shape
        first = re.compile(rb"(?s:.*?)" + _closing(shape))
        while (found := first.match(self.text)) is None:
            self._read_on(shape, name, 0)
        form = found[0].translate(None, NUMBERS_AND_SPACE)
        return ((len(form) - 1) // (len(skeleton(shape[1:])) + 1), *shape[1:])

    def _read_on(self, shape: ItemShape, name: str, count: int) -> None:
        """Refill, unless the file ends or no item can be as long as what has been read."""
        numbers = math.prod(size or 2**16 for size in shape)
        if self.ended or len(self.text) > PIECE_BYTES + NUMBER_BYTES * numbers:
            raise self._fault(self.text, shape, name, count, cut=self.ended)
        self._refill()

    def _piece(self, shape: tuple[int, ...], name: str, count: int) -> tuple[bytes, int, bool]:
        """Text of whole items, their number, and whether others follow; takes it and the comma or bracket behind it."""
        last_comma = re.compile(rb"(?s:.*)" + _closing(shape) + rb",")
        end = re.compile(_closing(shape) + rb"(?=\])")
        if len(self.text) < PIECE_BYTES and not self.ended:
            self._refill()
        while True:
            comma = last_comma.match(self.text)
            # The comma may lie in the next array: then the items before it are not all of this one's form.
            if comma and (items := _count(text := self.text[: comma.end() - 1], shape)):
                self.text = self.text[comma.end() :]
                return text, items, True
            if stop := end.search(self.text):
                if items := _count(text := self.text[: stop.end()], shape):
                    self.text = self.text[stop.end() + 1 :]
                    return text, items, False
            if comma or stop:
                raise self._fault(self.text, shape, name, count)
            self._read_on(shape, name, count)

    def _fault(self, text: bytes, shape: ItemShape, name: str, count: int, cut: bool = False) -> DataError:
        """What is wrong with the first bad item of `text`, the `count`th of its array or one after it."""
        start, item = 0, b""
        for end in re.compile(_closing(shape) + rb"(?=\s*[,\]])|$").finditer(text):
            item = text[start : end.end()].strip(SPACE + b",")
            start = end.end()
            if None in shape or not _is_item(item, shape):
                break
            count += 1
        form = "x".join("N" if size is None else str(size) for size in shape) or "1"
        odd = re.search(rb"[^][,0-9.+\-eE \t\r\n]", item)
        if cut and not odd and item.count(b"[") >= item.count(b"]"):
            return DataError(f"{self.path} ends in the middle: {name}item {count} of {form} numbers is cut off")
        seen = item[odd.start() if odd else 0 :][:60].decode("latin1")
        return DataError(f"{self.path}: {name}item {count} must be {form} plain numbers, got {seen!r}")


def _is_item(text: bytes, shape: tuple[int, ...]) -> bool:
    try:
        return _count(text, shape) == 1 and _slow_parse(b"[%b]" % text).size == math.prod(shape)
    except (ValueError, OverflowError):
        return False


def _closing(shape: ItemShape) -> bytes:
    """Pattern of the brackets at the end of an item."""
    return rb"\]\s*" * len(shape)
