"""A run that is killed goes on bit for bit: with workers, a mixture, augmentation, dropout and averaged weights."""

from pathlib import Path

import pytest
import yaml
from fabricate_datasets.folder import write_folder
from killed_runs import Runs

from handmim.training.ema import EMA_FILE

RECIPE = {
    "name": "resume",
    "model": {
        "size": "small", "hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2, "feature_layers": [1],
        "image_size": 32, "num_feedback": 1, "feature_channels": [16], "point_channels": [16, 8],
        "regressor_hidden_size": 32, "drop_path_rate": 0.2, "loss_weights": {"mask": 0.1},
    },
    "data": [
        {"name": "folder", "root": "ROOT", "weight": 2, "labels": ["keypoints_2d", "joints", "mask"]},
        {"name": "synthetic", "samples": 6, "new_each_epoch": True, "weight": 1},
    ],
    "epoch_samples": 12,
    "training": {
        "batch_size": 4, "max_steps": 7, "learning_rate": 1.0e-3, "save_steps": 2, "save_total_limit": 5, "seed": 5,
        "use_cpu": True, "report_to": "none", "disable_tqdm": True, "dataloader_num_workers": 1,
        "dataloader_persistent_workers": True, "dataloader_pin_memory": False, "ema_decay": 0.9, "layer_decay": 0.7,
        "ddp_backend": "gloo",
    },
}  # fmt: skip


FILES = ["checkpoint-7/model.safetensors", f"checkpoint-7/{EMA_FILE}", "release/model.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_run_goes_on_bit_for_bit(tmp_path: Path, processes: int):
    write_folder(tmp_path / "data")
    recipe = yaml.safe_load(yaml.safe_dump(RECIPE))
    recipe["data"][0]["root"] = str(tmp_path / "data")
    runs = Runs(tmp_path, "finetuning", "HandMIMTrainer", "finetune", recipe)
    runs.start("whole", processes=processes)
    # in the second epoch, a step after a checkpoint: that step is done again
    assert runs.start("parts", deadly=5, processes=processes) != 0
    assert sorted(path.name for path in (tmp_path / "parts").glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    runs.start("parts", processes=processes)
    assert runs.same_bits("whole", "parts", FILES)
