"""Checks of whole data sets before anything is trained: every fault named by sample and field, all in one go.

`check_reader` takes any data set; `check_dataset` a folder of one's own pictures and labels (`folder.py`), where faults
are named by line. What is tested stands in `value_checks.py`; this file walks, collects and reports.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import DataError, HandMIMError, ImageError
from ...images import MAX_PIXELS, MIN_SIDE, load_reduced
from .files import image_size, inside, read_mask
from .folder_lines import FILE_FIELDS, Line, read_lines
from .sample import HAND_MODEL_LABELS, LABEL_SHAPES, MESH_VERTICES, HandReader, HandSample
from .value_checks import Finding, LabelBlock, check_block, check_rotation_vectors

BLOCK = 1024  # samples that are tested at once
SHOWN = 5  # faults of a kind that are written out


class Problem(NamedTuple):
    """A fault: sample or line, its field ("" for the whole), a sentence."""

    place: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}, {self.field}: {self.message}" if self.field else f"{self.place} {self.message}"


@dataclass(eq=False)
class CheckReport:
    """What was found. Of each kind of fault in a field the first `SHOWN` are kept, and all are counted.

    Attributes:
        source: The data set or file.
        samples: How many samples were seen.
        labels: How many samples have each label.
        errors: First ones, by (kind, field).
        warnings: As `errors`: what is unlikely but can be right.
        notes: What the reader says of itself: labels that it left out, and why.
        error_counts, warning_counts: How many there are of each.
    """

    source: str
    samples: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    errors: dict[tuple[str, str], list[Problem]] = field(default_factory=dict)
    warnings: dict[tuple[str, str], list[Problem]] = field(default_factory=dict)
    error_counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    warning_counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings may be there."""
        return not self.error_counts

    def add(self, place: str, finding: Finding) -> None:
        """Count a fault, and keep it if it is one of the first of its kind."""
        kept, counts = (self.errors, self.error_counts) if finding.serious else (self.warnings, self.warning_counts)
        key = (finding.kind, finding.field)
        counts[key] += 1
        if counts[key] <= SHOWN:
            kept.setdefault(key, []).append(Problem(place, finding.field, finding.message))

    def lines(self) -> list[str]:
        """The report as text, errors first."""
        text = [*self._section("error", self.errors, self.error_counts)]
        text += self._section("warning", self.warnings, self.warning_counts)
        text += [f"note: {note}" for note in self.notes]
        labels = ", ".join(f"{name} {count}" for name, count in sorted(self.labels.items()))
        text.append(f"{self.source}: {self.samples} samples" + (f"; labels: {labels}" if labels else ""))
        errors, warnings = self.error_counts.total(), self.warning_counts.total()
        text.append(f"{errors or 'no'} error{'s'[: errors != 1]}, {warnings or 'no'} warning{'s'[: warnings != 1]}")
        return text

    def _section(
        self, word: str, kept: dict[tuple[str, str], list[Problem]], counts: Counter[tuple[str, str]]
    ) -> Iterable[str]:
        for key, problems in kept.items():
            yield from (f"{word}: {problem}" for problem in problems)
            if counts[key] > len(problems):
                kind = ", ".join(filter(None, key))
                yield f"{word}: ... and {counts[key] - len(problems)} more of this kind ({kind})"

    def raise_for_errors(self) -> None:
        """Stop a run.

        Raises:
            DataError: There are errors; the first three, and how many more.
        """
        if self.ok:
            return
        first = [str(problem) for problems in self.errors.values() for problem in problems][:3]
        more = self.error_counts.total() - len(first)
        rest = f"; and {more} more, which `handmim check-data --images` lists" if more else ""
        notes = "".join(f" ({note})" for note in self.notes)
        raise DataError(f"{self.source} has labels that cannot be trained on: {'; '.join(first)}{rest}{notes}")


