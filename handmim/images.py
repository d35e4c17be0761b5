"""Reading pictures safely: from a path, a URL, bytes, PIL or an array to RGB pixels and a focal length.

What is done to every picture, and stated only here:

* the EXIF orientation is applied, so pixels are as the photographer saw them;
* an animation or a multi-page file gives its first frame;
* transparency is laid on white (cut-out pictures often hide black or noise under their transparent pixels);
* grey, palette, CMYK and 16-bit pictures become 8-bit RGB; colour profiles are ignored;
* pictures above ``MAX_PIXELS`` are refused before a pixel is decoded.
"""

import base64
import binascii
import http.client
import io
import math
import os
import re
import struct
import urllib.error
import urllib.request
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from .errors import ImageError

MAX_PIXELS = 64_000_000
"""Largest picture that is decoded, pixels (192 MB as RGB): above every phone's default, below a decompression bomb."""
MIN_SIDE = 8
"""Smallest side of a picture, pixels: nothing can be said about a hand in less."""
MAX_DOWNLOAD_BYTES = 64_000_000
DOWNLOAD_TIMEOUT_SECONDS = 20.0
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})
# Of Pillow's: others run programs (EPS asks Ghostscript), or decode before their size can be looked at (ICO).
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")
# What this package draws: no picture to look for hands in.
_SHOWN = 250  # characters of a name in messages
_LONGEST_PATH = 4096  # characters, of Linux; shorter text is the name of a file
_DRAWN = re.compile(r"\.(overlay|\d+\.(mask|heatmaps|pof|features))\.png$", re.ASCII)

