"""Dexter+Object in miniature: the same frames in each sequence, seen by the data set's colour camera."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .cameras import seen_by
from .scenes import Scene

SEQUENCES = ("Grasp1", "Grasp2", "Occlusion", "Rigid", "Pinch", "Rotate")
# As in public readers: colour = K [R | t] depth, millimetres.
COLOUR = np.array([[587.45209, 0, 325], [0, 600.67456, 249], [0, 0, 1]])
ROTATION = np.array([[0.9999, 0.0034, 0.0161], [-0.0033, 1.0, -0.0079], [-0.0162, 0.0079, 0.9998]])
SHIFT = np.array([19.0473, -1.8514, -4.7501])
TIPS = {"thumb": 4, "index": 8, "middle": 12, "ring": 16, "little": 20}


def write(root: Path, scenes: Sequence[Scene]) -> list[Scene]:
    """Write left hands; of the first frame the ring finger's tip is not labelled.

    Returns:
        What each colour frame shows.
    """
    frames = [seen_by(scene, COLOUR, (640, 480)) for scene in scenes]
    for sequence in SEQUENCES:
        color, annotations = (root / "data" / sequence / name for name in ("color", "annotations"))
        color.mkdir(parents=True)
        annotations.mkdir()
        lines = []
        for number, frame in enumerate(frames):
            Image.fromarray(frame.image).save(color / f"image_{number:04d}_color.bmp")
            points = official(frame)
            if number == 0:
                points[3] = [0, 0, 32001]
            lines.append(line(points))
        (annotations / f"{sequence}3D.txt").write_text("\n".join(lines) + "\n")
    return frames


def official(frame: Scene) -> np.ndarray:
    """(5, 3) tips in the depth camera's frame with x left and y up, millimetres."""
    tips = frame.joints[list(TIPS.values())].astype(np.float64) * 1000
    depth = np.linalg.solve(ROTATION, (tips - SHIFT).T).T
    return depth * [-1, -1, 1]


def line(points: np.ndarray) -> str:
    """A frame's line: the tips, then three corners of an object."""
    corners = [[10.0, 20.0, 400.0]] * 3
    return "; ".join(", ".join(f"{value:.3f}" for value in point) for point in [*points.tolist(), *corners]) + ";"
