"""Losses of HandMIM's pre-training: sections 2.2 to 2.4, equations 3, 4, 6, 7 and 9, and PeCLR's contrastive loss.

Conventions. A batch holds B samples of two views. A view's transform is (angle, gamma, a, b): rotation in radians,
scale and offset of the warp from the original image to the view, both in coordinates whose -1 and 1 are the outer
edges (of an image that is not square: those along its longer side), x right, y down. Means are taken view by view and
then over views, so that the loss of a batch is the mean of the losses of its parts. Everything is computed in float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def rotation_matrix(angle: Tensor) -> Tensor:
    """R of equation 3: (...) radians -> (..., 2, 2) [[cos, -sin], [sin, cos]]."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))


def warp_points(points: Tensor, transforms: Tensor) -> Tensor:
    """Equation 3: p' = R (gamma p - (a, b)), from the original image to the view.

    Args:
        points: (..., P, 2) in the original image.
        transforms: (..., 4) angle, gamma, a, b.

    Returns:
        (..., P, 2) in the view.
    """
    angle, gamma, offset = _split(transforms)
    return (gamma * points - offset) @ rotation_matrix(angle).mT


def align_points(points: Tensor, transforms: Tensor, extent: Tensor | float = 1.0) -> Tensor:
    """Equation 4: p = (R^-1 p' + (a, b)) / gamma, the inverse of equation 3.

    Args:
        points: (..., P, 2) in the view.
        transforms: (..., 4) angle, gamma, a, b.
        extent: Half-side of the view in the units of `points`, broadcasting to (..., 1, 1); 1 if they are normalised
            coordinates.

    Returns:
        (..., P, 2) in the original image, in the units of `points`.
    """
    angle, gamma, offset = _split(transforms)
    return (points @ rotation_matrix(angle) + extent * offset) / gamma


def _split(transforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(..., 4) -> angle (...), gamma (..., 1, 1), offset (..., 1, 2), float32."""
    transforms = transforms.float()
    return transforms[..., 0], transforms[..., 1, None, None], transforms[..., None, 2:]


def sharpen(logits: Tensor, center: Tensor, temperature: Tensor | float) -> Tensor:
    """The teacher's distribution: softmax((logits - center) / temperature) over the last axis (DINO, equation 1)."""
    return ((logits.float() - center) / temperature).softmax(dim=-1)


def cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    """-sum(target log softmax(logits)) over the last axis, as logsumexp(logits) - <target, logits>: no log-softmax.

    Args:
        target: (..., K) probabilities, without gradient.
        logits: (..., K).
    """
    logits = logits.float()
    return logits.logsumexp(dim=-1) - torch.linalg.vecdot(target, logits)


def pose_loss(target: Tensor, logits: Tensor) -> Tensor:
    """L_pose of equation 6: each view's class token learns from the teacher's class token of the other view.

    Args:
        target: (B, 2, K) the teacher's distributions.
        logits: (B, 2, K) of the student, divided by its temperature.

    Returns:
        Mean over samples and both directions (the paper's sum over the two directions, halved as iBOT does).
    """
    return cross_entropy(target.flip(1), logits).mean()


def view_weights(mask: Tensor) -> Tensor:
    """Weight of each masked patch in a mean over its view's masked patches, then over all views.

    Args:
        mask: (V, N) bool.

    Returns:
        (M,) for the M masked patches in row-major order; a view without any has no part in the mean's sum.
    """
    count = mask.sum(dim=1, keepdim=True).clamp(min=1)
    return (1.0 / (count * len(mask))).expand_as(mask)[mask]


def patch_loss(target: Tensor, logits: Tensor, weights: Tensor) -> Tensor:
    """L_patch of equation 7: each masked patch token learns from the teacher's token at the same place.

    Args:
        target: (M, K) the teacher's distributions at the masked patches.
        logits: (M, K) of the student, divided by its temperature.
        weights: (M,) of `view_weights`.
    """
    return torch.dot(weights, cross_entropy(target, logits))


def reconstruction_loss(pixels: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """L_recon of equation 9: mean absolute difference over the pixels of the masked patches.

    Args:
        pixels: (M, 3, p, p) reconstruction, in the units of the target.
        target: (M, 3, p, p) the view's own pixels, normalised to [-1, 1].
        weights: (M,) of `view_weights`.
    """
    return torch.dot(weights, (pixels.float() - target.float()).abs().flatten(1).mean(dim=1))


def contrastive_loss(views: Tensor, gallery: Tensor, start: int, temperature: float) -> Tensor:
    """NT-Xent of PeCLR and SimCLR: a view must be closer to its sample's other view than to any other view.

    Args:
        views: (B, 2, D) projections, of any length.
        gallery: (G, 2, D) the projections of the whole batch (of all processes), `views` among them.
        start: Row of `gallery` where `views` begins.
        temperature: Of the cosine similarities.
    """
    anchors, others = F.normalize(views.float(), dim=-1).flatten(0, 1), F.normalize(gallery.float(), dim=-1)
    similarity = anchors @ others.flatten(0, 1).mT / temperature  # (2B, 2G)
    own = 2 * start + torch.arange(len(anchors), device=anchors.device)
    similarity = similarity.scatter(1, own[:, None], float("-inf"))
    return F.cross_entropy(similarity, own ^ 1)


def temperature_at(epoch: Tensor, first: float, last: float, warmup_epochs: float) -> Tensor:
    """Linear warm-up of a temperature over the first epochs (DINO, iBOT), for a scalar number of epochs done."""
    share = (epoch.float() / warmup_epochs).clamp(max=1.0) if warmup_epochs else torch.ones_like(epoch.float())
    return first + (last - first) * share


def entropy(probability: Tensor) -> Tensor:
    """-sum(p log p) over the last axis, nats."""
    return torch.special.entr(probability).sum(dim=-1)


def spread(features: Tensor) -> Tensor:
    """How far features (n, C) are from collapse: 0 all equal, about 1 as spread as random directions.

    Standard deviation over the samples of each component of the unit vectors, times sqrt(C) (SimSiam, Chen & He 2021,
    section 4.1).
    """
    directions = F.normalize(features.float(), dim=-1)
    return directions.std(dim=0, correction=0).mean() * features.shape[-1] ** 0.5


def share_within(tokens: Tensor) -> Tensor:
    """Share of the variance of patch tokens (V, N, C) that lies within the views, 0 to 1.

    Near 0 the patches of a view all say the same, and where something is can no longer be read off them. Distilling
    patches can end there: a masked patch is then told by any other.
    """
    tokens = tokens.float()
    total = tokens.var(dim=(0, 1), correction=0).sum()
    between = tokens.mean(dim=1).var(dim=0, correction=0).sum()
    return 1 - between / total.clamp(min=torch.finfo(total.dtype).tiny)
