"""A small collection of annotated photographs from many sources, described by one manifest.

The manifest is JSON: {"format": "realdata manifest v1", "samples": [...]}, and of each hand: `id`; `image`, a path
from the manifest's folder on; `bbox`, xyxy pixels, and `bbox_source`; `handedness`; `keypoints_2d`, 21 in pixels, or
null; `keypoints_3d`, 21 in metres in the camera frame, or null; `K`, (3, 3) pixels, or null; `mask`, a path, or null;
`source`; and perhaps `split` ("dev" if it does not say).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..errors import DataError
from ..training.datasets.files import inside, load_json, read_mask, require
from ..training.datasets.sample import HandReader, HandSample, Part

MANIFEST = "manifest.json"
# Boxes that sources cut tightly around the keypoints get the 12 % a side that the other boxes have.
TIGHT_BOX_SOURCE, TIGHT_BOX_SCALE = "mmpose", 1.24
MAX_MANIFEST_BYTES = 100_000_000


class RealPhotos(HandReader):
    """The hands of a manifest whose side is known and that have labelled keypoints or a mask.

    Args:
        root: The manifest, or its folder.
        split: "all", or what the manifest calls a part of it.

    Attributes:
        groups: The source of each sample.
        notes: How many hands were left out, and why.

    Raises:
        DataError: Another format, a missing or misplaced picture, a label of the wrong shape.
    """

    name: ClassVar[str] = "real-photos"
    title: ClassVar[str] = "annotated photographs from many sources"
    homepage: ClassVar[str] = ""
    splits: ClassVar[tuple[str, ...]] = ("all", "dev", "held-out")

    def __init__(self, root: str | Path, split: str | None = None) -> None:
        path = Path(root)
        path = path if path.suffix == ".json" else path / MANIFEST
        super().__init__(path.parent, split)
        entries = _entries(path)
        labelled = [e for e in entries if e.get("keypoints_2d") is not None or e.get("mask") is not None]
        usable = [e for e in labelled if e.get("handedness") is not None]
        wanted = [e for e in usable if self.split in ("all", e.get("split") or "dev")]
        self.notes: list[str] = []
        if len(usable) < len(entries):
            left_out = len(entries) - len(usable)
            self.notes.append(f"{left_out} hands without keypoints and mask, or of unknown side, are left out")
        self._samples = [self._sample(entry, path) for entry in wanted]
        self.groups = [str(entry.get("source", "unknown")) for entry in wanted]

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
        try:
            image = inside(self.root, entry["image"], str(path))
            mask = None if entry.get("mask") is None else inside(self.root, entry["mask"], str(path))
            labels = {
                "keypoints_2d": _labelled(entry.get("keypoints_2d"), (21, 2)),
                "joints": _labelled(entry.get("keypoints_3d"), (21, 3)),
            }
            box = _widened(_labelled(entry["bbox"], (4,)), str(entry.get("bbox_source")))
            intrinsics = _labelled(entry.get("K"), (3, 3))
        except (KeyError, TypeError, ValueError) as error:
            problem = f"has no {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{path.name}: sample {name}: {problem}") from error
        for file in (image, *([] if mask is None else [mask])):
            require(file, f"{path.name} names it, sample {name}")
        return HandSample(
            id=str(name),
            image=image,
            handedness=entry["handedness"],
            box=box,
            intrinsics=intrinsics,
            labels={key: value for key, value in labels.items() if value is not None},
            load_mask=None if mask is None else partial(read_mask, mask),
        )


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


def _labelled(values: list | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """Float64 of nested lists, with NaN for points that are None; None stays None.

    Raises:
        ValueError: another shape.
    """
    if values is None:
        return None
    missing = [np.nan] * shape[-1]
    array = np.array([missing if value is None else value for value in values], np.float64)
    if array.shape != shape:
        raise ValueError(f"expected {shape} numbers, got {array.shape}")
    return array
