"""Unlabelled pictures of hands for pre-training: folders, crops with a manifest, labelled data sets, synthetic hands.

A collection maps an index to uint8 RGB pixels. What is wrong with a picture is a `DataError` that names it; whether
that ends a run or skips the picture is the reader's choice (`handmim/training/datasets/view_pairs.py`). How pictures of
any mode become 8-bit RGB, and the limits on their size, stand in `handmim/images.py`.
"""

from __future__ import annotations

import bisect
import itertools
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ...errors import DataError, HandMIMError, ImageError
from ...images import IMAGE_SUFFIXES, LoadedImage, load_image, load_reduced
from .boxes import box_side, sample_box
from .files import image_size, inside, load_lines, require, require_folder
from .sample import HandReader

if TYPE_CHECKING:
    from ...synthesis.variety import Variety

DEFAULT_SIZE = 256
"""Longest side of pictures that are handed out, pixels: a view of 224 px loses nothing."""
MANIFEST = "manifest.jsonl"
MAX_MANIFEST_BYTES = 1024 * 2**20
OUTSIDE = 127  # level of crops beyond their picture, as the image processor fills
_SMALLEST = 16  # px; less than that is a patch of the network and no picture


@dataclass(frozen=True, eq=False)
class ImageEntry:
    """What one index of a collection stands for.

    Attributes:
        name: Names the picture in messages.
        path: Its file.
        box: (4,) xyxy pixels of the hand, or None for the whole picture.
        mirror: Whether it is flipped left to right, as left hands may be.
    """

    name: str
    path: Path
    box: np.ndarray | None = None
    mirror: bool = False


