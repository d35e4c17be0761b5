"""Pictures look as they did, and lose everything that was written beside them."""

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from handmim.picture_files import without_metadata

SECRET = b"Anna Example"


def picture(size: tuple[int, int] = (40, 24)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def exif(orientation: int = 1) -> Image.Exif:
    found = Image.Exif()
    found[0x0112], found[0x013B], found[0x010E] = orientation, SECRET.decode(), "at home"
    found.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 0.0)})
    return found


def saved(kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture().save(out, kind, **options)
    return out.getvalue()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def texts() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", SECRET.decode())
    info.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    return info


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"exif": exif(), "comment": SECRET, "xmp": SECRET}),
        ("JPEG", {"exif": exif(), "progressive": True}),
        ("PNG", {"exif": exif(), "pnginfo": texts()}),
        ("WEBP", {"exif": exif(), "xmp": SECRET}),
        ("WEBP", {"exif": exif(), "lossless": True}),
    ],
)
def test_metadata_go_and_the_picture_stays(kind: str, options: dict) -> None:
    before = saved(kind, **options) + (b"" if kind == "WEBP" else SECRET)  # as phones append a film
    after = without_metadata(before)
    assert SECRET in before and SECRET not in after and b"at home" not in after
    moved = np.abs(pixels(after).astype(int) - pixels(before))
    assert moved.mean() < {"JPEG": 4, "PNG": 1e-9, "WEBP": 4}[kind]
    assert not dict(Image.open(io.BytesIO(after)).getexif())


def test_colour_profiles_stay() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind in ("JPEG", "PNG", "WEBP"):
        assert Image.open(io.BytesIO(without_metadata(saved(kind, icc_profile=profile)))).info["icc_profile"] == profile


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_that_is_to_be_turned_is_turned(kind: str) -> None:
    after = without_metadata(saved(kind, exif=exif(6)))
    assert Image.open(io.BytesIO(after)).size == (24, 40) and SECRET not in after
    assert Image.open(io.BytesIO(after)).format == kind


def test_what_is_no_picture_is_refused() -> None:
    whole = saved("PNG")
    for content in (b"", b"png", b"GIF89a", whole[: len(whole) // 2], saved("JPEG")[:300], saved("WEBP")[:100]):
        with pytest.raises(ValueError, match=r"no JPEG, PNG or WebP|damaged"):
            without_metadata(content)
