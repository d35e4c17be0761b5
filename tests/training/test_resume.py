"""A run that is killed goes on bit for bit: with workers, a mixture, augmentation, dropout and averaged weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fabricate_datasets.folder import write_folder

from handmim.training.ema import EMA_FILE

# Run as a program: trains by a recipe, and dies without a word after the step given.
SCRIPT = """
import os, sys
from transformers import TrainerCallback
from handmim.training import finetuning

recipe, out, deadly = sys.argv[1], sys.argv[2], int(sys.argv[3])

class Death(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == deadly:
            os._exit(9)

class Mortal(finetuning.HandMIMTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(Death())

finetuning.HandMIMTrainer = Mortal
finetuning.finetune(finetuning.prepare_recipe(recipe), out)
"""

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


@pytest.fixture()
def run(tmp_path: Path):
    write_folder(tmp_path / "data")
    recipe = yaml.safe_load(yaml.safe_dump(RECIPE))
    recipe["data"][0]["root"] = str(tmp_path / "data")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "script.py").write_text(SCRIPT)

    def start(out: str, deadly: int = -1, processes: int = 1) -> int:
        command = [sys.executable]
        if processes > 1:
            command += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--master-port=0"]
            command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
        command += [str(tmp_path / "script.py"), str(tmp_path / "recipe.yaml"), str(tmp_path / out), str(deadly)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        if deadly < 0:
            assert done.returncode == 0, done.stderr[-3000:]
        return done.returncode

    return start


def same_bits(tmp_path: Path) -> bool:
    files = ["checkpoint-7/model.safetensors", f"checkpoint-7/{EMA_FILE}", "release/model.safetensors"]
    return all((tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes() for name in files)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_run_goes_on_bit_for_bit(run, tmp_path, processes):
    run("whole", processes=processes)
    # in the second epoch, a step after a checkpoint: that step is done again
    assert run("parts", deadly=5, processes=processes) != 0
    assert sorted(path.name for path in (tmp_path / "parts").glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    run("parts", processes=processes)
    assert same_bits(tmp_path)
