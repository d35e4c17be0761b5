"""Images a second of one core: our training crops beside a plain torchvision pipeline, in one run.

Both decode a JPEG, cut a square around a hand with random scale, shift and rotation, jitter its colours and normalise.
The plain pipeline is what most training code does: RandomAffine on the cut-out square, ColorJitter, resize, ToTensor;
it moves no labels, ours moves seven.

    OMP_NUM_THREADS=1 python tests/benchmarks/training_crops.py
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from handmim.training.augmentation import Augmentation
from handmim.training.datasets.crops import HandCrops
from handmim.training.datasets.sample import HandReader, HandSample

SIZE = 224
# name: width, height, the hand's box
SOURCES = {
    "224 x 224": (224, 224, (45, 40, 180, 190)),
    "640 x 480": (640, 480, (220, 120, 420, 330)),
    "3000 x 2000": (3000, 2000, (900, 500, 2000, 1600)),
}


class Repeated(HandReader):
    """One picture, many times."""

    name, title, homepage, splits, hand_model = "repeated", "", "", ("all",), "open"

    def __init__(self, sample: HandSample, count: int) -> None:
        super().__init__(sample.image.parent)
        self.sample, self.count = sample, count

    @classmethod
    def contents(cls, root: Path) -> list:
        return []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> HandSample:
        return self.sample


def make_sample(folder: Path, name: str) -> HandSample:
    width, height, box = SOURCES[name]
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (height // 8, width // 8, 3), np.uint8))
    path = folder / f"{width}.jpg"
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=92)
    labels = {
        "global_orient": np.eye(3, dtype=np.float32),
        "hand_pose": np.tile(np.eye(3, dtype=np.float32), (15, 1, 1)),
        "betas": np.zeros(10, np.float32),
        "vertices": np.ones((778, 3), np.float32),
        "joints": np.ones((21, 3), np.float32),
        "keypoints_2d": rng.uniform(box[0], box[2], (21, 2)).astype(np.float32),
    }
    camera = np.array([[600.0, 0, width / 2], [0, 600, height / 2], [0, 0, 1]])
    return HandSample(name, path, "left", np.array(box, np.float32), camera, labels)


def plain_pipeline(sample: HandSample) -> torch.Tensor:
    x0, y0, x1, y1 = sample.box
    side = 1.2 * max(x1 - x0, y1 - y0)
    centre = ((x0 + x1) / 2, (y0 + y1) / 2)
    with Image.open(sample.image) as picture:
        corner = (centre[0] - side / 2, centre[1] - side / 2)
        picture = picture.convert("RGB").crop(
            (int(corner[0]), int(corner[1]), int(corner[0] + side), int(corner[1] + side))
        )
    return PLAIN(picture)


PLAIN = transforms.Compose(
    [
        transforms.Resize((SIZE, SIZE)),
        transforms.RandomAffine(90, (0.1, 0.1), (0.8, 1.25), interpolation=transforms.InterpolationMode.BILINEAR),
        transforms.ColorJitter(0.4, 0.4, 0.2, 0.1),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.5] * 3),
    ]
)


def rate(step, seconds: float) -> float:
    """Calls a second of processor time; the best of five rounds, as neighbours on the machine only slow down."""
    step(0)
    best = 0.0
    for _ in range(5):
        count, start = 0, time.process_time()
        while time.process_time() - start < seconds / 5:
            step(count)
            count += 1
        best = max(best, count / (time.process_time() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'source':>12} {'decode alone':>13} {'torchvision':>12} {'handmim':>9} {'ratio':>6}   images/s")
    with tempfile.TemporaryDirectory() as folder:
        for name in SOURCES:
            sample = make_sample(Path(folder), name)
            crops = HandCrops(Repeated(sample, 10**6), SIZE, augmentation=Augmentation())
            decode = rate(lambda _: Image.open(sample.image).load(), options.seconds)  # noqa: B023
            plain = rate(lambda _: plain_pipeline(sample), options.seconds)  # noqa: B023
            ours = rate(lambda index: crops[index], options.seconds)  # noqa: B023
            print(f"{name:>12} {decode:13.0f} {plain:12.0f} {ours:9.0f} {ours / plain:6.2f}")


if __name__ == "__main__":
    main()