class ImageCollection(ABC, Sequence[np.ndarray]):
    """Pictures by index.

    Attributes:
        name: For messages.
    """

    name: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB.

        Raises:
            DataError: The picture cannot be read or is unfit; it is named.
            IndexError: There is no such index.
        """

    def describe(self, index: int) -> str:
        """What the index stands for, for messages."""
        return f"{self.name} {index}"

    def read_many(self, indices: Sequence[int]) -> list[np.ndarray | DataError]:
        """Pictures, or why there is none."""
        results: list[np.ndarray | DataError] = []
        for index in indices:
            try:
                results.append(self[index])
            except DataError as error:
                results.append(error)
        return results

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))


class _FileImages(ImageCollection):
    """Pictures in files.

    Args:
        size: Longest side, pixels; larger ones are shrunk, JPEGs while they are decoded. None leaves them.
        box_scale: Side of a hand's square crop over the longer side of its box.
    """

    def __init__(self, name: str, size: int | None, box_scale: float) -> None:
        if size is not None and size < _SMALLEST:
            raise ValueError(f"size must be at least {_SMALLEST} px, got {size}")
        if not 0.5 <= box_scale <= 10:
            raise ValueError(f"box_scale must be in [0.5, 10], got {box_scale}")
        self.name, self.size, self.box_scale = name, size, box_scale

    @abstractmethod
    def entry(self, index: int) -> ImageEntry:
        """What to read."""

    def describe(self, index: int) -> str:
        return self.entry(index).name

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in [0, {len(self)}), got {index}")
        entry = self.entry(index)
        try:
            pixels = read_entry(entry, self.size, self.box_scale)
        except (HandMIMError, OSError) as error:
            message = str(error)
            raise DataError(message if entry.name in message else f"{entry.name}: {message}") from error
        return np.ascontiguousarray(pixels[:, ::-1]) if entry.mirror else pixels


class FolderImages(_FileImages):
    """Every picture below a folder, by path; hidden files and folders are left out, links to folders not followed.

    Args:
        root: The folder.
        size: Longest side, pixels.

    Raises:
        DataError: There is no such folder or no picture in it.
    """

    def __init__(self, root: str | Path, size: int | None = DEFAULT_SIZE) -> None:
        super().__init__("folder", size, 1.0)
        self.root = require_folder(Path(root), "a folder of pictures")
        self._paths = list(find_pictures(self.root))
        if not self._paths:
            raise DataError(f"{root} holds no picture; give a folder with {', '.join(sorted(IMAGE_SUFFIXES))} files")

    def __len__(self) -> int:
        return len(self._paths)

    def entry(self, index: int) -> ImageEntry:
        return ImageEntry(self._paths[index], self.root / self._paths[index])


class CropImages(_FileImages):
    """Hand crops as `handmim crops` writes them: pictures listed by manifest.jsonl.

    Args:
        root: The folder that holds the manifest.
        size: Longest side, pixels.
        mirror_left: Flip crops whose side is known to be left: mesh networks of this package see right hands only. The
            paper does not say that its pre-training did.

    Raises:
        DataError: The manifest is missing, empty or not what it should be; the line is named.
    """

    def __init__(self, root: str | Path, size: int | None = DEFAULT_SIZE, mirror_left: bool = False) -> None:
        super().__init__("crops", size, 1.0)
        self.root, self.mirror_left = Path(root), mirror_left
        path = require(self.root / MANIFEST, "the list of crops that `handmim crops` writes")
        self._files: list[str] = []
        self._left: list[bool] = []
        for number, line in enumerate(load_lines(path, MAX_MANIFEST_BYTES), 1):
            record = parse_record(line, f"{path}, line {number}", {"file": str})
            inside(self.root, record["file"], f"{path}, line {number}")
            self._files.append(record["file"])
            self._left.append(record.get("side") == "left")
        if not self._files:
            raise DataError(f"{path} lists no crop; run `handmim crops` on photos that show hands")

    def __len__(self) -> int:
        return len(self._files)

    def entry(self, index: int) -> ImageEntry:
        name = self._files[index]
        return ImageEntry(name, self.root / name, None, self.mirror_left and self._left[index])


class ReaderImages(_FileImages):
    """Square hand crops of a labelled data set, of which only the boxes are used.

    Args:
        reader: The data set. A sample's box is its own, or that of its labels, or the whole picture.
        size: Side of the crops, pixels; smaller hands are not enlarged.
        box_scale: Side of the crop over the longer side of the box; wider than for mesh estimation leaves room for
            turned views.
        mirror_left: As for `CropImages`.
    """

    def __init__(
        self, reader: HandReader, size: int | None = DEFAULT_SIZE, box_scale: float = 1.5, mirror_left: bool = False
    ) -> None:
        super().__init__(reader.name, size, box_scale)
        self.reader, self.mirror_left = reader, mirror_left

    def __len__(self) -> int:
        return len(self.reader)

    def entry(self, index: int) -> ImageEntry:
        sample = self.reader[index]
        name = f"sample {sample.id} of {self.reader.name}"
        return ImageEntry(name, sample.image, sample_box(sample), self.mirror_left and sample.handedness == "left")


class SyntheticImages(ImageCollection):
    """Rendered hands; picture i is that of (seed, first + i), the same in any batch.

    Args:
        length: How many.
        seed: Of the series.
        size: Side, pixels.
        first: Index of the first.
        negatives: Share of pictures without a right hand, in place of the variety's.
        variety: How much the pictures differ, see `handmim.synthesis.variety.find_variety`.
        betas: Up to ten numbers, the shape of every hand; None: a random one for each.
        options: Further arguments of `handmim.synthesis.generate`.

    Raises:
        DataError: A value of another type, or out of range.
    """

    name = "synthetic"

    def __init__(
        self,
        length: int,
        seed: int = 0,
        size: int = DEFAULT_SIZE,
        first: int = 0,
        *,
        negatives: float | None = None,
        variety: Variety | str | Mapping[str, Any] = "full",
        betas: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        from .rendering_options import betas_of, check_series, variety_of

        try:
            check_series(length, seed, size, first)
            self.options = options | {"variety": variety_of(variety, negatives), "betas": betas_of(betas)}
        except ValueError as error:
            raise DataError(f"synthetic pictures: {error}") from error
        self.length, self.seed, self.size, self.first = length, seed, size, first

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < self.length:
            raise IndexError(f"index must be in [0, {self.length}), got {index}")
        return self.read_many([index])[0]

    def read_many(self, indices: Sequence[int]) -> list[np.ndarray | DataError]:
        import torch

        from ...synthesis import generate  # rendering is far cheaper by the batch

        index = torch.tensor(indices, dtype=torch.int64) + self.first
        return list(generate(self.seed, index, size=self.size, **self.options).images.numpy())


class JoinedImages(ImageCollection):
    """Collections one after the other."""

    def __init__(self, parts: Sequence[ImageCollection]) -> None:
        if not parts:
            raise DataError("a collection of pictures needs at least one part")
        self.parts = list(parts)
        self.name = " + ".join(part.name for part in parts)
        self._ends = list(itertools.accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in [0, {len(self)}), got {index}")
        part = bisect.bisect_right(self._ends, index)
        return part, index - (self._ends[part - 1] if part else 0)

    def describe(self, index: int) -> str:
        part, local = self._locate(index)
        return self.parts[part].describe(local)

    def __getitem__(self, index: int) -> np.ndarray:
        part, local = self._locate(index)
        return self.parts[part][local]

    def read_many(self, indices: Sequence[int]) -> list[np.ndarray | DataError]:
        places = [self._locate(index) for index in indices]
        results: list[Any] = [None] * len(places)
        for number in sorted({part for part, _ in places}):
            chosen = [k for k, (part, _) in enumerate(places) if part == number]
            found = self.parts[number].read_many([places[k][1] for k in chosen])
            for k, result in zip(chosen, found, strict=True):
                results[k] = result
        return results


def open_images(kind: str, root: str | Path | None = None, split: str | None = None, **options: Any) -> ImageCollection:
    """A collection by name, as a recipe gives it.

    Args:
        kind: "folder", "crops", "synthetic", or a data set of `registry.READERS` (there `size`, `box_scale` and
            `mirror_left` are for the crops and other options for the reader).
        root: Folder; not for "synthetic".
        split: Of a data set.
        **options: Of the collection.

    Raises:
        DataError: An unknown name, a root that is missing, or what the collection finds wrong.
    """
    from .registry import READERS, open_dataset

    if kind == "synthetic":
        return SyntheticImages(**options)
    if kind not in ("folder", "crops", *READERS):
        known = ", ".join(["folder", "crops", "synthetic", *sorted(READERS)])
        raise DataError(f"a collection of pictures must be one of {known}, got {kind!r}")
    if root is None:
        raise DataError(f"the collection {kind!r} needs a root, the folder that holds it")
    if kind in ("folder", "crops"):
        return FolderImages(root, **options) if kind == "folder" else CropImages(root, **options)
    ours = {name: options.pop(name) for name in ("size", "box_scale", "mirror_left") if name in options}
    return ReaderImages(open_dataset(kind, root, split, **options), **ours)


# ---------------------------------------------------------------------------------------------------------------------
# Files


def find_pictures(root: Path, leave_out: Callable[[Path], bool] = lambda folder: False) -> Iterator[str]:
    """Paths relative to a folder, with /, of the pictures below it, in an order that depends on names alone.

    Args:
        root: The folder.
        leave_out: Tells of the folders below it which are not looked into; hidden ones never are.
    """
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not leave_out(Path(folder, name)))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                yield Path(folder, name).relative_to(root).as_posix()


def parse_record(line: str, place: str, fields: dict[str, type]) -> dict[str, Any]:
    """One line of a manifest.

    Args:
        line: JSON text of an object.
        place: File and line, for messages.
        fields: What it must hold, and of which type.

    Raises:
        DataError: It is not such an object.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise DataError(f"{place} must be an object, got {line:.80}")
    for name, kind in fields.items():
        if not isinstance(record.get(name), kind):
            raise DataError(f"{place}: {name} must be of type {kind.__name__}, got {record.get(name)!r:.80}")
    return record


