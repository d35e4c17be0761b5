"""A checkpoint's way over the Hub and back, with the real client in fresh processes.

Each process costs seconds of imports, so each does several things and prints what the tests compare.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_server import HubServer, run_with_hub
from PIL import Image
from safetensors.torch import load_file, save_file
from stub_network import picture

NAME, BOX = "org/tiny", [10, 10, 80, 70]
COMMON = f"""
import json, sys
NAME, BOX, PHOTO = {NAME!r}, {BOX}, sys.argv[1]
said = {{}}

def vertices(result):
    hand = result[0]
    return (hand["vertices"] if isinstance(hand, dict) else hand.vertices)[:50].tolist()

def hand(name=NAME, **options):
    from handmim import HandMIM
    return vertices(HandMIM.from_pretrained(name, device="cpu", **options)(PHOTO, boxes=BOX, handedness="right"))
"""

PUBLISH = """
from huggingface_hub import HfApi
from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline
from handmim import HandMIMForMeshEstimation, HandMIMImageProcessor
from handmim.cli import main

first, second = sys.argv[2:4]
assert main(["publish", first, NAME, "--licence", "Apache-2.0"]) == 0
said["first"] = HfApi().model_info(NAME).sha
HfApi().create_tag(NAME, tag="v1")
said["loaded"] = hand()
assert main(["publish", second, NAME, "--licence", "Apache-2.0"]) == 0
said["files"] = HfApi().list_repo_files(NAME)

said["hand"], said["by tag"], said["by hash"] = hand(), hand(revision="v1"), hand(revision=said["first"])
model = AutoModel.from_pretrained(NAME)
assert type(model) is HandMIMForMeshEstimation, type(model)
assert type(AutoImageProcessor.from_pretrained(NAME)) is HandMIMImageProcessor
from handmim import HandMeshPipeline, HandMIM
pinned = [HandMIM.from_pretrained(NAME, revision=revision).model for revision in (None, "v1", said["first"])]
said["commits"] = [model.config._commit_hash for model in pinned]
pinned[1].save_pretrained("saved")
assert "_commit_hash" not in open("saved/config.json").read()
hands = pipeline("hand-mesh-estimation", model=NAME, device="cpu")  # no question of trust
assert type(hands) is HandMeshPipeline, type(hands)
said["pipeline"] = vertices(hands(PHOTO, boxes=BOX, handedness="right"))
report = sys.argv[4]
assert main(["predict", PHOTO, "--model", NAME, "--revision", "v1", "--box", "10,10,80,70", "--hand", "right",
             "--device", "cpu", "--out", report]) == 0
print(json.dumps(said))
"""

TRAIN = """
import pathlib, torch
from handmim import HandMIMForMeshEstimation, HandMIMImageProcessor
from handmim.training.datasets.items import collate_hands
from handmim.training.trainer import HandMIMTrainer, HandMIMTrainingArguments

source = sys.argv[2]
model = HandMIMForMeshEstimation.from_pretrained(source)
generator = torch.Generator().manual_seed(0)
camera = torch.tensor([[90.0, 0, 31.5], [0, 90, 31.5], [0, 0, 1]])
data = [
    {"pixel_values": torch.rand(3, 64, 64, generator=generator), "intrinsics": camera, "sample_id": f"{row}",
     "labels": {"keypoints_2d": 20 + 20 * torch.rand(21, 2, generator=generator)}} for row in range(4)
]
arguments = HandMIMTrainingArguments("run", max_steps=1, per_device_train_batch_size=4, use_cpu=True,
                                     hub_model_id="org/tuned", save_strategy="no",
                                     learning_rate=0.01, ema_decay=0)
processor = HandMIMImageProcessor.from_pretrained(source)
trainer = HandMIMTrainer(
    model=model, args=arguments, train_dataset=data, data_collator=collate_hands, processing_class=processor
)
trainer.train()
trainer.push_to_hub(licence="Apache-2.0", private=True)
said["tuned"] = hand("org/tuned")
from handmim import ModelError
from handmim.training.starting_points import build_model
weights = lambda model: model.backbone.encoder.patch_embed.proj.weight.flatten()[:9].tolist()
said["source"] = weights(HandMIMForMeshEstimation.from_pretrained(source))
said["started"] = [weights(build_model({"checkpoint": NAME, "revision": r}, seed=0)) for r in ("main", "v1")]
for start in ({"checkpoint": "org/none"}, {"pretrained": NAME, "revision": "v9"}):
    try:
        build_model(start, seed=0)
    except ModelError as error:
        said.setdefault("not started", []).append(str(error))
trainer.model.eval().save_pretrained("tuned")
processor.save_pretrained("tuned")
said["folder"] = hand("tuned")
print(json.dumps(said))
"""

CACHED = """
import time
time.sleep = lambda seconds: None  # between the client's retries
from handmim import ModelError
said["hand"], said["by tag"], said["by hash"] = hand(), hand(revision="v1"), hand(revision=sys.argv[2])
for key, name, options in (("other", "org/other", {}), ("revision", NAME, {"revision": "v9"})):
    try:
        hand(name, **options)
    except ModelError as error:
        said[key] = str(error)
