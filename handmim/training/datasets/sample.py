"""The one sample type that every data set is read into, and the interface of a reader.

A reader leaves the official files as they are and converts at the door: metres, OpenCV camera frame, pixels with
(0, 0) at the top-left pixel's centre, the package's joint order, rotation matrices (`handmim/geometry.py`). Whatever a
data set does not label is absent; single points without a label are NaN.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from ...errors import DataError

# Shape of each label; V is the number of vertices of the reader's hand model.
LABEL_SHAPES: dict[str, tuple[int | str, ...]] = {
    "global_orient": (3, 3),
    "hand_pose": (15, 3, 3),
    "betas": (10,),
    "vertices": ("V", 3),
    "joints": (21, 3),
    "keypoints_2d": (21, 2),
}
# What can be read only with the hand model it was made with.
HAND_MODEL_LABELS = ("global_orient", "hand_pose", "betas", "vertices")
MESH_VERTICES = {"mano": 778, "open": 1649}


@dataclass(frozen=True, eq=False)
class HandSample:
    """One hand in one image, in the frame of that image.

    Attributes:
        id: Unique in its data set; names the sample in messages and reports.
        image: The picture's file.
        handedness: Which hand it is; None if the data set does not say.
        box: (4,) xyxy pixels, or None: then the box of the labelled keypoints is used.
        intrinsics: (3, 3) pixels, without skew; None if unknown.
        labels: Any of
            global_orient (3, 3): rotation about the wrist, hand model's frame -> camera frame;
            hand_pose (15, 3, 3): relative rotations, zero pose is the flat hand (MANO's mean pose is added already);
            betas (10,); vertices (V, 3) and joints (21, 3): camera frame, metres; keypoints_2d (21, 2): pixels of the
            image. float32. Points without a label are NaN. Parameters of a left hand are those of a left model.
        load_mask: Returns (H, W) bool, the pixels of this hand; None if there is no mask. Picklable.
        visibility: (21,) bool, whether a keypoint can be seen; None if not annotated.
        load_foreground: Returns (H, W) bool, what stays before another background: the hand, its arm, what it holds;
            None if that is not known. Picklable.
    """

    id: str
    image: Path
    handedness: Literal["left", "right"] | None = None
    box: np.ndarray | None = None
    intrinsics: np.ndarray | None = None
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    load_mask: Callable[[], np.ndarray] | None = None
    visibility: np.ndarray | None = None
    load_foreground: Callable[[], np.ndarray] | None = None


@dataclass(frozen=True)
class Part:
    """One file, folder or group of files of a data set's official layout, as `handmim data info` lists it.

    Attributes:
        path: Relative to the root, as in the official layout; may hold `*`.
        purpose: What it is needed for, in a few words.
        found: Number of files there (of a folder: its entries); 0 is missing.
        expected: Number in the official release; None if it is not fixed.
        required: Whether a split cannot be read without it.
    """

    path: str
    purpose: str
    found: int
    expected: int | None = None
    required: bool = True


class HandReader(ABC, Sequence[HandSample]):
    """A data set in its official layout, read lazily: images when asked for, labels kept once, as arrays.

    A subclass sets the class attributes, reads its label files in `__init__` (raising `DataError` with the name of what
    is missing), and makes a sample on demand.

    Args:
        root: Folder of the official layout.
        split: One of `splits`.

    Attributes:
        name: Of the data set, as in recipes and on the command line.
        title: For people.
        homepage: Where it is from.
        splits: The first is the default.
        hand_model: Whose parameters and vertices the labels are; None if there are none.
        has_foregrounds: Whether some samples can be shown before another background.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    homepage: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]
    hand_model: ClassVar[Literal["mano", "open"] | None] = None
    has_foregrounds: bool = False

    def __init__(self, root: str | Path, split: str | None = None) -> None:
        self.root = Path(root)
        self.split = self.splits[0] if split is None else split
        self.check_split(self.split)
        if not self.root.is_dir():
            raise DataError(f"{self.root}, the root of {self.name}, is not a folder")

    @classmethod
    @abstractmethod
    def contents(cls, root: Path) -> list[Part]:
        """What of the official layout is there and what is missing; never raises for a missing part."""

    @classmethod
    def has_split(cls, split: str) -> bool:
        """Whether the layout knows a split of that name."""
        return split in cls.splits

    @classmethod
    def check_split(cls, split: str) -> None:
        """Raises DataError for the name of no split."""
        if not cls.has_split(split):
            raise DataError(f"split of {cls.name} must be one of {', '.join(cls.splits)}, got {split!r}")

    @classmethod
    def splits_in(cls, root: Path) -> list[str]:
        """The splits that a root can be expected to hold: all, where the official layout is one whole."""
        return list(cls.splits)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> HandSample: ...

    def __iter__(self) -> Iterator[HandSample]:
        return (self[index] for index in range(len(self)))
