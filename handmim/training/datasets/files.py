"""Files of data sets, read with suspicion: what a label file says never leads out of its folder, sizes are limited,
and whatever is missing or unreadable is a `DataError` that names the file.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from ...errors import NPZ_ERRORS, DataError, HandMIMError, ImageError
from ...images import IMAGE_FORMATS, IMAGE_SUFFIXES, load_image
from ...safe_pickle import safe_pickle_load
from .sample import Part

MAX_TEXT_BYTES = 64 * 2**20
MAX_JSON_BYTES = 1024 * 2**20
MAX_ARRAY_BYTES = 1024 * 2**20
MAX_PICKLE_BYTES = 256 * 2**20

# ---------------------------------------------------------------------------------------------------------------------
# Where files are


def inside(root: str | Path, relative: str, source: str = "a label file") -> Path:
    """The path that a label file names, if it lies below a folder, after all symbolic links.

    Args:
        root: The folder; may itself be a link.
        relative: What the label file says, with / or \\ between names.
        source: Who says so, for the message.

    Returns:
        `root` / `relative`, which need not exist.

    Raises:
        DataError: The path is absolute, climbs out of the folder, or a link on the way leads out of it.
    """
    text = str(relative).replace("\\", "/")
    pure = PurePosixPath(text)
    bad = not pure.parts or "\0" in text or pure.is_absolute() or PureWindowsPath(text).drive or ".." in pure.parts
    path = Path(root, *pure.parts)
    if not bad:
        try:
            bad = not path.resolve().is_relative_to(Path(root).resolve())
        except (OSError, RuntimeError):  # a loop of links
            bad = True
    if bad:
        raise DataError(f"{source} names the file {str(relative)!r:.200}, which is not below {root}; it is not read")
    return path


def require(path: Path, what: str) -> Path:
    """The path of a file that must be there.

    Args:
        path: The file.
        what: What it is and where it is from, for the message.

    Raises:
        DataError: It is not there, or not a file.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing: {what}")
    return path


def require_folder(path: Path, what: str) -> Path:
    """As `require`, for a folder."""
    if not path.is_dir():
        raise DataError(f"{path} is missing: {what}")
    return path


def names_in(folder: Path, suffix: str | Sequence[str] = "") -> set[str]:
    """Names of the entries of a folder that end in one of the suffixes; empty if there is no such folder."""
    if not folder.is_dir():
        return set()
    endings = (suffix,) if isinstance(suffix, str) else tuple(suffix)
    return {path.name for path in folder.iterdir() if path.name.endswith(endings) and not path.name.startswith(".")}


def list_images(folder: Path, what: str) -> list[Path]:
    """The pictures directly in a folder, by name.

    Raises:
        DataError: There is no such folder.
    """
    require_folder(folder, what)
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != ".")


def require_numbered(folder: Path, numbers: Iterable[int], digits: int, suffix: str, what: str) -> None:
    """Files named by numbers with leading zeros, such as 00000042.jpg, must all be there.

    Raises:
        DataError: Naming the first that is missing, and how many are.
    """
    present = names_in(require_folder(folder, what), suffix)
    missing = [number for number in numbers if f"{number:0{digits}d}{suffix}" not in present]
    if missing:
        first = folder / f"{missing[0]:0{digits}d}{suffix}"
        raise DataError(f"{first} is missing ({len(missing)} such files are): {what}")


def file_part(root: Path, path: str, purpose: str, required: bool = True) -> Part:
    """One file of the official layout."""
    return Part(path, purpose, int((root / path).is_file()), 1, required)


def folder_part(
    root: Path,
    path: str,
    purpose: str,
    expected: int | None = None,
    suffix: str | Sequence[str] = "",
    required: bool = True,
) -> Part:
    """A folder of the official layout, or several by `*`, whose files are counted."""
    folders = root.glob(path) if "*" in path else [root / path]
    return Part(path, purpose, sum(len(names_in(folder, suffix)) for folder in folders), expected, required)


