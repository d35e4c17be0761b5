"""What every miniature data set is written from: pictures of synthetic hands with every label there is.

`make_scenes` renders them, `write_mano` writes the fabricated MANO-shaped model whose parameters and 778 vertices they
carry. The model is the open hand (CC0), thinned: no MANO data.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from fabricate_mano import PARENTS, mirrored, write_pickle
from scipy.sparse.csgraph import dijkstra

from handmim.geometry import matrix_to_axis_angle, mirror_matrix
from handmim.hand_model import HandModel
from handmim.mano_files import TIP_VERTICES
from handmim.synthesis import generate

NUM_VERTICES = 778
# Row i is the joint of the package's order that stands at place i of MANO's: 16 joints, then the five tips.
MANO_ORDER = (0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3, 4, 8, 12, 16, 20)


@dataclass(frozen=True, eq=False)
class Scene:
    """One picture of one hand. OpenCV camera frame, metres; pixels with (0, 0) at the top-left pixel's centre.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, the hand's visible pixels.
        intrinsics: (3, 3) float32, pixels.
        side: "right" or "left".
        joints: (21, 3) float32, the package's order.
        keypoints_2d: (21, 2) float32 pixels, inside the picture.
        visibility: (21,) bool.
        vertices: (778, 3) of the fabricated MANO-shaped model of that side, float32.
        open_vertices: (1649, 3) of the open hand, float32.
        global_orient: (3, 3) float32. The parameters are those of a model of that side, zero pose is the flat hand.
        hand_pose: (15, 3, 3) float32.
        betas: (10,) float32.
        translation: (3,) float32, added to what the model gives.
    """

    image: np.ndarray
    mask: np.ndarray
    intrinsics: np.ndarray
    side: str
    joints: np.ndarray
    keypoints_2d: np.ndarray
    visibility: np.ndarray
    vertices: np.ndarray
    open_vertices: np.ndarray
    global_orient: np.ndarray
    hand_pose: np.ndarray
    betas: np.ndarray
    translation: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), pixels."""
        return self.image.shape[1], self.image.shape[0]

    @property
    def box(self) -> np.ndarray:
        """(4,) xyxy pixels around the keypoints, without a margin."""
        return np.concatenate([self.keypoints_2d.min(0), self.keypoints_2d.max(0)])

    def axis_angle(self, relative_to_mean: bool = False) -> np.ndarray:
        """(48,) float64 radians: global rotation, then MANO's 15 joints; or with the model's mean pose taken off."""
        matrices = np.concatenate([self.global_orient[None], self.hand_pose]).astype(np.float64)
        vector = matrix_to_axis_angle(torch.from_numpy(matrices)).numpy().reshape(48)
        if relative_to_mean:
            vector[3:] -= mano_arrays(self.side)["hands_mean"]
        return vector


def make_scenes(
    count: int, seed: int = 0, size: tuple[int, int] = (320, 240), side: str | Sequence[str] = "right"
) -> list[Scene]:
    """Pictures of synthetic hands; the same arguments give the same scenes, rendered once a process.

    Args:
        count: How many.
        seed: Names them.
        size: (width, height) of the pictures, at least 80 px; the hand lies in a square somewhere in it.
        side: "right", "left", or one for each scene.

    Returns:
        Scenes whose 21 keypoints all lie in the picture. Do not change their arrays: others see the same.
    """
    sides = (side,) * count if isinstance(side, str) else tuple(side)
    if len(sides) != count:
        raise ValueError(f"side must name one hand for each of {count} scenes, got {len(sides)}")
    rendered = _render(count, seed, size)
    return [_left(scene) if which == "left" else scene for scene, which in zip(rendered, sides, strict=True)]


def mano_order(joints: np.ndarray) -> np.ndarray:
    """(..., 21, D) in the package's order -> MANO's 16 joints and tips (thumb, index, middle, ring, little)."""
    return joints[..., list(MANO_ORDER), :]


def write_mano(folder: Path) -> Path:
    """Write MANO_RIGHT.pkl and MANO_LEFT.pkl of the fabricated model into a folder, which is made; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for side in ("right", "left"):
        write_pickle(folder / f"MANO_{side.upper()}.pkl", mano_arrays(side))
    return folder


@lru_cache(maxsize=2)
def mano_arrays(side: str) -> dict[str, Any]:
    """The fabricated model under the official names. The left one has the published file's fault of shape signs.

    778 vertices of the open hand with their blend shapes and weights, so posing it gives those of the open hand's
    vertices; its joint regressor is fitted to give the open hand's joints for every shape.
    """
    hand = HandModel("open")
    keep, nearest = _thinned()
    template, shapes = hand.template.double().numpy()[keep], hand.shape_dirs.double().numpy()[keep]
    rng = np.random.default_rng(45)
    faces = nearest[hand.faces.numpy()]
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    faces = faces[np.unique(np.sort(faces, 1), axis=0, return_index=True)[1]]
    regressor = _fit_regressor(hand, template, shapes)
    model = {
        "v_template": template,
        "shapedirs": shapes,
        "posedirs": hand.pose_dirs.double().numpy()[keep],
        "J_regressor": scipy.sparse.csc_matrix(regressor),
        "weights": hand.skinning_weights.double().numpy()[keep],
        "kintree_table": np.array([PARENTS, range(16)], np.int64).astype(np.uint32),
        "f": faces.astype(np.uint32),
        "hands_mean": rng.normal(0, 0.2, 45),
        "hands_components": np.linalg.qr(rng.normal(size=(45, 45)))[0],
        "J": regressor @ template,
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }
    return mirrored(model) if side == "left" else model


def _fit_regressor(hand: HandModel, template: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """(16, 778): rows of least norm that give the open hand's joints, their shape directions, and sum to one."""
    regressor = hand.joint_regressor.double().numpy()
    template_all, shapes_all = hand.template.double().numpy(), hand.shape_dirs.double().numpy()
    goals = [
        regressor @ template_all,
        np.einsum("jv,vck->jck", regressor, shapes_all).reshape(16, 30),
        np.ones((16, 1)),
    ]
    columns = [template, shapes.reshape(NUM_VERTICES, 30), np.ones((NUM_VERTICES, 1))]
    return np.linalg.lstsq(np.concatenate(columns, 1).T, np.concatenate(goals, 1).T, rcond=None)[0].T