def check_reader(
    reader: HandReader,
    images: bool = False,
    wanted: Collection[str] | None = None,
    unlabelled: bool = False,
    headers: int = 0,
) -> CheckReport:
    """Test the labels of all samples of a data set.

    Args:
        reader: Of any data set.
        images: Whether to decode every picture and mask as well, for points outside and files that cannot be read.
        wanted: Labels, or "mask", of which a sample must have one; None: any will do.
        unlabelled: Whether samples may be without labels, as self-supervision takes them.
        headers: Of how many samples, evenly spread, the picture's header is opened at least: enough to tell labels in
            another resolution than the pictures.

    Returns:
        What was found; nothing is raised for it.
    """
    report, block = CheckReport(f"{reader.name} in {reader.root}", notes=list(getattr(reader, "notes", ()))), _Block()
    seen: set[str] = set()
    pictures, opened = _Pictures(images), range(len(reader)) if images else evenly_spread(headers, len(reader))
    for number in range(len(reader)):
        try:
            sample = reader[number]
        except HandMIMError as error:
            report.add(f"sample number {number}", Finding(number, "unreadable", "", f"cannot be read: {error}"))
            continue
        place = f"sample {sample.id}"
        if sample.id in seen:
            report.add(place, Finding(number, "duplicate", "id", "another sample has this id"))
        seen.add(sample.id)
        _check_sample(sample, reader.hand_model, place, report)
        if not unlabelled and not has_label(sample, wanted):
            message = "has no label to train on"
            if wanted is not None:
                message = f"(number {number}) has none of {', '.join(wanted)} to train on; self-supervision is off"
            report.add(place, Finding(number, "no label", "", message))
        size = pictures.size(sample.image, place, report) if number in opened else None
        if images:
            for name, load in (("mask", sample.load_mask), ("foreground", sample.load_foreground)):
                if load is not None:
                    _open_mask(load, name, size, place, report)
        block.add(place, _known(sample.labels), sample.intrinsics, sample.box, size)
        block.flush(report, BLOCK)
    block.flush(report)
    return report


def evenly_spread(count: int, total: int) -> set[int]:
    """At most `count` of the numbers below `total`, the first and the last among them."""
    return set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist())


def _check_sample(sample: HandSample, hand_model: str | None, place: str, report: CheckReport) -> None:
    """Names and shapes of the labels of one sample."""
    report.samples += 1
    report.labels.update(sample.labels.keys())
    if sample.load_mask is not None:
        report.labels["mask"] += 1
    if sample.handedness not in ("left", "right", None):
        report.add(place, Finding(0, "form", "handedness", f"must be left or right, got {sample.handedness!r}"))
    for name, value in sample.labels.items():
        shape = LABEL_SHAPES.get(name)
        if shape is None:
            report.add(place, Finding(0, "unknown field", name, f"is not one of {', '.join(LABEL_SHAPES)}"))
            continue
        if name in HAND_MODEL_LABELS and hand_model is None:
            report.add(place, Finding(0, "no hand model", name, "belongs to a hand model, but the data set names none"))
        wanted = tuple(MESH_VERTICES.get(hand_model or "", len(value)) if n == "V" else n for n in shape)
        if np.shape(value) != wanted:
            report.add(place, Finding(0, "form", name, f"must have shape {wanted}, got {np.shape(value)}"))


def has_label(sample: HandSample, wanted: Collection[str] | None = None) -> bool:
    """Whether a sample has a label, of `wanted` if given, with any number in it."""
    if sample.load_mask is not None and (wanted is None or "mask" in wanted):
        return True
    return any(not np.isnan(value).all() for name, value in sample.labels.items() if wanted is None or name in wanted)


