"""The cameras of HaMeR and WiLoR: one that sees the crop from far away, and one for the whole picture.

The second has square pixels and looks at (W / 2, H / 2), where (0, 0) is the centre of the first pixel, as everywhere
in this package: `cam_crop_to_full` of hamer/utils/renderer.py puts the middle of a box of such pixels there.
"""

import numpy as np

from .errors import InputError
from .hamer_checks import check_camera

# Of the published configurations: the focal length that the networks were trained with, for a crop of CROP_SIZE pixels.
FOCAL_LENGTH = 5000.0
CROP_SIZE = 256
# Pixels that a fitted camera may be off before a conversion is refused.
MAX_ERROR = 1.0
FIT_STEPS = 20
# A left hand's points seen in the mirror, as the networks see it.
MIRROR = np.array([-1.0, 1.0, 1.0])


def pinhole(points: np.ndarray, focal: float | np.ndarray, centre: float | np.ndarray) -> np.ndarray:
    """Projection of (..., 3) points, metres, camera frame: (..., 2) in the unit of focal length and centre."""
    return points[..., :2] / points[..., 2:] * focal + centre


def hamer_camera(
    points: np.ndarray, intrinsics: np.ndarray, image_size: np.ndarray, max_error: float = MAX_ERROR
) -> tuple[np.ndarray, float, float]:
    """The camera of HaMeR's kind that sees points where a camera of ours sees them.

    With square pixels and the principal point at (W / 2, H / 2) nothing changes. Otherwise the focal length becomes the
    geometric mean, and the hand is moved, not turned nor deformed, to where its pixels fit best (least squares): seen
    in perspective it cannot fit everywhere. Half a pixel beside the middle, as `default_intrinsics` is, leaves about a
    tenth of a pixel at the worst vertex of a hand half a metre away.

    Args:
        points: (N, 3) of one hand, metres, camera frame.
        intrinsics: (3, 3) of the picture, pixels.
        image_size: (2,) width, height.
        max_error: Largest distance that may remain, pixels.

    Returns:
        (3,) metres to be added to the points; the focal length, pixels; the largest distance that remains, pixels.

    Raises:
        InputError: A point is not in front of the camera, the intrinsics are no camera's, or more than `max_error`
            remains.
    """
    check_camera(intrinsics, "intrinsics")
    if not points[:, 2].min() > 0:
        raise InputError("HaMeR's camera needs a hand in front of it; part of this one has depth <= 0")
    axes, principal, centre = intrinsics[(0, 1), (0, 1)], intrinsics[:2, 2], image_size / 2
    pixels = pinhole(points, axes, principal)
    focal = float(np.sqrt(axes.prod()))
    shift = np.append((principal - centre) / focal * points[:, 2].mean(), 0.0)
    for _ in range(FIT_STEPS if axes[0] != axes[1] or (principal != centre).any() else 0):
        moved = points + shift
        slope = moved[:, :2] / moved[:, 2:]
        jacobian = np.zeros((len(points), 2, 3))
        jacobian[:, 0, 0] = jacobian[:, 1, 1] = focal / moved[:, 2]
        jacobian[:, :, 2] = -slope * focal / moved[:, 2:]
        missing = pixels - (slope * focal + centre)
        step = np.linalg.lstsq(jacobian.reshape(-1, 3), missing.ravel(), rcond=None)[0]
        if not (points[:, 2] + shift[2] + step[2]).min() > 0:
            break
        shift = shift + step
        if np.abs(step).max() < 1e-10:
            break
    error = float(np.linalg.norm(pinhole(points + shift, focal, centre) - pixels, axis=-1).max())
    if not error <= max_error:  # nor where it is not a number
        raise InputError(
            f"HaMeR's camera has square pixels and looks at the middle of the picture, {centre.tolist()}; with these "
            f"intrinsics {intrinsics.tolist()} it is {error:.2f} pixels off, more than max_error={max_error:g}: allow "
            "more, or rectify the picture first"
        )
    return shift, focal, error


def crop_camera(
    translation: np.ndarray, focal: np.ndarray, centre: np.ndarray, side: np.ndarray, image_size: np.ndarray
) -> np.ndarray:
    """Inverse of `full_translation`.

    Args:
        translation: (B, 3) metres, picture's camera.
        focal: (B,) pixels.
        centre, side: (B, 2) and (B,) of the crop, image pixels.
        image_size: (B, 2).

    Returns:
        (B, 3) s, tx, ty.
    """
    spread = 2 * focal / translation[:, 2]  # side * s
    shift = translation[:, :2] - 2 * (centre - image_size / 2) / spread[:, None]
    return np.concatenate([(spread / side)[:, None], shift], 1)


def full_translation(
    camera: np.ndarray, focal: np.ndarray, centre: np.ndarray, side: np.ndarray, image_size: np.ndarray
) -> np.ndarray:
    """(B, 3) metres in the picture's camera from (B, 3) s, tx, ty of crops: HaMeR's `cam_crop_to_full`."""
    spread = side * camera[:, 0]
    shift = 2 * (centre - image_size / 2) / spread[:, None] + camera[:, 1:]
    return np.concatenate([shift, (2 * focal / spread)[:, None]], 1)


def crop_translation(camera: np.ndarray, focal: float | np.ndarray = FOCAL_LENGTH) -> np.ndarray:
    """(B, 3) metres in the crop's far camera, `pred_cam_t`, from (B, 3) s, tx, ty."""
    depth = 2 * focal / (CROP_SIZE * camera[:, 0])
    return np.concatenate([camera[:, 1:], depth[:, None]], 1)


def guessed_focal(image_size: np.ndarray) -> float:
    """The focal length that the demo scripts take for pictures (B, 2): that of the crop, scaled to the longest side."""
    return FOCAL_LENGTH / CROP_SIZE * float(image_size.max())
