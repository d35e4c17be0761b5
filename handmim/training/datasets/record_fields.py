"""Fields of one record of a label file, checked."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np

from ...errors import DataError


def numbers(record: Any, field: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    """A list or array of finite numbers.

    Args:
        record: What the label file holds for a sample.
        field: Its key.
        shape: It must have.
        where: File and sample, for the message.

    Returns:
        float32 of that shape.

    Raises:
        DataError: The field is missing, has another shape, or holds something that is no finite number.
    """
    if not isinstance(record, Mapping) or field not in record:
        raise DataError(f"{where} lacks {field}")
    value = record[field]
    try:
        with np.errstate(over="ignore"):
            if len(shape) == 2 and isinstance(value, list) and set(map(len, value)) == {shape[1]}:
                value = np.array([*chain.from_iterable(value)], np.float32).reshape(-1, shape[1])  # in half the time
            array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: {field} must hold numbers of shape {shape}: {error}") from error
    if array.shape != shape:
        raise DataError(f"{where}: {field} must have shape {shape}, got {array.shape}")
    if not np.isfinite(array).all():
        raise DataError(f"{where}: {field} holds NaN or Infinity at {np.argwhere(~np.isfinite(array))[0].tolist()}")
    return array


def whole_number(record: Mapping[str, Any], field: str, where: str) -> int:
    """A whole number, of 64 bits at most.

    Raises:
        DataError: It is missing or something else.
    """
    value = record.get(field)
    if not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise DataError(f"{where}: {field} must be a whole number of 64 bits, got {value!r:.60}")
    return int(value)


def text(record: Mapping[str, Any], field: str, where: str) -> str:
    """A text.

    Raises:
        DataError: It is missing or something else.
    """
    value = record.get(field)
    if not isinstance(value, str):
        raise DataError(f"{where}: {field} must be a text, got {value!r:.60}")
    return value


def add_once(entries: dict[int, tuple], number: int, entry: tuple, where: str) -> None:
    """Adds an entry under its number.

    Raises:
        DataError: Another entry has that number: labels would go to the wrong one of them.
    """
    if entries.setdefault(number, entry) != entry:
        raise DataError(f"{where}: id {number} is that of {entries[number][0]!r:.80} as well, got {entry[0]!r:.80}")


class RowBuffer:
    """Rows of one array whose number is not known before; grows in place, so memory is never held twice.

    Args:
        shape: Of a row; float32.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.rows = np.empty((256, *shape), np.float32)
        self.count = 0

    def append(self, row: np.ndarray) -> None:
        if self.count == len(self.rows):
            # Nobody else refers to the array: it is handed out at the end only.
            self.rows.resize((self.count * 3 // 2, *self.rows.shape[1:]), refcheck=False)
        self.rows[self.count] = row
        self.count += 1

    def array(self) -> np.ndarray:
        """(count, *shape), all rows; nothing may be appended afterwards."""
        self.rows.resize((self.count, *self.rows.shape[1:]), refcheck=False)
        return self.rows