FULL_FRAME_DIAGONAL_MM = math.hypot(36.0, 24.0)
_MILLIMETRES_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # EXIF FocalPlaneResolutionUnit
# What Pillow's decoders raise on damaged files, beside OSError.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError, OverflowError)
_DECODE_ERRORS += (struct.error, zlib.error, Image.DecompressionBombError, MemoryError)


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """A decoded picture.

    Attributes:
        pixels: (H, W, 3) uint8 RGB in [0, 255], upright.
        focal: focal length from EXIF, pixels; None where the file does not say.
        name: file name or URL, for messages.
        reduction: how many pixels of the picture one of ``pixels`` stands for, along each axis (`load_reduced`).
        full_size: (width, height) of the picture before that; None if it was not reduced.
    """

    pixels: np.ndarray
    focal: float | None = None
    name: str = "image"
    reduction: int = 1
    full_size: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), pixels; of the picture as it is on disk, even if it was decoded at a reduced size."""
        return self.full_size or (self.pixels.shape[1], self.pixels.shape[0])


def load_reduced(path: Path, reduction: int) -> LoadedImage:
    """Read a picture of which only a coarse version is needed; a JPEG is decoded at 1/2, 1/4 or 1/8 of its size.

    Pixel x of the result is centred on ``reduction * (x + 0.5) - 0.5`` of the picture; `LoadedImage.reduction` says
    what was done (1 for other formats).

    Args:
        path: of the picture.
        reduction: 1, 2, 4 or 8, the largest that may be applied.

    Raises:
        ImageError: naming the picture and what to do.
    """
    return _from_path(path, MAX_PIXELS, reduction)


def load_image(source: Any, max_pixels: int = MAX_PIXELS) -> LoadedImage:
    """Read one picture.

    Args:
        source: path, http(s) or data: URL, encoded bytes or their base64 text, PIL picture, uint8 array (H, W),
            (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, or a :class:`LoadedImage`, returned as it is.
        max_pixels: refuse larger pictures.

    Returns:
        The picture as 8-bit RGB, upright.

    Raises:
        ImageError: naming the picture and what to do.
    """
    if isinstance(source, LoadedImage):
        return source
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return _from_pil(source, getattr(source, "filename", "") or "the PIL picture", max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(source), "the given bytes", max_pixels)
    if isinstance(source, str) and is_url(source):
        return _from_bytes(download(source), source, max_pixels)
    if isinstance(source, str) and (data := _encoded(source)) is not None:
        return _from_bytes(data, "the base64 text", max_pixels)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(Path(source), max_pixels)
    raise ImageError(
        f"an image must be a path, a URL, bytes, a PIL picture or a uint8 array (H, W, 3), got {type(source).__name__}"
    )


def is_single_image(images: Any) -> bool:
    """Whether ``images`` is one picture; otherwise it is a sequence of pictures (an array (B, H, W, C) counts)."""
    if isinstance(images, np.ndarray):
        return images.ndim <= 3
    if isinstance(images, (str, bytes, bytearray, memoryview)):
        return True
    return not isinstance(images, Sequence)


def list_images(folder: Path) -> list[Path]:
    """The pictures directly inside a folder, by name, without hidden files and what this package draws.

    Raises:
        ImageError: if there is none.
    """
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not path.name.startswith(".")
        and not _DRAWN.search(path.name)
    )
    if not paths:
        raise ImageError(f"{folder} holds no image; give a folder with {', '.join(sorted(IMAGE_SUFFIXES))} files")
    return paths


def is_url(text: str) -> bool:
    """Whether a string is an http(s) address."""
    return text.lower().startswith(("http://", "https://"))


def download(url: str, max_bytes: int = MAX_DOWNLOAD_BYTES, timeout: float = DOWNLOAD_TIMEOUT_SECONDS) -> bytes:
    """Fetch an http(s) address.

    Args:
        url: where.
        max_bytes: give up beyond this size.
        timeout: for each network operation, seconds.

    Raises:
        ImageError: not reachable, refused, too slow or too large.
    """
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "handmim"})
        with urllib.request.urlopen(request, timeout=timeout) as response:
            if not is_url(response.geturl()):
                raise ImageError(f"{url} leads to an address that is not http(s): {response.geturl()}")
            data = response.read(max_bytes + 1)
    except urllib.error.HTTPError as error:
        raise ImageError(f"{url} answered {error.code} {error.reason}; check the address") from error
    except (OSError, ValueError, EOFError, http.client.HTTPException) as error:  # URLError, timeouts are OSError
        reason = getattr(error, "reason", error)
        raise ImageError(f"{url} could not be fetched ({reason}); check the address and the network") from error
    if len(data) > max_bytes:
        raise ImageError(f"{url} is larger than {max_bytes / 1e6:.0f} MB; download it and give a smaller file")
    return data


def _encoded(text: str) -> bytes | None:
    """The picture of a `data:` address, or of base64 text that is too long for a path; None: it is neither."""
    head, _, tail = text.partition(",")
    address = text.startswith("data:image/") and head.endswith(";base64")
    if not address and len(text) < _LONGEST_PATH:
        return None
    try:
        return base64.b64decode(tail if address else text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _from_path(path: Path, max_pixels: int, reduction: int = 1) -> LoadedImage:
    name = str(path)[:_SHOWN]
    try:
        if path.is_dir():
            raise ImageError(f"{name} is a folder; give an image file")
        data = path.read_bytes() if path.is_file() else None
    except OSError as error:
        raise ImageError(f"{name} could not be read ({error.strerror}); check its name and permissions") from error
    if data is None:
        raise ImageError(f"{name} does not exist or is not a file; check the path")
    return _from_bytes(data, str(path), max_pixels, reduction)


def _from_bytes(data: bytes, name: str, max_pixels: int, reduction: int = 1) -> LoadedImage:
    if not data:
        raise ImageError(f"{name} is empty; give an image file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            picture = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is larger than the limit of {max_pixels / 1e6:g} megapixels; shrink it") from error
    except _DECODE_ERRORS as error:
        raise ImageError(f"{name} is not an image that can be read; give a JPEG, PNG, WebP, TIFF or BMP") from error
    with picture:
        return _from_pil(picture, name, max_pixels, reduction)


def _from_pil(picture: Image.Image, name: str, max_pixels: int, reduction: int = 1) -> LoadedImage:
    _check_size(*picture.size, name, max_pixels)
    focal = exif_focal(picture)
    stored_size = picture.size
    reduction = _reduce_decoding(picture, reduction)
    try:
        picture.load()
    except _DECODE_ERRORS as error:
        raise ImageError(f"{name} is damaged or truncated ({error}); export or download it again") from error
    if not _is_upright(picture):
        try:
            picture = ImageOps.exif_transpose(picture)
        except _DECODE_ERRORS:
            pass  # a damaged EXIF block says nothing about orientation: the pixels are as stored
    return LoadedImage(_to_rgb(picture, name), focal, name, reduction, stored_size if reduction > 1 else None)


def _reduce_decoding(picture: Image.Image, reduction: int) -> int:
    """Ask Pillow's JPEG decoder for a smaller picture; what it agreed to."""
    # not of a turned picture: a last, partial block would become the first one
    if reduction == 1 or picture.format != "JPEG" or not _is_upright(picture):
        return 1
    width, height = picture.size
    # draft takes the largest of 1, 2, 4, 8 that leaves at least this size
    agreed = picture.draft(None, (width // reduction, height // reduction))
    return 1 if agreed is None else round(width / agreed[1][2])


def _is_upright(picture: Image.Image) -> bool:
    """Whether nothing is to be turned: exif_transpose would copy the pixels all the same."""
    try:
        return picture.getexif().get(ExifTags.Base.Orientation, 1) == 1
    except _DECODE_ERRORS:
        return True


def _from_array(array: np.ndarray, max_pixels: int) -> LoadedImage:
    if array.dtype != np.uint8:
        raise ImageError(f"an image array must be uint8 in [0, 255], got {array.dtype}; convert it first")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ImageError(f"an image array must be (H, W), (H, W, 3) or (H, W, 4), got shape {array.shape}")
    _check_size(array.shape[1], array.shape[0], "the array", max_pixels)
    if array.ndim == 3 and array.shape[2] == 3:
        return LoadedImage(array, None, "the array")
    return LoadedImage(_to_rgb(Image.fromarray(array), "the array"), None, "the array")


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"{name} has {width} x {height} = {width * height / 1e6:.0f} megapixels, above the limit of "
            f"{max_pixels / 1e6:g}; shrink it"
        )
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name} has {width} x {height} pixels; an image needs at least {MIN_SIDE} x {MIN_SIDE}")


def _to_rgb(picture: Image.Image, name: str) -> np.ndarray:
    """(H, W, 3) uint8 of a picture in any of Pillow's modes."""
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        picture = Image.fromarray(_to_8_bit(np.asarray(picture), name))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        if picture.mode in ("La", "RGBa"):  # premultiplied: only the plain twin converts further
            picture = picture.convert(picture.mode[:-1] + "A")
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture)
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _to_8_bit(values: np.ndarray, name: str) -> np.ndarray:
    """(H, W) grey of 16-bit integers, or floats in [0, 1] or [0, 255], to uint8."""
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    if not (math.isfinite(low) and math.isfinite(high)) or low < 0 or high > 65535:
        raise ImageError(f"{name} has grey values from {low:g} to {high:g}; convert it to 8 bits")
    top = 1.0 if high <= 1 else 255.0 if high <= 255 else 65535.0
    return np.round(values * (255 / top)).astype(np.uint8)


