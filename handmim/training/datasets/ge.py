"""The real-world test set of Ge et al., "3D Hand Shape and Pose Estimation from a Single RGB Image", CVPR 2019.

Official layout (`data/real_world_testset` of github.com/3d-hand-shape/hand-graph-cnn): `images/00000.jpg` to
`00582.jpg`, 256 x 256 crops of larger frames; `params.mat` with `cam_param` N x [fx, fy, u0, v0] of the whole frames,
`bbox` N x [x, y, width, height] of the crops in them, `pose_root` and `pose_scale`; `pose_gt.mat` with `pose_gt`,
N x 21 x 3. Row i belongs to the picture with number i.

Conventions, from the authors' `data/view_realworld_data.py` and `hand_shape_pose/util/vis.py`: centimetres in the
camera's frame, x right, y down, z forward; wrist, then thumb, index, middle, ring and little finger from palm to tip,
the package's own order; a crop's camera is the frame's, less the box's corner, times the crop's size over the box's
width. All hands are left ones (chirality of the labelled joints; the authors' readers mirror them for networks of right
hands). The meshes that can be had (`real_hand_3D_mesh`) are of the authors' own hand model and are not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from ...errors import DataError
from .files import file_part, folder_part, image_size, load_mat, require_numbered
from .label_checks import check_counts, check_depth, check_finite, check_in_frame, check_intrinsics, project_points
from .sample import HandReader, HandSample, Part

COUNT = 583
SIZE = (256, 256)
METRES_PER_CENTIMETRE = 1e-2


class GeRealWorld(HandReader):
    """One left hand a picture.

    Args:
        root: Folder that holds `images`, `params.mat` and `pose_gt.mat`.
        split: "test", the only one.
    """

    name: ClassVar[str] = "ge"
    title: ClassVar[str] = "Real-world test set of Ge et al. 2019"
    homepage: ClassVar[str] = "https://github.com/3d-hand-shape/hand-graph-cnn"
    splits: ClassVar[tuple[str, ...]] = ("test",)

    def __init__(self, root: str | Path, split: str | None = None) -> None:
        super().__init__(root, split)
        self.notes = ["labels are good to several millimetres: one bone varies by a tenth over the frames of one man"]
        camera_file, joint_file = self.root / "params.mat", self.root / "pose_gt.mat"
        cameras = load_mat(camera_file, ["cam_param", "bbox"])
        joints = load_mat(joint_file, ["pose_gt"])["pose_gt"]
        if joints.ndim != 3 or joints.shape[1:] != (21, 3):
            raise DataError(f"{joint_file}: pose_gt must have shape (N, 21, 3), got {joints.shape}")
        for name, values in cameras.items():
            if values.shape[1:] != (4,):
                raise DataError(f"{camera_file}: {name} must have shape (N, 4), got {values.shape}")
        counts = {camera_file / name: len(rows) for name, rows in cameras.items()}
        count = check_counts({joint_file: len(joints)} | counts)
        folder = self.root / "images"
        require_numbered(folder, range(count), 5, ".jpg", f"from {self.homepage}")
        self.images = [folder / f"{number:05d}.jpg" for number in range(count)]
        for path in self.images:
            if image_size(path) != SIZE:
                raise DataError(f"{path} must be {SIZE[0]} x {SIZE[1]} pixels, got {image_size(path)}")
        check_finite(joints, joint_file, "pose_gt", str, 1e6)
        self.intrinsics = crop_cameras(cameras["cam_param"].astype(np.float64), cameras["bbox"].astype(np.float64))
        check_intrinsics(self.intrinsics, camera_file, str)
        self.joints = (joints * METRES_PER_CENTIMETRE).astype(np.float32)
        check_depth(self.joints, joint_file, "pose_gt", str)
        self.keypoints = project_points(self.joints, self.intrinsics)
        check_in_frame(self.keypoints, SIZE, joint_file, "pose_gt", str)

    @classmethod
    def contents(cls, root: Path) -> list[Part]:
        return [
            folder_part(root, "images", "pictures", COUNT, ".jpg"),
            file_part(root, "params.mat", "cameras and boxes"),
            file_part(root, "pose_gt.mat", "joints"),
        ]

    def __len__(self) -> int:
        return len(self.joints)

    def __getitem__(self, index: int) -> HandSample:
        row = range(len(self))[index]
        return HandSample(
            id=f"{row:05d}",
            image=self.images[row],
            handedness="left",
            intrinsics=self.intrinsics[row],
            labels={"joints": self.joints[row], "keypoints_2d": self.keypoints[row]},
        )


def crop_cameras(cameras: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(N, 3, 3) float32 intrinsics of the crops.

    Args:
        cameras: (N, 4) fx, fy, u0, v0 of the whole frames, pixels.
        boxes: (N, 4) x, y, width, height of the crops in them, pixels.
    """
    intrinsics = np.zeros((len(cameras), 3, 3))
    with np.errstate(divide="ignore", invalid="ignore"):  # a box without a width gives no camera: found by the checks
        zoom = SIZE[0] / boxes[:, 2:3]
        intrinsics[:, (0, 1), (0, 1)] = cameras[:, :2] * zoom
        intrinsics[:, :2, 2] = (cameras[:, 2:] - boxes[:, :2]) * zoom
    intrinsics[:, 2, 2] = 1
    return intrinsics.astype(np.float32)
