"""Shared fixtures: checkpoints of tiny models with random weights, a picture on disk, and a Hub."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from PIL import Image
from stub_network import TINY, TINY_HIU, picture


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


@pytest.fixture(scope="session")
def hiu_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a complete HIU-DMTL checkpoint of 64 px, whose maps are not near zero as fresh ones are."""
    from handmim import HandMIMImageProcessor, HIUDMTLConfig, HIUDMTLForHandUnderstanding
    from handmim.layers_hiu_dmtl import MapHead

    folder = tmp_path_factory.mktemp("checkpoint") / "hiu"
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = HIUDMTLForHandUnderstanding(HIUDMTLConfig(**TINY_HIU))
        for module in model.modules():
            if isinstance(module, MapHead):
                module.weight.mul_(500)
    model.save_pretrained(folder)
    HandMIMImageProcessor(size=64).save_pretrained(folder)
    return folder


@pytest.fixture(params=["handmim", "hiu_dmtl"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    """The tiny checkpoint of each family, in turn."""
    return request.getfixturevalue({"handmim": "tiny_checkpoint", "hiu_dmtl": "hiu_checkpoint"}[request.param])


@pytest.fixture(scope="module")
def small_bank() -> Iterator[None]:
    """A bank of a few backgrounds: drawing all of them would take longer than the tests."""
    from handmim.synthesis import backgrounds

    count, backgrounds.BANK_COUNT = backgrounds.BANK_COUNT, 16
    backgrounds.background_bank.cache_clear()
    yield
    backgrounds.BANK_COUNT = count
    backgrounds.background_bank.cache_clear()


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
