"""What HIU-DMTL learns from: every stack supervised, each sample by the labels it has (section 3.3 of the paper)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .configuration_hiu_dmtl import HIUDMTLConfig
from .layers_handmim import normalise_pixels
from .layers_hiu_dmtl import soft_argmax
from .losses import (
    check_labels,
    check_mask,
    check_vertices,
    heatmap_keypoint_loss,
    keypoint_2d_loss,
    keypoint_3d_loss,
    l1_loss,
    parameter_loss,
    pose_prior_loss,
    score_loss,
    shape_prior_loss,
    vertex_loss,
)
from .losses_hiu_dmtl import bone_loss, focal_loss, map_loss, mask_loss, silhouette_loss
from .silhouette import soft_silhouette
from .targets_hiu_dmtl import gaussian_heatmaps, part_orientation_fields, to_cells

STRIDE = 4  # crop pixels a cell


class HandUnderstandingLoss:
    """The weighted sum of section 3.3 for one batch.

    Args:
        config: Tasks and weights; a weight of 0 removes the term and its cost.
        faces: (F, 3) of the hand model; None without a mesh.
        size: Side of the crops, pixels.
    """

    def __init__(self, config: HIUDMTLConfig, faces: Tensor | None, size: int) -> None:
        self.config, self.weights, self.faces, self.size = config, config.loss_weights, faces, size
        self.cells = size // STRIDE

    def __call__(
        self,
        stacks: list[dict[str, Tensor]],
        labels: dict[str, Tensor],
        intrinsics: Tensor | None = None,
        score_logits: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sums up.

        Args:
            stacks: Of each stack its maps (heatmaps, mask as logits, pof) and the hand it decodes.
            labels: See `HIUDMTLForHandUnderstanding.forward`.
            intrinsics: (B, 3, 3) of the crops, if they are known.
            score_logits: (B,).

        Returns:
            The weighted sum over terms, mean over stacks; and each term detached and unweighted.

        Raises:
            ValueError: If no label can teach anything and self-supervision is off.
        """
        first = next(iter(stacks[0].values()))
        check_labels(labels, len(first), self.weights)
        device = first.device
        labels = with_hands_only({name: value.to(device) for name, value in labels.items()})
        sums: dict[str, Tensor] = {}
        with torch.autocast(device.type, enabled=False):
            targets = self.map_targets(labels)
            for stack in stacks:
                terms = self.map_terms(stack, targets) | self.integral_terms(stack, labels)
                if self.faces is not None:
                    terms |= self.label_terms(stack, labels)
                    terms |= self.mask_terms(stack, labels, targets)
                    terms |= self.keypoint_terms(stack, labels)
                    if terms:
                        terms |= self.prior_terms(stack, intrinsics)
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0.0) + value / len(stacks)
            if score_logits is not None and self.weights["score"] and "hand" in labels:
                sums["score"] = score_loss(score_logits, labels["hand"])
        if not sums:
            raise ValueError(
                f"labels must hold something to learn from for the tasks {tuple(self.config.tasks)}, "
                f"got {sorted(labels)}; for unlabelled images set the loss_weights self_mask and self_keypoints above 0"
            )
        loss = torch.stack([self.weights[name] * value for name, value in sums.items()]).sum()
        return loss, {name: value.detach() for name, value in sums.items()}

    def map_targets(self, labels: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the maps should be: heatmaps, pof, and mask at the maps' resolution, as far as labels are there."""
        cells = self.cells
        targets: dict[str, Tensor] = {}
        if "mask" in labels:
            check_mask(labels["mask"], self.size)
            targets["mask"] = F.avg_pool2d(labels["mask"].float()[:, None], STRIDE).squeeze(1)
        if "keypoints_2d" in labels:
            keypoints = to_cells(labels["keypoints_2d"].float(), self.size, cells)
            if "heatmaps" in self.config.tasks:
                targets["heatmaps"] = gaussian_heatmaps(keypoints, self.config.heatmap_sigma, cells, cells)
            if "pof" in self.config.tasks:
                radius = self.config.bone_radius
                targets["pof"] = part_orientation_fields(keypoints, labels.get("joints"), radius, cells, cells)
        return targets

    def map_terms(self, stack: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """L_backbone: L_hm + L_pof + L_seg."""
        losses = {"heatmaps": map_loss, "pof": map_loss, "mask": mask_loss}
        tasks = [task for task in self.config.tasks if task in targets and self.weights[task]]
        return {task: losses[task](stack[task], targets[task]) for task in tasks}

    def integral_terms(self, stack: dict[str, Tensor], labels: dict[str, Tensor]) -> dict[str, Tensor]:
        """Equation 1 of the heat maps against labelled keypoints."""
        if not self.weights["heatmap_keypoints"] or "heatmaps" not in stack or "keypoints_2d" not in labels:
            return {}
        wanted = normalise_pixels(labels["keypoints_2d"].float(), self.size)
        return {"heatmap_keypoints": heatmap_keypoint_loss(soft_argmax(stack["heatmaps"]), wanted)}

    def label_terms(self, stack: dict[str, Tensor], labels: dict[str, Tensor]) -> dict[str, Tensor]:
        """L_3d and L_2d of the regressor, and full labels where they have a weight."""
        candidates: dict[str, Callable[[Tensor], Tensor]] = {
            "bones": lambda label: bone_loss(stack["joints"], label),
            "joints": lambda label: keypoint_3d_loss(stack["joints"], label),
            "keypoints_2d": lambda label: keypoint_2d_loss(stack["keypoints_2d"], label, self.size),
            "vertices": lambda label: vertex_loss(
                stack["vertices"], stack["joints"][:, :1], label, labels["joints"][:, :1]
            ),
        }
        for name in ("global_orient", "hand_pose", "betas"):
            candidates[name] = lambda label, name=name: parameter_loss(stack[name], label)
        needs = {"bones": "joints"}
        terms = {}
        for name, loss in candidates.items():
            source = needs.get(name, name)
            if self.weights[name] and source in labels and (name != "vertices" or "joints" in labels):
                if name == "vertices":
                    check_vertices(labels[name], stack[name])
                terms[name] = loss(labels[source])
        return terms

    def mask_terms(
        self, stack: dict[str, Tensor], labels: dict[str, Tensor], targets: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """L_mask: the rendered mask against the labelled one; self-supervision: against the estimated one without."""
        wanted: dict[str, Tensor] = {}
        if self.weights["silhouette"] and "mask" in targets:
            wanted["silhouette"] = targets["mask"]
        if self.weights["self_mask"] and "mask" in stack:
            unlabelled = without_label("mask", labels, stack["mask"])[:, None, None]
            wanted["self_mask"] = torch.where(unlabelled, stack["mask"].sigmoid(), torch.nan)
        if not wanted:
            return {}
        coverage = soft_silhouette(
            stack["vertices"], self.faces, map_intrinsics(stack["intrinsics"]), self.cells, self.cells
        )
        return {name: silhouette_loss(coverage, mask) for name, mask in wanted.items()}

    def keypoint_terms(self, stack: dict[str, Tensor], labels: dict[str, Tensor]) -> dict[str, Tensor]:
        """Self-supervision: reprojected joints against the soft-argmax of the heat maps, where none are labelled."""
        if not self.weights["self_keypoints"] or "heatmaps" not in stack:
            return {}
        projected = normalise_pixels(stack["keypoints_2d"], self.size)
        unlabelled = without_label("keypoints_2d", labels, projected)[:, None, None]
        estimate = soft_argmax(stack["heatmaps"])
        # l1_loss takes labels as constants: one term a direction, so that both learn from each other
        return {
            "self_keypoints": l1_loss(projected, torch.where(unlabelled, estimate.detach(), torch.nan))
            + l1_loss(estimate, torch.where(unlabelled, projected.detach(), torch.nan))
        }

    def prior_terms(self, stack: dict[str, Tensor], intrinsics: Tensor | None) -> dict[str, Tensor]:
        """What keeps a hand plausible where labels say little, and the focal length where it is known."""
        terms = {}
        if self.weights["shape_prior"]:
            terms["shape_prior"] = shape_prior_loss(stack["betas"])
        if self.weights["pose_prior"]:
            terms["pose_prior"] = pose_prior_loss(stack["hand_pose"])
        if self.weights["focal"] and intrinsics is not None:
            terms["focal"] = focal_loss(stack["log_focal"], intrinsics, self.size)
        return terms


def map_intrinsics(intrinsics: Tensor) -> Tensor:
    """The camera (B, 3, 3) of a crop, as the camera of its maps: pixel x becomes cell (x + .5) / 4 - .5."""
    scaled = intrinsics.clone()
    scaled[:, :2] = scaled[:, :2] / STRIDE
    scaled[:, :2, 2] = scaled[:, :2, 2] + (0.5 / STRIDE - 0.5)
    return scaled


def with_hands_only(labels: dict[str, Tensor]) -> dict[str, Tensor]:
    """Labels without the masks of crops that show no right hand (`hand` is 0): they teach the score alone."""
    if "hand" not in labels or "mask" not in labels or not (labels["hand"] == 0).any():
        return labels
    absent = (labels["hand"] == 0)[:, None, None]
    return labels | {"mask": torch.where(absent, torch.nan, labels["mask"].float())}


def without_label(name: str, labels: dict[str, Tensor], like: Tensor) -> Tensor:
    """(B,) bool: samples that show a right hand as far as is known, but lack a label altogether."""
    if name in labels:
        missing = labels[name].isnan().flatten(1).all(1)
    else:
        missing = torch.ones(len(like), dtype=torch.bool, device=like.device)
    return missing & (labels["hand"] != 0) if "hand" in labels else missing


def self_supervised(config: HIUDMTLConfig) -> bool:
    """Whether a network learns from pictures without labels (section 3.3): it has a mesh, and what to compare with."""
    pairs = (("mask", "self_mask"), ("heatmaps", "self_keypoints"))
    return config.mesh and any(task in config.tasks and config.loss_weights[term] for task, term in pairs)
