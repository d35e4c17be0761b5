"""Meshes of samples whose labels are a hand model's parameters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..hand_model import HandModel
from ..training.datasets.sample import HandReader
from .scoring import WRIST, Truth

PARAMETERS = ("global_orient", "hand_pose", "betas")
_BATCH = 256


@torch.no_grad()
def with_posed_meshes(truth: Truth, reader: HandReader, hand_model: HandModel) -> Truth:
    """The same truth, with the meshes that the labelled parameters give, put where the labelled wrists are.

    Args:
        truth: The first samples of the reader (`scoring.collect`), without meshes.
        reader: Whose parameters are of the same kind of hand model.
        hand_model: Of right hands. Left hands, and samples without all parameters and a wrist, get none.

    Returns:
        `truth` with `vertices`, NaN where there is none; or as it is, if no sample has parameters.
    """
    rows, labels = [], []
    for row in range(len(truth)):
        sample = reader[row]
        whole = all(name in sample.labels for name in PARAMETERS) and not np.isnan(truth.joints[row, WRIST]).any()
        if whole and sample.handedness != "left":
            rows.append(row)
            labels.append([torch.from_numpy(np.asarray(sample.labels[name])).float() for name in PARAMETERS])
    if not rows:
        return truth
    vertices = np.full((len(truth), len(hand_model.template), 3), np.nan, np.float32)
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        hand = hand_model(*(torch.stack(column) for column in zip(*labels[start : start + _BATCH], strict=True)))
        shift = torch.from_numpy(truth.joints[batch, WRIST]).float() - hand.joints[:, WRIST]
        vertices[batch] = (hand.vertices + shift[:, None]).numpy()
    return replace(truth, vertices=vertices, hand_model=reader.hand_model)
