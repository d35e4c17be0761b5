"""FreiHAND, version 2: right hands (left ones mirrored by its authors) on a green screen, and in plain places.

Zimmermann et al., "FreiHAND: A Dataset for Markerless Capture of Hand Pose and Shape from Single RGB Images", ICCV
2019. Its frame, units and joint order are this package's; its fingertips are neighbours of the vertices that MANO's
users take elsewhere (two of five differ), so its joints are not exactly the hand model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ...errors import DataError
from ...json_arrays import read_array
from .files import file_part, folder_part, image_size, read_mask, require, require_numbered
from .label_checks import (
    MAX_PARAMETER,
    check_counts,
    check_depth,
    check_finite,
    check_in_frame,
    check_intrinsics,
    project_points,
)
from .mano_labels import find_hand_model, pose_matrices
from .sample import HandReader, HandSample, Part

# How the training pictures' background was replaced, in the order of the files: not at all (green screen), by
# harmonisation, by colouring with and without sample points.
VERSIONS = ("gs", "hom", "sample", "auto")
SAMPLES = {"training": 32_560, "evaluation": 3_960}
ARCHIVES = {"training": "FreiHAND_pub_v2.zip", "evaluation": "FreiHAND_pub_v2_eval.zip"}
LABEL_FILES = {
    "xyz": "21 joints",
    "verts": "778 vertices",
    "K": "intrinsics",
    "mano": "MANO parameters",
    "scale": "bone lengths, not used",
}


class FreiHAND(HandReader):
    """FreiHAND in its official layout, both archives unpacked into one folder.

    Args:
        root: Folder with training/, evaluation/ and the .json files.
        split: "training", or "evaluation" with the public labels.
        versions: Which backgrounds of the training pictures, of "gs", "hom", "sample", "auto"; their labels are kept
            once.
        hand_model_path: MANO file or folder, looked up when None. Parameters are relative to MANO's mean pose, so they
            can be read with that file only.
        meshes: False leaves out what belongs to MANO, vertices and parameters; any hand model then learns from the
            joints. For folders in this layout that have none (`handmim synthesize --layout freihand`).

    Attributes:
        notes: What the user should know.
    """

    name = "freihand"
    title = "FreiHAND v2"
    homepage = "https://lmb.informatik.uni-freiburg.de/projects/freihand/"
    splits = ("training", "evaluation")
    hand_model = "mano"

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        *,
        versions: Sequence[str] = VERSIONS,
        hand_model_path: str | Path | None = None,
        meshes: bool = True,
    ) -> None:
        super().__init__(root, split)
        unknown = sorted(set(versions) - set(VERSIONS))
        if unknown or not versions or isinstance(versions, str):
            raise DataError(f"versions of freihand must be some of {', '.join(VERSIONS)}, got {versions!r}")
        self.versions = tuple(versions) if self.split == "training" else VERSIONS[:1]
        self.notes: list[str] = []
        keys = ("xyz", "K", "verts") if meshes else ("xyz", "K")
        files = {key: self.root / f"{self.split}_{key}.json" for key in keys}
        for key, path in files.items():
            hint = ", or do without: meshes=False in Python or in a recipe" if key == "verts" else ""
            what = f"{LABEL_FILES[key]} of freihand, split {self.split}; unpack {ARCHIVES[self.split]} there{hint}"
            require(path, what)
        self.joints = read_array(files["xyz"], (21, 3))
        self.intrinsics = read_array(files["K"], (3, 3))
        self.count = check_counts({files["xyz"]: len(self.joints), files["K"]: len(self.intrinsics)})
        self._check(files)
        self.vertices, self.parameters = None, {}
        if not meshes:
            self.hand_model = None
            return
        self.vertices = read_array(files["verts"], (778, 3))
        check_counts({files["xyz"]: self.count, files["verts"]: len(self.vertices)})
        check_depth(self.vertices, files["verts"], "vertices", self._name)
        self.parameters = self._read_parameters(hand_model_path)

    def _name(self, index: int) -> str:
        return f"{self.split}/{index:08d}"

    def _check(self, files: dict[str, Path]) -> None:
        """Labels and pictures, before the long file of vertices is read."""
        if not self.count:
            raise DataError(f"{files['xyz']} has no samples")
        if self.count != SAMPLES[self.split]:
            self.notes.append(
                f"{self.count} labelled samples; the official {self.split} split has {SAMPLES[self.split]}"
            )
        check_intrinsics(self.intrinsics, files["K"], self._name)
        check_depth(self.joints, files["xyz"], "joints", self._name)
        numbers = (VERSIONS.index(v) * self.count + i for v in self.versions for i in range(self.count))
        what = f"a picture of freihand, split {self.split}; unpack {ARCHIVES[self.split]} there"
        if self.versions == VERSIONS:
            what += ", or leave out backgrounds with versions=('gs',)"
        require_numbered(self._folder("rgb"), numbers, 8, ".jpg", what)
        size = image_size(self._folder("rgb") / f"{VERSIONS.index(self.versions[0]) * self.count:08d}.jpg")
        keypoints = project_points(self.joints, self.intrinsics)
        check_in_frame(keypoints, size, files["xyz"], "joints", self._name)

    def _folder(self, kind: str) -> Path:
        return self.root / self.split / kind

    def _read_parameters(self, hand_model_path: str | Path | None) -> dict[str, np.ndarray]:
        """global_orient (N, 3, 3), hand_pose (N, 15, 3, 3), betas (N, 10); empty without their file or MANO's.

        A row of the file holds 48 angles (fingers relative to the mean pose), 10 shape parameters, and a weak
        perspective camera, which the joints' places make superfluous.
        """
        path = self.root / f"{self.split}_mano.json"
        if not path.is_file():
            self.notes.append(f"{path.name} is missing: samples have no hand model parameters")
            return {}
        model = find_hand_model("right", hand_model_path)
        if model is None:
            self.notes.append(
                "samples have no hand model parameters: they are relative to MANO's mean pose, and no MANO file was "
                "found (handmim mano install MANO_RIGHT.pkl, or hand_model_path)"
            )
            return {}
        rows = read_array(path, (1, 61))[:, 0]
        check_counts({self.root / f"{self.split}_xyz.json": self.count, path: len(rows)})
        check_finite(rows[:, :58], path, "parameters", self._name, MAX_PARAMETER)
        global_orient, hand_pose = pose_matrices(rows[:, :48], model.hands_mean.double().numpy())
        return {"global_orient": global_orient, "hand_pose": hand_pose, "betas": rows[:, 48:58].copy()}

    @classmethod
    def contents(cls, root: Path) -> list[Part]:
        """What is there of both archives."""
        root, parts = Path(root), []
        for split, count in SAMPLES.items():
            pictures = count * len(VERSIONS) if split == "training" else count
            parts.append(folder_part(root, f"{split}/rgb", f"pictures of {split}", pictures, ".jpg"))
            for key, purpose in LABEL_FILES.items():
                needed = key in ("xyz", "verts", "K")
                parts.append(file_part(root, f"{split}_{key}.json", f"{purpose} of {split}", needed))
        parts.append(folder_part(root, "training/mask", "masks of training", SAMPLES["training"], ".jpg", False))
        parts.append(
            folder_part(root, "evaluation/segmap", "masks of evaluation", SAMPLES["evaluation"], ".png", False)
        )
        return parts

    def __len__(self) -> int:
        return self.count * len(self.versions)

    def __getitem__(self, index: int) -> HandSample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must be below {len(self)}, got {index}")
        version, row = divmod(index % len(self), self.count)
        number = VERSIONS.index(self.versions[version]) * self.count + row
        joints = self.joints[row]
        labels = {"joints": joints, "keypoints_2d": project_points(joints, self.intrinsics[row])}
        if self.vertices is not None:
            labels["vertices"] = self.vertices[row]
        labels |= {name: values[row] for name, values in self.parameters.items()}
        return HandSample(
            id=self._name(number),
            image=self._folder("rgb") / f"{number:08d}.jpg",
            handedness="right",
            intrinsics=self.intrinsics[row],
            labels=labels,
            load_mask=self._mask(row),
        )

    def _mask(self, row: int) -> partial | None:
        """Training masks are JPEGs, one for all backgrounds; evaluation has maps of parts, zero where no hand is."""
        if self.split == "training":
            path, above = self._folder("mask") / f"{row:08d}.jpg", 127
        else:
            path, above = self._folder("segmap") / f"{row:08d}.png", 0
        return partial(read_mask, path, above) if path.is_file() else None
