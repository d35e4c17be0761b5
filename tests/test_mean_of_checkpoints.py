"""The mean of two checkpoints lies between them, and is one that loads."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conversion.mean_of_checkpoints import main, mean_of
from handmim import HandMIMConfig, HandMIMForMeshEstimation, HandMIMImageProcessor
from tests.stub_network import TINY


def test_means_are_of_one_network_and_keep_counts() -> None:
    before = {"weight": torch.tensor([0.0, 2.0]), "batches": torch.tensor(3)}
    after = {"weight": torch.tensor([4.0, 2.0], dtype=torch.float16), "batches": torch.tensor(9)}
    mean = mean_of(before, after, 0.25)
    assert mean["weight"].tolist() == [1.0, 2.0] and mean["weight"].dtype == torch.float16 and mean["batches"] == 9
    with pytest.raises(ValueError, match="of one network"):
        mean_of({"weight": torch.zeros(3)}, {"weight": torch.zeros(2)}, 0.5)


def test_the_command_writes_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [HandMIMForMeshEstimation(HandMIMConfig(**TINY)) for _ in range(2)]
    for model, name in zip(models, ("before", "after"), strict=True):
        model.half().save_pretrained(tmp_path / name)
        HandMIMImageProcessor(size=64, box_scale=1.1).save_pretrained(tmp_path / name)
    folders = [str(tmp_path / name) for name in ("before", "after", "mean")]
    monkeypatch.setattr(sys, "argv", ["mean", *folders[:2], "--out", folders[2], "--share", "0.5"])
    main()
    mean = HandMIMForMeshEstimation.from_pretrained(folders[2])
    assert load_file(tmp_path / "mean" / "model.safetensors")["score.weight"].dtype == torch.float16
    first, second, both = (model.score.weight.float() for model in (*models, mean))
    torch.testing.assert_close(both, (first + second) / 2, atol=1e-3, rtol=0)
    assert HandMIMImageProcessor.from_pretrained(folders[2]).box_scale == 1.1
