"""Series of synthetic pictures on disk: written in chunks, gone on with after an interruption, described by a manifest.

A chunk's pictures come first, then its labels as a part below `.series-SPLIT`; when all parts are there they become the
label files of the layout. A picture depends on (seed, index) alone, so that a series in pieces is the series in one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..atomic_files import atomic_file
from ..errors import NPZ_ERRORS, DataError
from ..versions import package_version
from .generator import SyntheticBatch, check_arguments, check_betas, generate
from .layouts import LAYOUTS, Layout
from .variety import find_variety

MANIFEST = "synthesis.json"
FORMAT = "handmim series 1"
MAX_MANIFEST_BYTES = 1_000_000
CHUNK = 64
LABELS = ("global_orient", "hand_pose", "betas", "joints", "keypoints_2d", "visibility", "hand")


@dataclass(frozen=True)
class Series:
    """What is written into one split.

    Attributes:
        split: Of the data set, as `Layout.splits` has it.
        count: How many pictures.
        start: Index of the first.
        seed, size, variety, betas: See `generate`; betas are ten numbers or None.
        layout: Name of a layout.
    """

    split: str
    count: int
    start: int = 0
    seed: int = 0
    size: int = 128
    variety: str | Mapping[str, Any] = "full"
    betas: tuple[float, ...] | None = None
    layout: str = "folder"

    @property
    def indices(self) -> range:
        """Those of its pictures."""
        return range(self.start, self.start + self.count)

    def tensor_of_betas(self) -> torch.Tensor | None:
        """As `generate` takes them."""
        return None if self.betas is None else torch.tensor(self.betas)

    def settings(self) -> dict[str, Any]:
        """As the manifest has them."""
        values = asdict(self) | {"betas": None if self.betas is None else list(self.betas)}
        return {name: value for name, value in values.items() if name not in ("split", "layout")}


def write_series(root: Path, series: Series, progress: Callable[[int], object] = lambda count: None) -> bool:
    """Write a series, or what an interrupted run left of it.

    Args:
        root: Folder of the data set; it may hold other splits of the same layout.
        series: What to write.
        progress: Told after each chunk how many pictures there are more.

    Returns:
        False if it was there already.

    Raises:
        DataError: The layout has no such split, there is no such variety, index, size or shape, or the folder holds
            something else in its place, or the same pictures in another split.
    """
    kind = LAYOUTS[series.layout]
    if series.split not in kind.splits:
        raise DataError(f"layout {kind.name} has the splits {', '.join(kind.splits)}, got {series.split!r}")
    try:
        find_variety(series.variety)
        check_arguments(torch.tensor([series.start, series.start + series.count - 1]), series.size)
        check_betas(series.tensor_of_betas())
    except ValueError as error:
        raise DataError(str(error)) from error
    layout, parts = kind(root, series.split), root / f".series-{series.split}"
    manifest = read_manifest(root)
    if is_complete(root, manifest, series, layout):
        shutil.rmtree(parts, ignore_errors=True)  # a run may have been killed before it could
        progress(series.count)
        return False
    for folder in layout.folders():
        folder.mkdir(parents=True, exist_ok=True)
    parts.mkdir(exist_ok=True)
    keep_manifest(root, manifest, series, complete=False)
    chunks = [series.indices[at : at + CHUNK] for at in range(0, series.count, CHUNK)]
    columns = []
    for indices in chunks:
        columns.append(write_chunk(parts, layout, series, indices))
        progress(len(indices))
    whole = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    layout.write_labels({**whole, "index": np.array(series.indices), "size": np.array(series.size)})
    keep_manifest(root, manifest, series, complete=True)
    shutil.rmtree(parts)
    return True


def write_chunk(parts: Path, layout: Layout, series: Series, indices: range) -> dict[str, np.ndarray]:
    """Labels of a chunk whose pictures are there, from its part or from the generator."""
    path = parts / f"{indices.start:08d}.npz"
    found = read_part(path, len(indices))
    if found is not None:
        return found
    options = {"betas": series.tensor_of_betas(), "variety": series.variety, "negatives": layout.negatives}
    batch = generate(series.seed, indices, size=series.size, **options)
    for index, pixels, mask in zip(indices, batch.images.numpy(), batch.mask.numpy(), strict=True):
        layout.write_picture(index - series.start, index, pixels, mask)
    columns = label_columns(batch)
    with atomic_file(path) as file:
        np.savez(file, **columns)
    return columns


def label_columns(batch: SyntheticBatch) -> dict[str, np.ndarray]:
    """The labels that a series keeps, by name."""
    return {"intrinsics": batch.intrinsics.numpy()} | {name: batch.labels[name].numpy() for name in LABELS}


def read_part(path: Path, count: int) -> dict[str, np.ndarray] | None:
    """A chunk's labels; None if they are not there, or damaged: they are then made again."""
    try:
        with np.load(path, allow_pickle=False) as part:
            columns = {name: part[name] for name in ("intrinsics", *LABELS)}
    except NPZ_ERRORS:
        return None
    return columns if all(len(values) == count for values in columns.values()) else None


