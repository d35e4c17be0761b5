"""Rotations, cameras, crop transforms and alignment.

Frames used everywhere in the package, stated once here:

* **Camera frame** (OpenCV): x right, y down, z forward, metres.
* **Pixels**: the centre of the top-left pixel is (0, 0), so a picture of width W covers x in [-0.5, W - 0.5].
  Boxes are xyxy in the same coordinates.
* **Crop coordinates**, normalised: -1 is the left (top) edge of the crop, +1 its right (bottom) edge.
* **Affine transforms** are (2, 3) matrices from image pixels to crop pixels.

Every function is pure, differentiable where that makes sense, and broadcasts over leading dimensions.
"""

from typing import NamedTuple

import torch
from torch import Tensor

# The unit of the predicted camera scale: crop half-sides per decimetre keeps the network's output near 1.
CAMERA_SCALE_METRES = 0.1


# ---------------------------------------------------------------------------------------------------------------------
# Rotations


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """Rodrigues' formula, smooth and differentiable at zero.

    Args:
        axis_angle: (..., 3), radians.

    Returns:
        (..., 3, 3) rotation matrices.
    """
    squared = (axis_angle * axis_angle).sum(-1)[..., None, None]
    small = squared < 1e-6
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    # Taylor expansions near zero: the plain quotients are 0/0 there and so are their gradients.
    sine = torch.where(small, 1 - squared / 6, torch.sin(angle) / angle)
    cosine = torch.where(small, 0.5 - squared / 24, (1 - torch.cos(angle)) / safe)
    cross = skew(axis_angle)
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return identity + sine * cross + cosine * (cross @ cross)


