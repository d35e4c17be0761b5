"""Pre-training in miniature: pictures of every mode, and a recipe that takes seconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Two blocks and small views; patches of 4 px, of which the pixel decoder makes two stages.
TINY: dict[str, Any] = {
    "hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2, "feature_layers": [1, 2], "image_size": 32,
    "patch_size": 4,
}  # fmt: skip
TINY_METHOD: dict[str, Any] = {"projection_hidden_size": 48, "projection_size": 16, "decoder_channels": [16, 8]}
SHORT: dict[str, Any] = {
    "batch_size": 4, "max_steps": 2, "use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1,
    "dataloader_num_workers": 0, "dataloader_persistent_workers": False, "dataloader_pin_memory": False,
}  # fmt: skip


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 216, shape, dtype=np.uint8)


def write_pictures(root: Path) -> Path:
    """A tree of ten pictures: RGB, grey, CMYK, 16 bit, with a palette, with transparency."""
    (root / "a" / "b").mkdir(parents=True)
    for number in range(5):
        Image.fromarray(noise(number, 48, 40 + 4 * number, 3)).save(root / "a" / f"{number}.png")
    rgb = Image.fromarray(noise(9, 40, 40, 3))
    Image.fromarray(noise(5, 40, 40)).save(root / "grey.png")
    rgb.convert("CMYK").save(root / "a" / "cmyk.jpg")
    deep = np.linspace(20000, 50000, 48 * 48).reshape(48, 48).astype(np.uint16)
    Image.fromarray(deep).save(root / "a" / "deep.png")
    rgb.convert("P").save(root / "a" / "b" / "palette.png")
    rgb.convert("RGBA").save(root / "a" / "b" / "alpha.webp")
    return root


def tiny_recipe(root: Path | None, method: str = "handmim", **training: Any) -> dict[str, Any]:
    options = TINY_METHOD | ({"num_prototypes": 24} if method == "ibot" else {})
    data = (
        [{"name": "synthetic", "length": 12, "size": 40}] if root is None else [{"name": "folder", "root": str(root)}]
    )
    return {
        "model": TINY | {"drop_path_rate": 0.2},
        "pretraining": {"method": method, **options},
        "data": data,
        "training": SHORT | training,
    }


def log_lines(folder: Path, step: int) -> list[dict[str, float]]:
    state = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())
    return [line for line in state["log_history"] if "loss" in line]
