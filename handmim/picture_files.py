"""Pictures for publishing, without what a camera or a program wrote beside the pixels: places, names, times, previews.

The compressed pixels stay as they are, byte for byte. Only a picture that its metadata say to turn is saved again.
"""

import io
import struct
from collections.abc import Callable, Iterator

JPEG, PNG, WEBP = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF"
JPEG_QUALITY = 95
# Segments of a JPEG that say how to read it: JFIF, the colour profile, Adobe's colour transform. Comments and other
# APPn are about the picture.
_APP0, _APP2, _APP14, _APP15, _COMMENT = 0xE0, 0xE2, 0xEE, 0xEF, 0xFE
_SCAN, _END = 0xDA, 0xD9
_IN_SCAN = {0x00, *range(0xD0, 0xD8)}  # stuffed bytes and restart markers
# Chunks of a PNG beside the critical ones (in capitals) that change how it looks.
_PNG_LOOKS = (
    b"tRNS",
    b"gAMA",
    b"cHRM",
    b"sRGB",
    b"iCCP",
    b"cICP",
    b"sBIT",
    b"bKGD",
    b"pHYs",
    b"acTL",
    b"fcTL",
    b"fdAT",
)
_WEBP_LOOKS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"ICCP")
_WEBP_HEAD, _WEBP_METADATA = b"VP8X", 0x08 | 0x04  # flags of EXIF and XMP


def without_metadata(content: bytes) -> bytes:
    """A JPEG, PNG or WebP file with its picture, its colour profile and nothing else.

    Raises:
        ValueError: It is none of these, or damaged.
    """
    cleaner = _cleaner(content)
    try:
        return b"".join(cleaner(_upright(content)))
    except (OSError, SyntaxError, IndexError, struct.error) as error:
        raise ValueError(f"it is damaged: {error}") from error


def _cleaner(content: bytes) -> Callable[[bytes], Iterator[bytes]]:
    if content.startswith(JPEG):
        return _jpeg
    if content.startswith(PNG):
        return _png
    if content.startswith(WEBP) and content[8:12] == b"WEBP":
        return _webp
    raise ValueError("it is no JPEG, PNG or WebP file")


def _upright(content: bytes) -> bytes:
    """The same file, unless EXIF says to turn the picture: then a new one that is turned."""
    from PIL import ExifTags, Image, ImageOps

    with Image.open(io.BytesIO(content)) as image:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return content
        out = io.BytesIO()
        profile = image.info.get("icc_profile")
        ImageOps.exif_transpose(image).save(out, image.format, quality=JPEG_QUALITY, icc_profile=profile)
    return out.getvalue()


def _jpeg(content: bytes) -> Iterator[bytes]:
    yield JPEG
    start = 2
    while True:
        while content[start + 1] == 0xFF:  # padding
            start += 1
        if content[start] != 0xFF:
            raise ValueError(f"it is damaged: no segment at byte {start}")
        marker = content[start + 1]
        if marker == _END:  # what follows is another picture or a film, of the same moment
            yield content[start : start + 2]
            return
        end = start + 2 + struct.unpack_from(">H", content, start + 2)[0]
        if marker == _SCAN:
            end = _scan_end(content, end)
        if _is_for_reading(marker, content[start + 4 : end]):
            yield content[start:end]
        start = end


def _is_for_reading(marker: int, body: bytes) -> bool:
    if marker == _APP2:
        return body.startswith(b"ICC_PROFILE\0")
    if marker == _APP0:
        return body.startswith(b"JFIF\0")
    return marker == _APP14 or not (_APP0 <= marker <= _APP15 or marker == _COMMENT)


def _scan_end(content: bytes, start: int) -> int:
    """Where the next segment begins after the compressed pixels."""
    while True:
        start = content.index(b"\xff", start)
        if content[start + 1] not in _IN_SCAN and content[start + 1] != 0xFF:
            return start
        start += 1


def _png(content: bytes) -> Iterator[bytes]:
    yield PNG
    start, kind = len(PNG), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, start)
        if start + 12 + length > len(content):
            raise ValueError("it is damaged: it ends too early")
        if kind[:1].isupper() or kind in _PNG_LOOKS:
            yield content[start : start + 12 + length]
        start += 12 + length


def _webp(content: bytes) -> Iterator[bytes]:
    size = struct.unpack_from("<I", content, 4)[0]
    kept, start = [], 12
    while start < 8 + size:
        kind, length = struct.unpack_from("<4sI", content, start)
        end = start + 8 + length + length % 2
        if start + 8 + length > len(content):
            raise ValueError("it is damaged: it ends too early")
        if kind == _WEBP_HEAD:
            flags = bytes([content[start + 8] & ~_WEBP_METADATA])
            kept.append(content[start : start + 8] + flags + content[start + 9 : end])
        elif kind in _WEBP_LOOKS:
            kept.append(content[start:end])
        start = end
    body = b"".join(kept)
    yield WEBP + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