def skew(vector: Tensor) -> Tensor:
    """Cross-product matrices: (..., 3) -> (..., 3, 3) with ``skew(a) @ b == a x b``."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*vector.shape[:-1], 3, 3)


def matrix_to_axis_angle(rotmat: Tensor) -> Tensor:
    """Inverse of :func:`axis_angle_to_matrix`, exact up to half a turn.

    Args:
        rotmat: (..., 3, 3) rotation matrices.

    Returns:
        (..., 3) radians, with norm in [0, pi].
    """
    quaternion = matrix_to_quaternion(rotmat)
    w, xyz = quaternion[..., :1], quaternion[..., 1:]
    sine = xyz.norm(dim=-1, keepdim=True)
    small = sine < 1e-7
    safe = torch.where(small, torch.ones_like(sine), sine)
    scale = torch.where(small, 2 / w.clamp_min(0.5), 2 * torch.atan2(safe, w) / safe)
    return xyz * scale


def matrix_to_quaternion(rotmat: Tensor) -> Tensor:
    """Unit quaternions (w, x, y, z) with w >= 0 of (..., 3, 3) rotation matrices.

    Of the four algebraically equal formulas the one with the largest divisor is taken, so no angle is ill-conditioned.
    """
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = rotmat.flatten(-2).unbind(-1)
    candidates = torch.stack(
        [
            torch.stack([1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01], -1),
            torch.stack([m21 - m12, 1 + m00 - m11 - m22, m10 + m01, m02 + m20], -1),
            torch.stack([m02 - m20, m10 + m01, 1 - m00 + m11 - m22, m12 + m21], -1),
            torch.stack([m10 - m01, m20 + m02, m21 + m12, 1 - m00 - m11 + m22], -1),
        ],
        -2,
    )
    best = candidates.diagonal(dim1=-2, dim2=-1).argmax(-1)
    chosen = candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    chosen = chosen / chosen.norm(dim=-1, keepdim=True)
    return torch.where(chosen[..., :1] < 0, -chosen, chosen)


def rot6d_to_matrix(rot6d: Tensor) -> Tensor:
    """The continuous 6D representation of Zhou et al. 2019 (arXiv 1812.07035), by Gram-Schmidt.

    Args:
        rot6d: (..., 6): the first, then the second column of the matrix, neither normalised nor orthogonal.

    Returns:
        (..., 3, 3) rotation matrices.
    """
    first, second = rot6d[..., :3], rot6d[..., 3:]
    x = torch.nn.functional.normalize(first, dim=-1)
    y = torch.nn.functional.normalize(second - (x * second).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


def matrix_to_rot6d(rotmat: Tensor) -> Tensor:
    """The first two columns, one after the other: (..., 3, 3) -> (..., 6)."""
    return torch.cat([rotmat[..., 0], rotmat[..., 1]], -1)


def nearest_rotation(matrix: Tensor) -> Tensor:
    """The rotation that is nearest to each matrix (..., 3, 3) by the sum of squares; of a mean the mean rotation."""
    u, _, vt = torch.linalg.svd(matrix)
    signs = torch.ones_like(matrix[..., 0])
    signs[..., 2] = torch.sign(torch.linalg.det(u @ vt))
    return (u * signs[..., None, :]) @ vt


def mirror_matrix(rotmat: Tensor) -> Tensor:
    """The rotation seen in a mirror x -> -x: ``M R M`` with ``M = diag(-1, 1, 1)``. Its own inverse."""
    sign = rotmat.new_tensor([-1.0, 1.0, 1.0])
    return rotmat * sign * sign[:, None]


def mirror_axis_angle(axis_angle: Tensor) -> Tensor:
    """The rotation seen in a mirror x -> -x: ``(rx, -ry, -rz)``. Its own inverse."""
    return axis_angle * axis_angle.new_tensor([1.0, -1.0, -1.0])


# ---------------------------------------------------------------------------------------------------------------------
# Cameras


def project(points: Tensor, intrinsics: Tensor, min_depth: float | None = None) -> Tensor:
    """Pinhole projection.

    Args:
        points: (..., N, 3) in the camera frame, metres, z > 0.
        intrinsics: (..., 3, 3), pixels, without skew.
        min_depth: nearer points, and those behind the camera, are taken to be at this depth, metres.

    Returns:
        (..., N, 2) pixels.
    """
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], -1)[..., None, :]
    principal = intrinsics[..., None, :2, 2]
    depth = points[..., 2:] if min_depth is None else points[..., 2:].clamp(min=min_depth)
    return points[..., :2] / depth * focal + principal


def crop_cameras(intrinsics: Tensor, batch: int) -> Tensor:
    """Cameras (B, 3, 3) that a network is given, in float32.

    Raises:
        ValueError: They are not one for each of `batch` crops.
    """
    if intrinsics.shape != (batch, 3, 3):
        raise ValueError(f"intrinsics must be ({batch}, 3, 3), one for each crop, got {tuple(intrinsics.shape)}")
    return intrinsics.float()


def default_intrinsics(width: float, height: float, focal: float | None = None) -> Tensor:
    """A camera for a picture of unknown origin.

    Args:
        width, height: of the picture, pixels.
        focal: focal length, pixels. Without it the picture's diagonal is taken: a 53 degree diagonal field of view,
            that of a 43 mm lens on full frame.

    Returns:
        (3, 3) float32 intrinsics with the principal point at the centre of the picture.
    """
    focal = float((width**2 + height**2) ** 0.5) if focal is None else float(focal)
    return torch.tensor([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]])


def camera_translation(camera: Tensor, intrinsics: Tensor, size: int) -> Tensor:
    """Where the wrist is, from the network's camera, under the true perspective of the crop.

    Args:
        camera: (..., 3) = (s, tx, ty). (tx, ty) is the wrist in normalised crop coordinates; s > 0 is how many crop
            half-sides one decimetre spans at the depth of the wrist.
        intrinsics: (..., 3, 3) of the crop, pixels.
        size: side of the crop, pixels.

    Returns:
        (..., 3) the wrist in the camera frame, metres.
    """
    scale, shift = camera[..., :1], camera[..., 1:]
    focal = intrinsics[..., (0, 1), (0, 1)]
    depth = focal.mean(-1, keepdim=True) * CAMERA_SCALE_METRES / (scale * (size / 2))
    pixels = shift * (size / 2) + (size - 1) / 2
    return torch.cat([(pixels - intrinsics[..., :2, 2]) / focal * depth, depth], -1)


def camera_from_translation(wrist: Tensor, intrinsics: Tensor, size: int) -> Tensor:
    """Inverse of :func:`camera_translation`: (..., 3) wrist position, metres -> (..., 3) camera (s, tx, ty)."""
    focal = intrinsics[..., (0, 1), (0, 1)]
    depth = wrist[..., 2:]
    scale = focal.mean(-1, keepdim=True) * CAMERA_SCALE_METRES / (depth * (size / 2))
    pixels = wrist[..., :2] / depth * focal + intrinsics[..., :2, 2]
    return torch.cat([scale, (pixels - (size - 1) / 2) / (size / 2)], -1)


# ---------------------------------------------------------------------------------------------------------------------
# Crops


def crop_affine(box: Tensor, size: int, mirror: Tensor | bool = False, scale: float = 1.0) -> Tensor:
    """The square crop around a box, as a transform of pixels.

    Args:
        box: (..., 4) xyxy, image pixels; the longer side gives the crop's side, so nothing of the box is lost.
        size: side of the crop, pixels.
        mirror: (...) bool, whether the crop is flipped left to right (left hands).
        scale: side of the crop over the longer side of the box.

    Returns:
        (..., 2, 3) from image pixels to crop pixels.
    """
    corner, opposite = box[..., :2], box[..., 2:]
    centre = (corner + opposite) / 2
    zoom = size / (scale * (opposite - corner).amax(-1))
    mirror = torch.as_tensor(mirror, device=box.device).expand(zoom.shape)
    linear = torch.stack([torch.where(mirror, -zoom, zoom), zoom], -1)
    shift = (size - 1) / 2 - linear * centre
    return torch.cat([torch.diag_embed(linear), shift[..., None]], -1)


def affine_points(affine: Tensor, points: Tensor) -> Tensor:
    """Carry points (..., N, 2) through transforms (..., 2, 3)."""
    return points @ affine[..., :2].transpose(-1, -2) + affine[..., None, :, 2]


def invert_affine(affine: Tensor) -> Tensor:
    """The (..., 2, 3) transform that undoes ``affine``."""
    linear = torch.linalg.inv(affine[..., :2])
    return torch.cat([linear, -linear @ affine[..., 2:]], -1)


def compose_affine(second: Tensor, first: Tensor) -> Tensor:
    """The (..., 2, 3) transform that applies ``first``, then ``second``."""
    linear = second[..., :2] @ first[..., :2]
    return torch.cat([linear, second[..., :2] @ first[..., 2:] + second[..., 2:]], -1)


def crop_intrinsics(affine: Tensor, intrinsics: Tensor) -> Tensor:
    """The pinhole camera that sees the crop.

    A crop of a perspective picture is a perspective picture again: points in its camera frame are those of the image's
    camera frame turned (or mirrored) by :func:`crop_rotation`, and its principal point is the image's, carried along.

    Args:
        affine: (..., 2, 3) similarity (scale, rotation, shift, optional mirror) from image to crop pixels.
        intrinsics: (..., 3, 3) of the image, pixels; under a rotation both focal lengths must be equal.

    Returns:
        (..., 3, 3) of the crop, pixels.
    """
    zoom = torch.linalg.det(affine[..., :2]).abs().sqrt()
    focal = intrinsics[..., (0, 1), (0, 1)] * zoom[..., None]
    principal = affine_points(affine, intrinsics[..., None, :2, 2]).squeeze(-2)
    top = torch.cat([torch.diag_embed(focal), principal[..., None]], -1)
    bottom = top.new_tensor([0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 3)
    return torch.cat([top, bottom], -2)


def crop_rotation(affine: Tensor) -> Tensor:
    """What a crop does to 3D points: (..., 3, 3) orthogonal, a turn about the optical axis and maybe a mirror.

    ``points_in_crop_camera = points @ crop_rotation(affine).T``; the determinant is -1 where the crop is mirrored.
    """
    linear = affine[..., :2] / torch.linalg.det(affine[..., :2]).abs().sqrt()[..., None, None]
    return torch.nn.functional.pad(linear, (0, 1, 0, 1)) + torch.diag(linear.new_tensor([0.0, 0.0, 1.0]))


# ---------------------------------------------------------------------------------------------------------------------
# Alignment


class Similarity(NamedTuple):
    """``target = scale * source @ rotation.T + translation``; shapes (...), (..., 3, 3), (..., 3)."""

    scale: Tensor
    rotation: Tensor
    translation: Tensor


def similarity_align(source: Tensor, target: Tensor) -> tuple[Tensor, Similarity]:
    """Procrustes alignment: the similarity transform without reflection that brings source nearest to target.

    Umeyama 1991, "Least-squares estimation of transformation parameters between two point patterns".

    Args:
        source: (..., N, 3) points.
        target: (..., N, 3) points, same unit.

    Returns:
        The aligned source (..., N, 3), and the transform. Sources collapsed to one point keep scale 0.
    """
    source_mean, target_mean = source.mean(-2, keepdim=True), target.mean(-2, keepdim=True)
    centred, goal = source - source_mean, target - target_mean
    covariance = goal.transpose(-1, -2) @ centred
    rotation = nearest_rotation(covariance)
    spread = (centred * centred).sum((-2, -1))
    tiny = torch.finfo(source.dtype).tiny
    scale = (rotation * covariance).sum((-2, -1)) / spread.clamp_min(tiny)
    translation = target_mean - scale[..., None, None] * source_mean @ rotation.transpose(-1, -2)
    aligned = scale[..., None, None] * source @ rotation.transpose(-1, -2) + translation
    return aligned, Similarity(scale, rotation, translation.squeeze(-2))