def exif_focal(picture: Image.Image) -> float | None:
    """The focal length that a photo's EXIF block gives, in pixels of the picture as it is now.

    ``FocalLengthIn35mmFilm`` is related to the diagonal of 36 x 24 mm, as cameras do (CIPA DCG-001); otherwise
    ``FocalLength`` with the sensor's density, rescaled if the picture was, which takes the width that it had. A
    picture whose proportions differ from those EXIF states was cut after exposure: its focal length is not believed.

    Returns:
        Pixels, or None where the file says nothing believable.
    """
    try:
        exif = picture.getexif()
        block = exif.get_ifd(ExifTags.IFD.Exif) or exif
        width, height = picture.size
        stated_width = float(block.get(ExifTags.Base.ExifImageWidth) or width)
        stated_height = float(block.get(ExifTags.Base.ExifImageHeight) or height)
        ratio = max(width, height) / min(width, height)
        if abs(max(stated_width, stated_height) / min(stated_width, stated_height) / ratio - 1) > 0.02:
            return None
        diagonal = math.hypot(width, height)
        focal = float(block.get(ExifTags.Base.FocalLengthIn35mmFilm) or 0) * diagonal / FULL_FRAME_DIAGONAL_MM
        if not focal:
            unit = _MILLIMETRES_PER_UNIT.get(int(block.get(ExifTags.Base.FocalPlaneResolutionUnit) or 2), 25.4)
            density = float(block.get(ExifTags.Base.FocalPlaneXResolution) or 0) / unit  # sensor pixels a millimetre
            known = block.get(ExifTags.Base.ExifImageWidth) or block.get(ExifTags.Base.ExifImageHeight)
            shrink = max(width, height) / max(stated_width, stated_height) if known else 0.0
            focal = float(block.get(ExifTags.Base.FocalLength) or 0) * density * shrink
    except (*_DECODE_ERRORS, ZeroDivisionError, AttributeError):
        return None
    # From a fisheye to a long telephoto lens; anything else is a typing error of some program.
    return focal if math.isfinite(focal) and 0.2 <= focal / diagonal <= 40 else None
