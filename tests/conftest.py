"""Shared fixtures: the checkpoint of a tiny mesh model with random weights, a picture on disk, and a Hub."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from PIL import Image
from stub_network import TINY, picture


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


@pytest.fixture()
def hub() -> Iterator[HubServer]:
    """A Hub on 127.0.0.1, empty; see `hub_server` for how processes use it."""
    with HubServer() as server:
        yield server
