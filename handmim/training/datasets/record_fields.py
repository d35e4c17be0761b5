"""Fields of one record of a label file, checked."""

from __future__ import annotations

from collections.abc import Mapping
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
        array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {field} must hold numbers of shape {shape}: {error}") from error
    if array.shape != shape:
        raise DataError(f"{where}: {field} must have shape {shape}, got {array.shape}")
    if not np.isfinite(array).all():
        raise DataError(f"{where}: {field} holds NaN or Infinity at {np.argwhere(~np.isfinite(array))[0].tolist()}")
    return array


def whole_number(record: Mapping[str, Any], field: str, where: str) -> int:
    """A whole number.

    Raises:
        DataError: It is missing or something else.
    """
    value = record.get(field)
    if not isinstance(value, int):
        raise DataError(f"{where}: {field} must be a whole number, got {value!r:.60}")
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
