"""Scenes before other cameras: data sets have their own, and crops of the generator look far past their own axis."""

from dataclasses import replace

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from fabricate_datasets.scenes import Scene
from handmim.training.datasets.label_checks import project_points

# Pillow counts pixels from the picture's corner.
_FROM_CORNER = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])


def seen_by(
    scene: Scene, camera: np.ndarray, size: tuple[int, int], aside: tuple[float, float] = (0.04, 0.03)
) -> Scene:
    """What another camera at the same place sees when it is turned to the hand.

    Args:
        scene: The hand.
        camera: (3, 3) pixels.
        size: (width, height) of the new picture.
        aside: Angles by which the hand is off the camera's axis, to the left and down, radians.

    Returns:
        The scene with another picture, camera, joints, keypoints and vertices; mask and parameters are the old ones.
    """
    middle = scene.joints.mean(0).astype(np.float64)
    angle = [np.arctan2(middle[1], middle[2]) + aside[1], -np.arctan2(middle[0], middle[2]) + aside[0], 0.0]
    turn = Rotation.from_rotvec(angle).as_matrix()
    back = scene.intrinsics @ turn.T @ np.linalg.inv(camera)  # a homography, from new to old pixels
    back = _FROM_CORNER @ back @ np.linalg.inv(_FROM_CORNER)
    picture = Image.fromarray(scene.image).transform(
        size, Image.Transform.PERSPECTIVE, (back / back[2, 2]).ravel()[:8].tolist(), Image.Resampling.BILINEAR
    )
    joints, vertices = scene.joints @ turn.T, scene.vertices @ turn.T
    return replace(
        scene,
        image=np.array(picture),
        intrinsics=camera.astype(np.float32),
        joints=joints.astype(np.float32),
        vertices=vertices.astype(np.float32),
        keypoints_2d=project_points(joints, camera),
    )
