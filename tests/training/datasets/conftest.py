"""Shared by the tests of the readers."""

from pathlib import Path

import pytest
from fabricate_datasets.scenes import write_mano


@pytest.fixture(scope="session")
def mano_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the fabricated MANO_RIGHT.pkl and MANO_LEFT.pkl that the scenes' parameters belong to."""
    return write_mano(tmp_path_factory.mktemp("mano"))