# ---------------------------------------------------------------------------------------------------------------------
# Contents


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """A whole file.

    Raises:
        DataError: It is missing, too large or cannot be read.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise DataError(f"{path} has {size} bytes, more than the {max_bytes} that are read")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def load_lines(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> list[str]:
    """Lines of a UTF-8 text without the empty ones, stripped."""
    try:
        text = read_bytes(path, max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def load_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """A JSON file; large regular arrays are for `json_arrays.read_array`."""
    try:
        return json.loads(read_bytes(path, max_bytes))
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error


def load_pickle(path: Path, max_bytes: int = MAX_PICKLE_BYTES) -> Any:
    """A pickle of plain values and arrays; code in it is refused, not run."""
    require(path, "an annotation")
    try:
        return safe_pickle_load(path, max_bytes)
    except (HandMIMError, OSError) as error:
        raise DataError(f"{error}" if str(path) in str(error) else f"{path}: {error}") from error


def load_npz(path: Path, max_bytes: int = MAX_ARRAY_BYTES) -> dict[str, np.ndarray]:
    """Arrays of an .npz file, without pickles; what it unpacks to is limited too."""
    require(path, "arrays")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > max_bytes:
            raise DataError(f"{path} unpacks to {size} bytes, more than the {max_bytes} that are read")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except DataError:
        raise
    except NPZ_ERRORS as error:
        raise DataError(f"{path} is not an .npz of plain arrays: {error}") from error
    for name, value in arrays.items():
        if not isinstance(value, np.ndarray):  # numpy hands out other members as bytes
            raise DataError(f"{path} is not an .npz of plain arrays: {name} is no array")
    return arrays


def load_mat(path: Path, names: Sequence[str], max_bytes: int = MAX_TEXT_BYTES) -> dict[str, np.ndarray]:
    """Arrays of numbers of a MATLAB file (before version 7.3).

    Args:
        path: The file.
        names: The variables that it must hold.
        max_bytes: Largest file to read.

    Raises:
        DataError: The file or a variable is missing, or a variable is no array of numbers.
    """
    size = len(read_bytes(require(path, "MATLAB arrays"), max_bytes))
    try:
        from scipy.io import loadmat, whosmat
    except ImportError as error:
        raise DataError(f"{path} needs scipy to be read: pip install 'handmim[eval]'") from error
    try:
        # Compressed variables may unfold to far more than the file.
        stated = sum(8 * math.prod(shape) for _, shape, _ in whosmat(path))
        if stated > 32 * max_bytes:
            raise DataError(f"{path} has {size} bytes and unfolds to {stated}, more than is read")
        found = loadmat(path, variable_names=list(names))
    except DataError:
        raise
    except Exception as error:  # scipy has errors of its own, derived from Exception only
        raise DataError(f"{path} is not a MATLAB file that can be read: {error}") from error
    for name in names:
        if not isinstance(found.get(name), np.ndarray) or found[name].dtype.kind not in "fiub":
            raise DataError(f"{path} must hold the array of numbers {name!r}")
    return {name: found[name] for name in names}


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB pixels.

    Raises:
        DataError: The picture is missing, damaged or too large.
    """
    try:
        return load_image(path).pixels
    except ImageError as error:
        raise DataError(str(error)) from error


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of a picture as `read_image` gives it, upright, from its header.

    Raises:
        DataError: The picture is missing or is none.
    """
    from PIL import ExifTags, Image

    try:
        with Image.open(path, formats=IMAGE_FORMATS) as picture:
            on_its_side = picture.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return picture.size[::-1] if on_its_side else picture.size
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a picture that can be read ({error}); give a JPEG or PNG") from error


def read_mask(path: Path, above: int = 127, channel: int | None = None, size: tuple[int, int] | None = None) -> Any:
    """A mask from a picture; with `functools.partial`, a sample's `load_mask`.

    Args:
        path: The picture.
        above: Pixels of larger values belong to the mask: 127 for masks in JPEG, 0 for label maps.
        channel: 0, 1 or 2 of red, green and blue; None takes the largest of the three.
        size: (width, height) of the image, to which a smaller or larger mask is stretched; None leaves it.

    Returns:
        (H, W) bool.
    """
    pixels = read_image(path)
    mask = (pixels.max(2) if channel is None else pixels[..., channel]) > above
    if size is None or mask.shape == size[::-1]:
        return mask
    rows = ((np.arange(size[1]) + 0.5) * mask.shape[0] / size[1]).astype(int)
    columns = ((np.arange(size[0]) + 0.5) * mask.shape[1] / size[0]).astype(int)
    return mask[rows][:, columns]
