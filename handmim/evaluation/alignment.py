"""Alignments of predicted points with the true ones, for whole batches, in numpy float64.

`Procrustes` and `scale_translation_align` are those of the official FreiHAND and HO3D scripts; their quirks are
options. `handmim.geometry.similarity_align` is the proper similarity transform, without reflections.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Procrustes:
    """Similarity transforms that bring predictions nearest to the truth (Schoenemann 1966), one a sample.

    Attributes:
        rotation: (B, 3, 3) orthogonal matrices, applied to rows as `points @ rotation^T`.
        scale: (B,) between the two normalised point sets, at most 1.
        target_norm: (B,) size of the true points.
        predicted_norm: (B,) size of the predicted points.
        target_mean, predicted_mean: (B, 3) centroids.
    """

    rotation: np.ndarray
    scale: np.ndarray
    target_norm: np.ndarray
    predicted_norm: np.ndarray
    target_mean: np.ndarray
    predicted_mean: np.ndarray

    @classmethod
    def fit(
        cls, predicted: np.ndarray, target: np.ndarray, *, reflections: bool = True, epsilon: float = 1e-8
    ) -> Procrustes:
        """Estimate from corresponding points.

        Args:
            predicted, target: (B, N, 3), same unit.
            reflections: Whether a mirrored hand is brought into line, too. The official scripts do.
            epsilon: Added to both norms against division by zero; the official scripts' 1e-8.
        """
        target_mean, predicted_mean = target.mean(1), predicted.mean(1)
        goal, centred = target - target_mean[:, None], predicted - predicted_mean[:, None]
        target_norm, predicted_norm = _norms(goal) + epsilon, _norms(centred) + epsilon
        covariance = goal.transpose(0, 2, 1) @ centred / (target_norm * predicted_norm)[:, None, None]
        u, singular, vt = np.linalg.svd(covariance)
        if not reflections:
            sign = np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)
            u[:, :, 2] *= sign[:, None]
            singular[:, 2] *= sign
        return cls(u @ vt, singular.sum(1), target_norm, predicted_norm, target_mean, predicted_mean)

    def aligned(self, predicted: np.ndarray) -> np.ndarray:
        """The points (B, N, 3) of the fit, carried to the target."""
        centred = predicted - self.predicted_mean[:, None]
        factor = self.scale * self.target_norm / self.predicted_norm
        return centred @ (self.rotation * factor[:, None, None]).transpose(0, 2, 1) + self.target_mean[:, None]

    def aligned_other(self, points: np.ndarray) -> np.ndarray:
        """Other points (B, M, 3), carried along as the official scripts do: they do not divide by the fit's size."""
        mean = points.mean(1)
        factor = self.scale * self.target_norm
        turned = (points - mean[:, None]) @ (self.rotation * factor[:, None, None]).transpose(0, 2, 1)
        return turned + (self.target_mean - self.predicted_mean + mean)[:, None]


def _norms(points: np.ndarray) -> np.ndarray:
    flat = points.reshape(len(points), -1)
    return np.sqrt(np.einsum("bi,bi->b", flat, flat))


def scale_translation_align(predicted: np.ndarray, target: np.ndarray, root: int = 0, reference: int = 4) -> np.ndarray:
    """Bring the root joint to the truth, and one bone's length with it: HO3D's "scale-translation" alignment.

    Args:
        predicted, target: (B, N, 3).
        root: The joint that comes to lie on the true one.
        reference: The length from the root to this joint is made the true one. In HO3D's order 4 is the base of the
            middle finger. Without a length (all predicted joints in one point) nothing is divided.

    Returns:
        (B, N, 3) aligned predictions.
    """
    length = np.linalg.norm(predicted[:, reference] - predicted[:, root], axis=-1)
    true_length = np.linalg.norm(target[:, reference] - target[:, root], axis=-1)
    scaled = predicted / np.where(length > 0, length, 1.0)[:, None, None] * true_length[:, None, None]
    return scaled - scaled[:, root, None] + target[:, root, None]
