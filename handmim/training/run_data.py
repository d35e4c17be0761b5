"""What a run learns from: kept beside its recipe, so that a run which goes on goes on with the same pictures.

A recipe says where pictures are, which may change: folders move, and other machines have others. That they are the
same is told by their number and a checksum of their names. Pictures that were exchanged under the same names are not
noticed, nor are other photos behind rendered hands.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..atomic_files import atomic_file
from ..errors import HandMIMError
from .datasets.crops import HandCrops
from .datasets.hand_scenes import HandScenes, Photo
from .datasets.images import CropImages, FolderImages, JoinedImages, ReaderImages
from .datasets.mixture import Mixture
from .datasets.view_pairs import ViewPairs
from .recipe import RecipeError

DATA_FILE = "data.json"
MAX_DATA_BYTES = 1 << 20
SEEDS = ("seed", "data_seed")  # of the arguments; they decide which picture comes when, and what is done to it
SPREAD = 512  # samples of a labelled data set whose names are looked at: naming one may take reading its labels


class Source(NamedTuple):
    """One data set of a run: what messages call it, how many samples, and the name of each."""

    name: str
    length: int
    name_of: Callable[[int], str]
    looked_at: Iterable[int]

    def record(self) -> dict[str, Any]:
        """As it is kept: name, length, and the SHA-256 (16 hexadecimal digits) of the names that are looked at."""
        checksum = hashlib.sha256()
        for index in self.looked_at:
            try:
                name = self.name_of(index)
            except HandMIMError:  # whether a run passes over a broken sample is not decided here
                name = "broken"
            checksum.update(f"{name}\n".encode("utf-8", "surrogatepass"))
        return {"name": self.name, "length": self.length, "samples": checksum.hexdigest()[:16]}


def describe_run(dataset: Any, arguments: Any) -> dict[str, Any]:
    """Seeds and data sets of a run, as `DATA_FILE` holds them.

    Args:
        dataset: What the trainer has: of `pretraining_data`, `data_sections` or `detector`.
        arguments: Of the run.
    """
    seeds = {name: getattr(arguments, name) for name in SEEDS}
    return seeds | {"data": [source.record() for source in sources_of(dataset)]}


def sources_of(dataset: Any) -> Iterator[Source]:
    """The data sets on disk that a run's is made of; rendered pictures are told by the recipe alone."""
    if isinstance(dataset, ViewPairs):
        yield from sources_of(dataset.images)
    elif isinstance(dataset, Mixture | JoinedImages):
        for part in dataset.datasets if isinstance(dataset, Mixture) else dataset.parts:
            yield from sources_of(part)
    elif isinstance(dataset, FolderImages | CropImages):
        yield Source(dataset.name, len(dataset), lambda index: dataset.entry(index).name, range(len(dataset)))
    elif isinstance(dataset, HandCrops | ReaderImages):
        reader = dataset.reader
        yield Source(reader.name, len(reader), lambda index: str(reader[index].id), spread(len(reader)))
    elif isinstance(dataset, HandScenes):
        for place, photos in enumerate(dataset.photos):
            yield _photos(f"photos.{place}", photos)


def _photos(name: str, photos: Sequence[Photo]) -> Source:
    """Photos are called by their files, of which the folders may have moved."""
    return Source(name, len(photos), lambda index: photos[index].path.name, range(len(photos)))


def spread(length: int) -> list[int]:
    """Up to `SPREAD` indices below a length, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(length, SPREAD)).round().astype(int)).tolist()


def check_same_data(found: dict[str, Any], folder: Path) -> None:
    """Raises a RecipeError if the run in a folder was begun with other pictures or seeds; older runs do not tell.

    Args:
        found: What there is now, see `describe_run`.
        folder: Of the run.
    """
    known = _read(folder / DATA_FILE)
    if known is None:
        return
    for name in SEEDS:
        if known.get(name) != found[name]:
            raise RecipeError(
                f"{folder} holds checkpoints of a run with training.{name} {known.get(name)}, and it is {found[name]} "
                "now: set it back, or choose another folder with --out"
            )
    before, now = known.get("data"), found["data"]
    if before != now:
        raise RecipeError(
            f"{folder} holds checkpoints of a run with other pictures: {_first_difference(before, now)}. Give those "
            "it was begun with (--data NAME=FOLDER), or another folder with --out; to go on with others, name the "
            "release of this run as the start (model.checkpoint, model.pretrained)"
        )


def _first_difference(before: Any, now: list[dict[str, Any]]) -> str:
    if not isinstance(before, list) or len(before) != len(now):
        return f"there were {len(before) if isinstance(before, list) else 'no'} data sets, and are {len(now)}"
    old, new = next(pair for pair in zip(before, now, strict=True) if pair[0] != pair[1])
    if not isinstance(old, dict) or old.get("name") != new["name"]:
        return f"{new['name']} was {old.get('name') if isinstance(old, dict) else old}"
    if old.get("length") != new["length"]:
        return f"{new['name']} had {old.get('length')} samples, and has {new['length']}"
    return f"{new['name']} has as many samples, {new['length']}, but of other names"


def _read(path: Path) -> dict[str, Any] | None:
    """What a run has kept; None if it is not there or damaged, as of checkpoints copied without it."""
    try:
        if path.stat().st_size > MAX_DATA_BYTES:
            return None
        known = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return known if isinstance(known, dict) else None


def keep_data(found: dict[str, Any], folder: Path) -> None:
    """Write down what a run learns from."""
    with atomic_file(folder / DATA_FILE) as file:
        file.write(f"{json.dumps(found, indent=2)}\n".encode())