def read_entry(entry: ImageEntry, size: int | None, box_scale: float) -> np.ndarray:
    """The pixels of an entry: the whole picture, at most `size` long, or the square crop around its box.

    Raises:
        ImageError, DataError: It cannot be read, is too small, or the box makes no sense.
    """
    if entry.box is not None:
        extent = box_scale * box_side(entry.box)
        return cut_square(_load(entry.path, extent, size), entry.box, size, box_scale)
    longest = 0 if size is None else max(image_size(entry.path)) if entry.path.is_file() else 0
    pixels = _load(entry.path, longest, size).pixels
    if size is not None:
        pixels = shrink(pixels, size)
    if min(pixels.shape[:2]) < _SMALLEST:  # of long and thin pictures, too, what is seen of them is too small
        limit = "" if size is None else f" with its longer side at most {size}"
        raise ImageError(
            f"{entry.path} is too small: {pixels.shape[1]} x {pixels.shape[0]} px{limit}, less than {_SMALLEST}"
        )
    return pixels


def _load(path: Path, extent: float, size: int | None) -> LoadedImage:
    """Read a picture, decoding no finer than needed to show `extent` pixels of it in `size`."""
    octaves = 0 if size is None or extent < 2 * size else min(3, int(math.log2(extent / size)))
    return load_reduced(path, 2**octaves) if octaves else load_image(path)


