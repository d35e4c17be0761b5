"""Pictures for publishing, without what a camera or a program wrote beside the pixels: places, names, times."""

import io
from typing import Any

from PIL import Image, ImageOps, JpegImagePlugin

KINDS = ("JPEG", "PNG", "WEBP")
WEBP_QUALITY = 95


def without_metadata(content: bytes) -> bytes:
    """A JPEG, PNG or WebP file with its picture, upright, its colour profile and nothing else.

    A JPEG keeps the quality that it was saved with.

    Raises:
        ValueError: It is none of these, or damaged.
    """
    try:
        with Image.open(io.BytesIO(content), formats=KINDS) as image:
            image.load()
            kind, upright = image.format, ImageOps.exif_transpose(image)
            profile = image.info.get("icc_profile")
            upright.info = {}  # what Pillow would write again
            out = io.BytesIO()
            upright.save(out, kind, icc_profile=profile, **_quality(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"it is no JPEG, PNG or WebP file, or it is damaged: {error}") from error
    return out.getvalue()


def _quality(image: Image.Image) -> dict[str, Any]:
    """Options by which Pillow compresses a picture as it was."""
    if image.format == "JPEG":
        return {"qtables": image.quantization, "subsampling": JpegImagePlugin.get_sampling(image)}
    return {"quality": WEBP_QUALITY} if image.format == "WEBP" else {}
