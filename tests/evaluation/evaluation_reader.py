"""A small data set of synthetic hands, as a reader and as a manifest of photographs."""

import json
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from handmim.synthesis.generator import SyntheticBatch, generate
from handmim.training.datasets.sample import HandReader, HandSample, Part

SIZE = 64


@cache
def scene(count: int) -> SyntheticBatch:
    """Right hands only, every one with labels; no grey border hides a part of one."""
    return generate(11, range(count), size=SIZE, negatives=0.0, variety={"base": "full", "borders": False})


class SyntheticReader(HandReader):
    """Pictures of the generator on disk, labels in memory.

    Args:
        root: Where the pictures are written.
        split: "test"; "empty" has no sample, "unlabelled" no label but the box.
        count: Number of samples.
        hand_model: Whose vertices the labels claim to be.
    """

    name = "synthetic"
    title = "synthetic hands"
    homepage = "none"
    splits = ("train", "test", "empty", "unlabelled")
    hand_model = "open"

    def __init__(self, root: Path, split: str | None = "test", count: int = 6, hand_model: str = "open") -> None:
        super().__init__(root, split)
        self.count = 0 if split == "empty" else count
        self.hand_model = hand_model
        self.notes = [f"drawn below {root}"]
        if self.count:
            for row, pixels in enumerate(scene(count).images.numpy()):
                Image.fromarray(pixels).save(self.root / f"{row}.png")

    @classmethod
    def contents(cls, root: Path) -> list[Part]:
        return []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> HandSample:
        batch = scene(self.count)
        names = ("joints", "keypoints_2d", "vertices")
        labels = {name: batch.labels[name][index].numpy() for name in names}
        bare = self.split == "unlabelled"
        return HandSample(
            id=f"hand {index}",
            image=self.root / f"{index}.png",
            handedness="right",
            box=np.array([4, 4, 60, 60], np.float32) if bare else None,
            intrinsics=batch.intrinsics[index].numpy(),
            labels={} if bare else labels,
            load_mask=None if bare else partial(np.asarray, batch.mask[index].numpy()),
        )


def write_manifest(folder: Path, count: int = 4, **changes: object) -> Path:
    """A "realdata manifest" of synthetic hands with every kind of label; every second one is flipped to a left hand."""
    batch, entries = scene(count), []
    for row in range(count):
        left = row % 2 == 1
        pixels, mask = batch.images[row].numpy(), batch.mask[row].numpy()
        points, joints = batch.labels["keypoints_2d"][row].numpy(), batch.labels["joints"][row].numpy()
        camera = batch.intrinsics[row].numpy().copy()
        if left:
            pixels, mask, joints = pixels[:, ::-1], mask[:, ::-1], joints * [-1, 1, 1]
            points = points * [-1, 1] + [SIZE - 1, 0]
            camera[0, 2] = SIZE - 1 - camera[0, 2]
        Image.fromarray(pixels).save(folder / f"photo{row}.png")
        Image.fromarray(mask).save(folder / f"mask{row}.png")
        entry = {
            "id": f"photo {row}",
            "source": "camera" if row < count / 2 else "film",
            "image": f"photo{row}.png",
            "mask": f"mask{row}.png",
            "bbox": [*(points.min(0) - 4).tolist(), *(points.max(0) + 4).tolist()],
            "bbox_source": "by eye",
            "handedness": "left" if left else "right",
            "keypoints_2d": points.tolist(),
            "keypoints_3d": joints.tolist(),
            "K": camera.tolist(),
        }
        entries.append(entry | (changes if row == 0 else {}))
    path = folder / "manifest.json"
    path.write_text(json.dumps({"format": "realdata manifest v1", "samples": entries}))
    return path