def shrink(pixels: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) uint8 with its longer side at most `size`; nothing is enlarged."""
    longest = max(pixels.shape[:2])
    if longest <= size:
        return pixels
    height, width = (max(1, round(side * size / longest)) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0))


def cut_square(image: LoadedImage, box: np.ndarray, size: int | None, box_scale: float) -> np.ndarray:
    """The square around a box.

    Args:
        image: The picture, perhaps decoded at a reduced size.
        box: (4,) xyxy, pixels of the full picture.
        size: Largest side of the result; smaller squares keep their pixels. None: they always do.
        box_scale: Side of the square over the longer side of the box.

    Returns:
        (S, S, 3) uint8; beyond the picture `OUTSIDE`.

    Raises:
        DataError: Less than 16 pixels, or nothing of the picture, would be in it.
    """
    side = box_scale * box_side(box) / image.reduction
    # From pixel centres to edges: an edge of the full picture is one of the reduced picture, divided.
    centre = (np.array([box[0] + box[2], box[1] + box[3]], np.float64) + 1) / (2 * image.reduction)
    target = round(side) if size is None else min(size, round(side))
    if target < _SMALLEST:
        raise DataError(f"the box {np.round(box, 1).tolist()} is too small: its crop has {side:.0f} px")
    height, width = image.pixels.shape[:2]
    corner = centre - side / 2
    low = corner.clip(0, [width, height])
    high = (corner + side).clip(0, [width, height])
    first, last = (np.round((edge - corner) * (target / side)).astype(int) for edge in (low, high))
    if (high - low < 1).any() or (last - first < 1).any():
        raise DataError(f"the box {np.round(box, 1).tolist()} lies outside the picture of {image.size} px")
    whole_low, whole_high = np.floor(low).astype(int), np.ceil(high).astype(int)
    part = Image.fromarray(image.pixels[whole_low[1] : whole_high[1], whole_low[0] : whole_high[0]])
    inner = (*(low - whole_low), *(high - whole_low))
    part = part.resize(tuple(last - first), Image.Resampling.BILINEAR, box=inner, reducing_gap=2.0)
    crop = np.full((target, target, 3), OUTSIDE, np.uint8)
    crop[first[1] : last[1], first[0] : last[0]] = np.asarray(part)
    return crop
