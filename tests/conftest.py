"""Shared fixtures: a tiny mesh model with random weights, its checkpoint, and pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

TINY = dict(
    image_size=64,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=1,
    feature_layers=(1, 2),
    num_feedback=1,
    feature_channels=(16,),
    upsample_kernel_size=2,
    point_channels=(16, 8),
    regressor_hidden_size=32,
    regressor_dropout=0.0,
    hand_model="open",
    score_head=True,
)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a complete checkpoint of a 64 px, two-block mesh model."""
    from handmim import HandMIMConfig, HandMIMForMeshEstimation, HandMIMImageProcessor

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HandMIMForMeshEstimation(HandMIMConfig(**TINY))
    model.save_pretrained(folder)
    HandMIMImageProcessor(size=64).save_pretrained(folder)
    return folder


@pytest.fixture()
def photo(tmp_path: Path) -> Path:
    """A 120 x 90 picture with structure, as a PNG."""
    path = tmp_path / "photo.png"
    Image.fromarray(picture()).save(path)
    return path


def picture(width: int = 120, height: int = 90, seed: int = 0) -> np.ndarray:
    """Smooth random colours, (height, width, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
