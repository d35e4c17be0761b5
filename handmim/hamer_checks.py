"""Checks of what other software hands over: torch tensors, arrays, lists, and anything else.

Every message names the key.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .errors import InputError

SIDES = ("left", "right")  # by HaMeR's `right`
SOURCES = ("given", "exif", "default")  # of intrinsics


def as_mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{name} must be a dict, got {type(value).__name__}")
    return dict(value)


def needed(data: Mapping[str, Any], key: str, where: str = "", hint: str = "") -> Any:
    if key not in data or data[key] is None:
        raise InputError(f"{key} is missing{f' in {where}' if where else ''}{hint}")
    return data[key]


def numbers(value: Any, name: str) -> np.ndarray:
    """Any array, tensor or nested sequence as float64."""
    try:
        if torch.is_tensor(value):
            value = value.detach().cpu().double().numpy()
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must be a regular array of numbers ({error})") from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} must be numbers, got {array.dtype}")
    return array.astype(np.float64)


def array_of(
    data: Mapping[str, Any], key: str, shape: tuple[int | None, ...] | None, where: str = "", finite: bool = True
) -> np.ndarray:
    """A finite float64 array of a shape; None stands for any length, or any shape."""
    name = f"{key} in {where}" if where else key
    array = numbers(needed(data, key, where), name)
    if shape is not None:
        fits = array.ndim == len(shape) and all(b in (None, a) for a, b in zip(array.shape, shape, strict=True))
        if not fits:
            text = ", ".join("N" if length is None else str(length) for length in shape)
            raise InputError(f"{name} must have shape ({text}), got {array.shape}")
    if finite and not np.isfinite(array).all():
        raise InputError(f"{name} must be finite")
    return array


def float32_of(values: Any, name: str) -> np.ndarray:
    """Numbers as float32.

    Raises:
        InputError: One of them is not finite, or becomes so.
    """
    values = np.asarray(values, np.float64)
    with np.errstate(over="ignore"):
        array = values.astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{name} must be finite in float32, got {values[~np.isfinite(array)][0]:g}")
    return array


def check_camera(intrinsics: np.ndarray, name: str) -> None:
    """Raises InputError if (3, 3) intrinsics are no camera's: focal lengths above 0, and the last row 0, 0, 1."""
    if not (intrinsics[(0, 1), (0, 1)] > 0).all() or (intrinsics[2] != (0, 0, 1)).any():
        raise InputError(f"{name} must have focal lengths above 0 and the last row 0, 0, 1, got {intrinsics.tolist()}")


def right_flags(data: Mapping[str, Any], key: str, count: int, where: str = "") -> np.ndarray:
    """(count,) of 0 and 1."""
    if key not in data:
        raise InputError(f"{key} (B,), 1 for right hands and 0 for left ones, is missing; HaMeR has it in the batch")
    values = array_of(data, key, (count,), where)
    if not np.isin(values, (0, 1)).all():
        raise InputError(f"{key}{f' in {where}' if where else ''} must be 1 (right) or 0 (left), got {values.tolist()}")
    return values


def source_words(data: Mapping[str, Any], key: str, count: int) -> list[str]:
    values = np.asarray(data[key])
    if values.shape != (count,) or values.dtype.kind != "U":
        raise InputError(f"{key} must be {count} strings, got {values.dtype} of shape {values.shape}")
    return [source_word(value, f"row {row}") for row, value in enumerate(values.tolist())]


def source_word(value: Any, name: str) -> str:
    if not isinstance(value, str) or value not in SOURCES:
        raise InputError(f"{name}: intrinsics_source must be one of {', '.join(SOURCES)}, got {value!r:.50}")
    return value


def image_sizes(value: Any, count: int) -> np.ndarray:
    """(B, 2) width and height."""
    size = numbers(value, "image_size")
    if size.shape not in ((2,), (count, 2)) or not np.isfinite(size).all() or not (size >= 1).all():
        raise InputError(f"image_size must be (width, height), or ({count}, 2), in pixels; got {size.tolist()}")
    return np.broadcast_to(size, (count, 2))


def check_positive(values: np.ndarray, name: str) -> None:
    if not (values > 0).all():
        raise InputError(f"{name} must be above 0, got {values.min():g}")