print(json.dumps(said))
"""

WITHOUT_PACKAGE = """
from transformers import AutoImageProcessor, AutoModel, pipeline
model = AutoModel.from_pretrained(NAME, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(NAME, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
said["names"] = [type(model).__name__, type(processor).__name__]
hands = pipeline("hand-mesh-estimation", model=NAME, trust_remote_code=True, device="cpu")
said["hand"] = vertices(hands(PHOTO, boxes=BOX, handedness="right"))
old = pipeline("hand-mesh-estimation", model=NAME, revision=sys.argv[2], trust_remote_code=True, device="cpu")
said["by hash"] = vertices(old(PHOTO, boxes=BOX, handedness="right"))
print(json.dumps(said))
"""


@dataclass
class Published:
    """A Hub with two versions of a checkpoint, and what the process said that put them there."""

    hub: HubServer
    cache: Path
    photo: Path
    said: dict[str, Any]

    def run(self, script: str, *args: object, cache: Path | None = None, **options: Any) -> dict[str, Any]:
        """What a fresh process says."""
        done = run_with_hub(self.hub, COMMON + script, self.photo, *args, cache=cache or self.cache, **options)
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def published(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("hub")
    photo = folder / "photo.png"
    Image.fromarray(picture()).save(photo)
    other = folder / "other"
    other.mkdir()
    for file in tiny_checkpoint.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    weights = load_file(other / "model.safetensors")
    noise = torch.Generator().manual_seed(1)
    moved = {name: value + 0.1 * torch.randn(value.shape, generator=noise) for name, value in weights.items()}
    save_file(moved, other / "model.safetensors", {"format": "pt"})
    with HubServer() as hub:
        here = Published(hub, folder / "cache", photo, {})
        here.said = here.run(PUBLISH, tiny_checkpoint, other, folder / "predicted")
        yield here


def test_what_was_published_loads(published: Published, tiny_checkpoint: Path) -> None:
    said = published.said
    assert np.array(said["hand"]).shape == (50, 3)
    np.testing.assert_allclose(said["pipeline"], said["hand"], atol=1e-6)
    assert {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"} <= set(said["files"])
    stored = published.hub.repos[NAME]
    assert said["commits"] == [stored.branches["main"], said["first"], said["first"]]
    assert stored.find("v1").files["model.safetensors"].content == (tiny_checkpoint / "model.safetensors").read_bytes()
    assert published.hub.unknown == []


def test_a_revision_is_pinned(published: Published) -> None:
    said = published.said
    assert said["by tag"] == said["by hash"] == said["loaded"]
    assert np.abs(np.array(said["hand"]) - said["loaded"]).max() > 1e-4
    predicted = json.loads((published.cache.parent / "predicted" / "photo.json").read_text())
    np.testing.assert_allclose(predicted["hands"][0]["vertices"][:50], said["by tag"], rtol=1e-5, atol=1e-7)


def test_without_the_package(published: Published, tmp_path: Path) -> None:
    said = published.run(WITHOUT_PACKAGE, published.said["first"], package=False, cache=tmp_path)
    assert said["names"] == ["HandMIMForMeshEstimation", "HandMIMImageProcessor"]
    np.testing.assert_allclose(said["hand"], published.said["hand"], atol=1e-6)
    np.testing.assert_allclose(said["by hash"], published.said["by hash"], atol=1e-6)
    assert published.hub.unknown == []


def test_a_trainer_pushes(published: Published, tiny_checkpoint: Path) -> None:
    said = published.run(TRAIN, tiny_checkpoint)
    np.testing.assert_allclose(said["tuned"], said["folder"], atol=1e-6)
    assert np.abs(np.array(said["tuned"]) - published.said["loaded"]).max() > 1e-6
    assert said["started"][1] == said["source"] != said["started"][0]
    nobody, nothing = said["not started"]
    assert "'org/none': the Hub has no such repository" in nobody and "no revision 'v9'" in nothing
    assert published.hub.repos["org/tuned"].private
    files = published.hub.repos["org/tuned"].files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl", ".npz"))], sorted(files)
    assert published.hub.unknown == []


@pytest.mark.parametrize("offline", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_from_the_cache(published: Published, offline: bool) -> None:
    """The last tests of this file: there is no network any more."""
    published.hub.stop()
    said = published.run(CACHED, published.said["first"], offline=offline)
    assert {name: said[name] for name in ("hand", "by tag", "by hash")} == {
        name: published.said[name] for name in ("hand", "by tag", "by hash")
    }
    reason = "HF_HUB_OFFLINE=1 forbids" if offline else f"{published.hub.url} cannot be reached"
    assert "'org/other'" in said["other"] and reason in said["other"], said["other"]
    assert "revision 'v9'" in said["revision"] and reason in said["revision"], said["revision"]