# ---------------------------------------------------------------------------------------------------------------------
# The manifest


def read_manifest(root: Path) -> dict[str, Any]:
    """What a folder says of its series; an empty one for a new folder.

    Raises:
        DataError: It is no manifest.
    """
    path = root / MANIFEST
    if not path.exists():
        return {"format": FORMAT, "splits": {}}
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ValueError("too large")
        manifest = json.loads(path.read_bytes())
        ranges = [split[name] for split in manifest["splits"].values() for name in ("start", "count")]
        if manifest["format"] != FORMAT or not all(type(number) is int for number in ranges):
            raise ValueError("another format")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is not one that handmim synthesize wrote ({error}); choose another folder") from error
    return manifest


def is_complete(root: Path, manifest: dict[str, Any], series: Series, layout: Layout) -> bool:
    """Whether the split is there; and whether it may be written.

    Raises:
        DataError: Something else is there in its place.
    """
    found = manifest.get("layout", series.layout)
    if found != series.layout:
        raise DataError(f"{root} has the layout {found}, not {series.layout}: choose another folder")
    begun = manifest["splits"].get(series.split)
    if begun is None:
        for path in layout.label_files():
            if path.exists():
                raise DataError(f"{path} is there already, and {MANIFEST} does not say how it was made: choose another")
        check_neighbours(root, manifest, series)
        return False
    settings = json.loads(json.dumps(series.settings()))  # as they were written
    wanted = settings | ({} if begun.get("complete") else {"handmim": package_version("handmim")})
    for name, value in wanted.items():
        if begun.get(name) != value:
            raise DataError(
                f"{root}: split {series.split} was begun with {name} {begun.get(name)}, not {value}: choose another "
                "folder or split"
            )
    return bool(begun.get("complete")) and all(path.exists() for path in layout.label_files())


def check_neighbours(root: Path, manifest: dict[str, Any], series: Series) -> None:
    """Splits of a folder share no picture: what is learned from one would be tested on in the other.

    Those of our own layout share no index either: their pictures lie in one folder, named by their indices.

    Raises:
        DataError: Another split has these pictures, or others under the same names.
    """
    mine = json.loads(json.dumps(series.settings()))  # as they were written
    free = max([other["start"] + other["count"] for other in manifest["splits"].values()], default=0)
    for name, other in manifest["splits"].items():
        start, stop = other["start"], other["start"] + other["count"]
        if stop <= series.start or series.start + series.count <= start:
            continue
        where = f"with indices from {start} to {stop - 1}"
        if all(other.get(key) == mine[key] for key in ("seed", "variety", "betas")):
            raise DataError(f"{root}: split {name} has the same pictures {where}: choose --start {free} for others")
        if series.layout == "folder":
            raise DataError(f"{root}: split {name} has other pictures {where}: choose --start {free} or another folder")


def keep_manifest(root: Path, manifest: dict[str, Any], series: Series, complete: bool) -> None:
    """Write down what is being written, or was."""
    about = series.settings() | {"handmim": package_version("handmim"), "complete": complete}
    manifest |= {"layout": series.layout, "hand_model": "open", "splits": manifest["splits"] | {series.split: about}}
    with atomic_file(root / MANIFEST) as file:
        file.write((json.dumps(manifest, indent=2) + "\n").encode())
