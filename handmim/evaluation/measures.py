"""Names, units and direction of every figure in a report, so that tables and comparisons agree."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """One kind of figure.

    Attributes:
        label: For tables.
        unit: "mm", "px", or "" for shares and counts.
        better: "lower", "higher", or "" for counts.
        digits: After the point, in tables.
    """

    label: str
    unit: str = ""
    better: str = "higher"
    digits: int = 3


def _mm(label: str) -> Measure:
    return Measure(label, "mm", "lower", 2)


MEASURES: dict[str, Measure] = {
    "pa_mpjpe": _mm("PA-MPJPE"),
    "pa_mpvpe": _mm("PA-MPVPE"),
    # The papers' "MPJPE" on HO3D: aligned by wrist and scale, not by rotation.
    "st_mpjpe": _mm("MPJPE (wrist, scale)"),
    "mpjpe": _mm("MPJPE (wrist)"),
    "mpvpe": _mm("MPVPE (wrist)"),
    "abs_mpjpe": _mm("MPJPE (camera)"),
    "abs_mpvpe": _mm("MPVPE (camera)"),
    "f5": Measure("F@5"),
    "f15": Measure("F@15"),
    "abs_f5": Measure("F@5 (camera)"),
    "abs_f15": Measure("F@15 (camera)"),
    "pa_auc_joints": Measure("AUC joints (PA)"),
    "pa_auc_vertices": Measure("AUC vertices (PA)"),
    "st_auc_joints": Measure("AUC joints (wrist, scale)"),
    "auc_vertices": Measure("AUC vertices (wrist)"),
    "abs_auc_joints": Measure("AUC joints (camera)"),
    "abs_auc_vertices": Measure("AUC vertices (camera)"),
    "auc_3d": Measure("3D AUC (wrist)"),
    "st_auc_3d": Measure("3D AUC (wrist, scale)"),
    "mean_2d": Measure("2D error / box", "", "lower", 3),
    "mean_2d_found": Measure("2D error / box (found)", "", "lower", 3),
    "epe_px": Measure("2D error (found)", "px", "lower", 2),
    "pck_2d_05": Measure("2D PCK@.05"),
    "pck_2d_10": Measure("2D PCK@.1"),
    "pck_2d_20": Measure("2D PCK@.2"),
    "auc_2d": Measure("2D AUC"),
    "auc_2d_30px": Measure("2D AUC (30 px)"),
    "mask_iou": Measure("mask IoU"),
    # Of HIU-DMTL's maps themselves; the figures of the same name without map_ are of the projected mesh.
    "map_mean_2d": Measure("heat maps: 2D error / box", "", "lower", 3),
    "map_epe_px": Measure("heat maps: 2D error", "px", "lower", 2),
    "map_pck_2d_05": Measure("heat maps: PCK@.05"),
    "map_pck_2d_10": Measure("heat maps: PCK@.1"),
    "map_pck_2d_20": Measure("heat maps: PCK@.2"),
    "map_auc_2d": Measure("heat maps: 2D AUC"),
    "map_mask_iou": Measure("segmentation: mask IoU"),
    "map_miou": Measure("segmentation: mIoU"),
    "found": Measure("found", "", "", 0),
    "samples_3d": Measure("with 3D", "", "", 0),
    "samples_mask": Measure("with mask", "", "", 0),
}


def formatted(name: str, value: float | None) -> str:
    """A figure as tables show it; a dash where there is none."""
    if value is None or value != value:
        return "-"
    return f"{value:.{MEASURES[name].digits if name in MEASURES else 4}f}"


def heading(name: str) -> str:
    """Label and unit."""
    measure = MEASURES.get(name, Measure(name))
    return f"{measure.label}, {measure.unit}" if measure.unit else measure.label