@lru_cache(maxsize=1)
def _thinned() -> tuple[np.ndarray, np.ndarray]:
    """Which vertices of the open hand are kept (778,), tips where MANO has them, and for each vertex of the open hand
    the number of the kept one that is nearest along the surface.
    """
    hand = HandModel("open")
    template, faces, tips = hand.template.numpy(), hand.faces.numpy(), hand.tip_vertices.numpy()
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    length = np.linalg.norm(template[edges[:, 0]] - template[edges[:, 1]], axis=1)
    graph = scipy.sparse.coo_matrix((length, (edges[:, 0], edges[:, 1])), (len(template),) * 2).tocsr()
    graph = graph.maximum(graph.T)
    chosen = list(tips)
    distance = np.linalg.norm(template[:, None] - template[tips], axis=2).min(1)
    while len(chosen) < NUM_VERTICES:  # the farthest from all before it, so that they lie evenly
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(template - template[chosen[-1]], axis=1))
    rest = sorted(set(chosen) - set(tips.tolist()))
    keep = np.empty(NUM_VERTICES, np.int64)
    keep[list(TIP_VERTICES)] = tips
    keep[np.setdiff1d(np.arange(NUM_VERTICES), TIP_VERTICES)] = rest
    _, _, source = dijkstra(graph, directed=False, indices=keep, min_only=True, return_predecessors=True)
    number = np.full(len(template), -1)
    number[keep] = np.arange(NUM_VERTICES)
    return keep, number[source]


@lru_cache(maxsize=16)
def _render(count: int, seed: int, size: tuple[int, int]) -> list[Scene]:
    width, height = size
    side = min(224, int(0.9 * min(size)) // 8 * 8)
    rng = np.random.default_rng([seed, width, height])
    scenes: list[Scene] = []
    first = 0
    while len(scenes) < count:
        batch = generate(seed, range(first, first + 2 * count), size=side, negatives=0.0)
        first += 2 * count
        keypoints = batch.labels["keypoints_2d"]
        inside = ((keypoints > 0) & (keypoints < side - 1)).flatten(1).all(1)
        for i in torch.nonzero(inside).squeeze(1).tolist()[: count - len(scenes)]:
            labels = {name: value[i].numpy().copy() for name, value in batch.labels.items()}
            corner = (int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1)))
            scenes.append(_placed(batch.images[i].numpy(), batch.intrinsics[i].numpy(), labels, corner, size, rng))
    return scenes


def _placed(
    crop: np.ndarray,
    intrinsics: np.ndarray,
    labels: dict[str, np.ndarray],
    corner: tuple[int, int],
    size: tuple[int, int],
    rng: np.random.Generator,
) -> Scene:
    """A square picture laid into a larger noisy one, so that principal points are anywhere."""
    (x, y), (width, height), side = corner, size, len(crop)
    image = np.clip(rng.normal(crop.mean((0, 1)), 12, (height, width, 3)), 0, 255).astype(np.uint8)
    image[y : y + side, x : x + side] = crop
    mask = np.zeros((height, width), bool)
    mask[y : y + side, x : x + side] = labels["mask"]
    moved = intrinsics.copy()
    moved[:2, 2] += corner
    wrist = labels["joints"][0] - _rest_wrist(labels["betas"])
    return Scene(
        image=image,
        mask=mask,
        intrinsics=moved,
        side="right",
        joints=labels["joints"],
        keypoints_2d=labels["keypoints_2d"] + np.array(corner, np.float32),
        visibility=labels["visibility"],
        vertices=labels["vertices"][_thinned()[0]],
        open_vertices=labels["vertices"],
        translation=wrist,
        **{name: labels[name] for name in ("global_orient", "hand_pose", "betas")},
    )


def _rest_wrist(betas: np.ndarray) -> np.ndarray:
    """(3,) the wrist of a hand of that shape before its translation; the global rotation turns about it."""
    hand = HandModel("open")
    row = hand.joint_regressor[0].double().numpy()
    shaped = hand.template.double().numpy() + hand.shape_dirs.double().numpy() @ betas.astype(np.float64)
    return (row @ shaped).astype(np.float32)


def _left(scene: Scene) -> Scene:
    """The scene in the mirror x -> -x."""
    width = scene.size[0]
    flip = np.array([-1, 1, 1], np.float32)
    intrinsics, keypoints = scene.intrinsics.copy(), scene.keypoints_2d.copy()
    intrinsics[0, 2] = width - 1 - intrinsics[0, 2]
    keypoints[:, 0] = width - 1 - keypoints[:, 0]
    points = {name: getattr(scene, name) * flip for name in ("joints", "vertices", "open_vertices", "translation")}
    turns = {
        name: mirror_matrix(torch.from_numpy(getattr(scene, name))).numpy() for name in ("global_orient", "hand_pose")
    }
    image, mask = scene.image[:, ::-1].copy(), scene.mask[:, ::-1].copy()
    pixels = {"image": image, "mask": mask, "intrinsics": intrinsics, "keypoints_2d": keypoints}
    return replace(scene, side="left", **pixels, **points, **turns)
