"""A small collection of annotated photographs from many sources, described by one manifest.

The manifest is JSON: {"format": "realdata manifest v1", "samples": [...]}, and of each hand: `id`; `image`, a path
from the manifest's folder on; `bbox`, xyxy pixels, and `bbox_source`; `handedness`, "left", "right" or null;
`keypoints_2d`, 21 in pixels, or null; `keypoints_3d`, 21 in metres in the camera frame, or null; `K`, (3, 3) pixels, or
null; `mask`, a path, or null; `source`; and perhaps `split`, any name ("dev" if it does not say). A single point may be
null, too. Forms and values are checked as those of a labelled folder are (`handmim check-data`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..errors import DataError
from ..training.datasets.files import inside, load_json, read_mask, require
from ..training.datasets.folder_lines import ARRAYS, parse_record
from ..training.datasets.sample import HandReader, HandSample, Part

MANIFEST = "manifest.json"
# Boxes that sources cut tightly around the keypoints get the 12 % a side that the other boxes have.
TIGHT_BOX_SOURCE, TIGHT_BOX_SCALE = "mmpose", 1.24
# The manifest's names -> those of a labelled folder, whose checks they undergo.
FIELDS = {name: name for name in ("image", "mask", "handedness", "keypoints_2d")}
FIELDS |= {"bbox": "box", "keypoints_3d": "joints", "K": "intrinsics"}
_THEIRS = {ours: theirs for theirs, ours in FIELDS.items()}
MAX_MANIFEST_BYTES = 100_000_000


class RealPhotos(HandReader):
    """The hands of a manifest whose side is known and that have labelled keypoints or a mask.

    Args:
        root: The manifest, or its folder.
        split: "all", or what the manifest calls a part of it.

    Attributes:
        splits: "all", and those that the manifest names.
        groups: The source of each sample.
        notes: How many hands were left out, and why.

    Raises:
        DataError: Another format, a missing or misplaced picture, a split that the manifest does not name, a label of
            the wrong form, or one that cannot be right (`value_checks`): millimetres, an id that two samples have.
    """

    name: ClassVar[str] = "real-photos"
    title: ClassVar[str] = "annotated photographs from many sources"
    homepage: ClassVar[str] = ""
    splits: tuple[str, ...] = ("all",)

    def __init__(self, root: str | Path, split: str | None = None) -> None:
        path = Path(root)
        path = path if path.suffix == ".json" else path / MANIFEST
        super().__init__(path.parent, split)
        entries = _entries(path)
        self.splits = ("all", *sorted({_split(entry) for entry in entries} - {"all"}))
        if self.split not in self.splits:
            known = ", ".join(self.splits)
            raise DataError(f"split of {self.name} must be one of {known}, got {self.split!r}; {path} names no other")
        labelled = [e for e in entries if e.get("keypoints_2d") is not None or e.get("mask") is not None]
        usable = [e for e in labelled if e.get("handedness") is not None]
        wanted = [e for e in usable if self.split in ("all", _split(e))]
        self.notes: list[str] = []
        if len(usable) < len(entries):
            left_out = len(entries) - len(usable)
            self.notes.append(f"{left_out} hands without keypoints and mask, or of unknown side, are left out")
        self._samples = [self._sample(entry, path) for entry in wanted]
        self.groups = [str(entry.get("source", "unknown")) for entry in wanted]
        self._check_values(path)

    @classmethod
    def has_split(cls, split: str) -> bool:
        """Which there are only the manifest knows."""
        return True

    @classmethod
    def contents(cls, root: Path) -> list[Part]:
        """The manifest; it names the pictures."""
        return [Part(MANIFEST, "labels and names of the pictures", int((root / MANIFEST).is_file()), 1)]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> HandSample:
        return self._samples[index]

    def _sample(self, entry: dict[str, Any], path: Path) -> HandSample:
        name = entry.get("id")
        if name is None:
            raise DataError(f"{path}: a sample has no id, its image is {entry.get('image')!r:.200}; give it one")
        problem = _wrong_form(entry)
        if problem:
            raise DataError(f"{path}: sample {name}: {problem}")
        image = inside(self.root, entry["image"], str(path))
        mask = None if entry.get("mask") is None else inside(self.root, entry["mask"], str(path))
        labels = {"keypoints_2d": _numbers(entry, "keypoints_2d"), "joints": _numbers(entry, "keypoints_3d")}
        for file in (image, *([] if mask is None else [mask])):
            require(file, f"{path.name} names it, sample {name}")
        return HandSample(
            id=str(name),
            image=image,
            handedness=entry["handedness"],
            box=_widened(_numbers(entry, "bbox"), str(entry.get("bbox_source"))),
            intrinsics=_numbers(entry, "K"),
            labels={key: value for key, value in labels.items() if value is not None},
            load_mask=None if mask is None else partial(read_mask, mask),
        )

    def _check_values(self, path: Path) -> None:
        """What cannot be right is refused: its figures would look like those of a bad model."""
        from ..training.datasets.check import check_reader

        report = check_reader(self)
        if report.ok:
            return
        first = [problem for problems in report.errors.values() for problem in problems][:3]
        told = "; ".join(str(problem._replace(field=_THEIRS.get(problem.field, problem.field))) for problem in first)
        more = report.error_counts.total() - len(first)
        raise DataError(f"{path} has labels that cannot be right: {told}" + (f"; and {more} more" if more else ""))


def _split(entry: Mapping[str, Any]) -> str:
    return str(entry.get("split") or "dev")


def _wrong_form(entry: Mapping[str, Any]) -> str | None:
    """What is wrong with the form of an entry, by the checks of a labelled folder's lines; None if nothing is."""
    box = entry.get("bbox")
    if not isinstance(box, list) or None in box:
        return f"bbox must be x0, y0, x1, y1 in pixels, got {box!r:.80}"
    line = parse_record({ours: entry.get(theirs) for theirs, ours in FIELDS.items()}, 0)
    faults = [f"{_THEIRS.get(fault.field, fault.field)} {fault.message}" for fault in line.faults if fault.serious]
    return faults[0] if faults else None


def _entries(path: Path) -> list[dict[str, Any]]:
    require(path, f"the manifest; the root is a folder with a {MANIFEST}, or the manifest itself")
    manifest = load_json(path, MAX_MANIFEST_BYTES)
    manifest = manifest if isinstance(manifest, dict) else {}
    kind, entries = manifest.get("format"), manifest.get("samples")
    if not str(kind).startswith("realdata manifest") or not isinstance(entries, list):
        raise DataError(f"{path} must be a 'realdata manifest' with samples, got format {kind!r}")
    if not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path}: every sample must be an object")
    return entries


def _widened(box: np.ndarray, source: str) -> np.ndarray:
    scale = TIGHT_BOX_SCALE if TIGHT_BOX_SOURCE in source else 1.0
    centre, half = (box[2:] + box[:2]) / 2, scale * (box[2:] - box[:2]) / 2
    return np.concatenate([centre - half, centre + half])


def _numbers(entry: Mapping[str, Any], name: str) -> np.ndarray | None:
    """Float64 of nested lists whose form was checked, with NaN for points that are null; None stays None."""
    values = entry.get(name)
    if values is None:
        return None
    missing = [np.nan] * ARRAYS[FIELDS[name]][-1]
    return np.array([missing if value is None else value for value in values], np.float64)