def _known(labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The labels whose shape can be tested further."""
    return {
        name: value
        for name, value in labels.items()
        if name in LABEL_SHAPES
        and np.ndim(value) == len(LABEL_SHAPES[name])
        and all(n in ("V", m) for n, m in zip(LABEL_SHAPES[name], np.shape(value), strict=True))
    }


def check_dataset(root: str | Path, split: str = "labels", images: bool = False) -> CheckReport:
    """Test a folder of one's own pictures and labels, line by line.

    Args:
        root: The folder.
        split: Name of the label file, without its ending `.jsonl`.
        images: Whether to decode every picture, mask and foreground as well.

    Returns:
        What was found; nothing is raised for it.

    Raises:
        DataError: The folder or the label file is missing.
    """
    root = Path(root)
    path = root / f"{split}.jsonl"
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give the one that holds {path.name}")
    report, block, folder = CheckReport(str(path)), _Block(), _FolderCheck(root, images)
    for line in read_lines(path):
        report.samples += 1
        place = f"{path.name} line {line.number}"
        for fault in line.faults:
            report.add(place, Finding(0, *fault))
        folder.check(line, place, report)
        labels = {name: line.arrays[name] for name in LABEL_SHAPES if name in line.arrays}
        report.labels.update(name for name in ("mask", *LABEL_SHAPES) if name in line.arrays or name in line.texts)
        for name in ("global_orient", "hand_pose"):
            if name in labels:  # written as rotation vectors, which have no shape of rotation matrices
                vectors = labels.pop(name).reshape(1, -1, 3)
                for finding in check_rotation_vectors(name, np.zeros(1, np.int64), vectors):
                    report.add(place, finding)
        arrays = line.arrays
        block.add(place, labels, arrays.get("intrinsics"), arrays.get("box"), folder.size)
        block.flush(report, BLOCK)
    block.flush(report)
    if not report.samples:
        report.add(path.name, Finding(0, "empty", "", "is empty; it holds one JSON object a line, one for each hand"))
    return report


class _FolderCheck:
    """What one line says about files, and about other lines."""

    def __init__(self, root: Path, images: bool) -> None:
        self.root, self.images = root, images
        self.pictures = _Pictures(decode=True)
        self.size: tuple[int, int] | None = None
        self.ids: dict[str, int] = {}
        self.same: dict[int, int] = {}
        self.hand_model: tuple[str, int] | None = None
        self.paths = lru_cache(maxsize=4096)(self._path)

    def check(self, line: Line, place: str, report: CheckReport) -> None:
        """Add faults to the report; `size` is then the picture's, if it was looked up."""
        self.size = None
        for name in FILE_FIELDS:
            if name in line.texts:
                self._file(name, line, place, report)
        name = line.texts.get("id")
        if name is not None and self.ids.setdefault(name, line.number) != line.number:
            message = f"{name[:80]!r} is the id of line {self.ids[name]} as well"
            report.add(place, Finding(0, "duplicate", "id", message))
        if not line.faults and self.same.setdefault(_digest(line), line.number) != line.number:
            report.add(place, Finding(0, "duplicate", "", f"says the same as line {self.same[_digest(line)]}"))
        model = line.texts.get("hand_model")
        if model is not None:
            self.hand_model = self.hand_model or (model, line.number)
            if model != self.hand_model[0]:
                first, number = self.hand_model
                message = f"is {model}, but line {number} has {first}; a file has one hand model"
                report.add(place, Finding(0, "mixed hand models", "hand_model", message))

    def _file(self, name: str, line: Line, place: str, report: CheckReport) -> None:
        path, problem = self.paths(line.texts[name])
        if path is None or problem:
            report.add(place, Finding(0, "file", name, problem))
        elif name == "vertices":
            from .folder import load_vertices

            try:
                line.arrays[name] = load_vertices(path, line.texts.get("hand_model"))
            except DataError as error:
                report.add(place, Finding(0, "file", name, str(error)))
        elif self.images and name == "image":
            self.size = self.pictures.size(path, place, report)
        elif self.images:
            self._mask(path, name, place, report)

    def _mask(self, path: Path, name: str, place: str, report: CheckReport) -> None:
        mask = _open_mask(partial(read_mask, path), name, self.size, place, report)
        if mask is None:
            return
        if not mask.any():
            report.add(place, Finding(0, "empty mask", name, "has no pixel above 127; write 255 where the hand is"))
        elif mask.all():
            report.add(place, Finding(0, "full mask", name, "is white all over; write 0 where the hand is not"))

    def _path(self, relative: str) -> tuple[Path | None, str]:
        try:
            path = inside(self.root, relative, "it")
        except DataError as error:
            return None, str(error)
        return path, "" if path.is_file() else f"{relative[:200]!r} is missing in {self.root}"


def _digest(line: Line) -> int:
    """Equal for lines that say the same."""
    arrays = ((name, value.tobytes()) for name, value in sorted(line.arrays.items()))
    return hash((tuple(sorted(line.texts.items())), tuple(arrays)))


class _Block:
    """Samples on their way to `check_block`; arrays are as long as a block and used again."""

    def __init__(self) -> None:
        self.places: list[str] = []
        self.labels: dict[str, np.ndarray] = {}
        self.present: dict[str, np.ndarray] = {}
        self.intrinsics, self.boxes = np.empty((BLOCK, 3, 3), np.float64), np.empty((BLOCK, 4), np.float64)
        self.sizes = np.empty((BLOCK, 2), np.float64)
        self._forget()

    def _forget(self) -> None:
        self.places = []
        for flags in self.present.values():
            flags[:] = False
        for array in (self.intrinsics, self.boxes, self.sizes):
            array[:] = np.nan

    def add(
        self,
        place: str,
        labels: dict[str, np.ndarray],
        intrinsics: np.ndarray | None,
        box: np.ndarray | None,
        size: tuple[int, int] | None,
    ) -> None:
        row = len(self.places)
        self.places.append(place)
        for name, value in labels.items():
            if name not in self.labels or self.labels[name].shape[1:] != value.shape:
                if name in self.labels and self.present[name].any():
                    continue  # meshes of two sizes: reported by their shape
                self.labels[name] = np.full((BLOCK, *value.shape), np.nan, np.float32)
                self.present[name] = np.zeros(BLOCK, bool)
            self.labels[name][row], self.present[name][row] = value, True
        if intrinsics is not None and np.shape(intrinsics) == (3, 3):
            self.intrinsics[row] = intrinsics
        if box is not None and np.shape(box) == (4,):
            self.boxes[row] = box
        if size is not None:
            self.sizes[row] = size

    def flush(self, report: CheckReport, least: int = 1) -> None:
        """Test what has come together, if it is at least so much."""
        count = len(self.places)
        if count < least:
            return
        labels = {name: value[:count] for name, value in self.labels.items()}
        present = {name: value[:count] for name, value in self.present.items()}
        block = LabelBlock(labels, present, self.intrinsics[:count], self.boxes[:count], self.sizes[:count])
        for finding in check_block(block):
            report.add(self.places[finding.row], finding)
        self._forget()


class _Pictures:
    """The pictures of a check, each looked at once however many hands it shows.

    Args:
        decode: Whether to decode the pixels beside the header, which is whole in a truncated file.
    """

    def __init__(self, decode: bool) -> None:
        self.decode = decode
        self.look = lru_cache(maxsize=4096)(self._look)

    def size(self, path: Path, place: str, report: CheckReport) -> tuple[int, int] | None:
        """(width, height) of a picture as it is read; what is wrong with it is reported."""
        size, fault = self.look(path)
        if fault:
            report.add(place, Finding(0, "unreadable picture", "image", fault))
        return size

    def _look(self, path: Path) -> tuple[tuple[int, int] | None, str]:
        try:
            width, height = image_size(path)
        except DataError as error:
            return None, str(error)
        if width * height > MAX_PIXELS or min(width, height) < MIN_SIDE:
            limits = f"{MIN_SIDE} px a side to {MAX_PIXELS / 1e6:g} megapixels"
            return None, f"{path} has {width} x {height} pixels; pictures from {limits} are read"
        if self.decode:
            try:
                load_reduced(path, 8)  # of a JPEG all bytes are read even so
            except ImageError as error:
                return None, str(error)
        return (width, height), ""


def _open_mask(
    load: Callable[[], np.ndarray], name: str, size: tuple[int, int] | None, place: str, report: CheckReport
) -> np.ndarray | None:
    """A mask (H, W) bool of a picture of (width, height) `size`, if that is known; what is wrong is reported."""
    try:
        mask = load()
    except (HandMIMError, OSError) as error:
        report.add(place, Finding(0, "file", name, str(error)))
        return None
    height, width = mask.shape
    if size and size != (width, height):
        message = f"is {width} x {height} px, but the picture {size[0]} x {size[1]}"
        report.add(place, Finding(0, "mask size", name, message))
    return mask
