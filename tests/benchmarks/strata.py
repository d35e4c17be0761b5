"""How good a model is for which hands: python tests/benchmarks/strata.py --model MODEL [...] [--count 1024].

Rendered right hands that no network was trained on, cut out as they are, side and camera given. Errors of all, and of
parts by skin tone, size of the hand, view, and how much of it can be seen: 2D error over the longer side of the joints'
box, PA-MPJPE, and MPJPE relative to the wrist, mm; of each part the mean and its standard error. Parts differ in other
things as well (hands seen from behind hide more joints), and renderings are not photographs: a difference here is a
reason to look, not its size in the world.

Pictures are of full variety, or of another: `--variety '{base: full, second_hands: 1, together: 1}'` shows two hands,
palm to palm, in each.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
import yaml
from torch import Tensor

from handmim import HandMIM
from handmim.geometry import similarity_align
from handmim.synthesis import SampleRandom, SyntheticBatch, generate
from handmim.synthesis.skin import sample_tone
from handmim.synthesis.variety import Variety, find_variety
from handmim.training.datasets.synthetic import normalise

SEED = 7_000_003  # of no recipe
CHUNK = 64
WRIST, INDEX, MIDDLE, LITTLE, TIP = 0, 5, 9, 17, 12  # knuckles, and the middle finger's tip


def skin_tone(index: Tensor, batch: SyntheticBatch) -> Tensor:
    """(B,) mean of the back of the hand's sRGB, as the generator drew it."""
    return sample_tone(SampleRandom(SEED, index).fork("skin"))[0].mean(1)


def palm_length(index: Tensor, batch: SyntheticBatch) -> Tensor:
    """(B,) mm from the wrist to the middle knuckle."""
    joints = batch.labels["joints"]
    return 1e3 * (joints[:, MIDDLE] - joints[:, WRIST]).norm(dim=-1)


def facing(index: Tensor, batch: SyntheticBatch) -> Tensor:
    """(B,) cosine between the palm's normal and the way to the camera: 1 shows the palm, -1 the back."""
    joints = batch.labels["joints"]
    across = joints[:, INDEX] - joints[:, LITTLE]
    along = joints[:, MIDDLE] - joints[:, WRIST]
    normal = torch.nn.functional.normalize(torch.linalg.cross(across, along), dim=-1)
    return -(normal * torch.nn.functional.normalize(joints[:, MIDDLE], dim=-1)).sum(-1)


def pointing(index: Tensor, batch: SyntheticBatch) -> Tensor:
    """(B,) how far the hand's length lies along the line of sight, 0 to 1."""
    joints = batch.labels["joints"]
    along = torch.nn.functional.normalize(joints[:, MIDDLE] - joints[:, WRIST], dim=-1)
    return (along * torch.nn.functional.normalize(joints[:, MIDDLE], dim=-1)).sum(-1).abs()


def visible(index: Tensor, batch: SyntheticBatch) -> Tensor:
    """(B,) share of the joints that can be seen."""
    return batch.labels["visibility"].float().mean(1)


# Name, what is measured, and the bounds between the parts with the parts' names; None: thirds of the pictures.
STRATA: tuple[tuple[str, Callable[[Tensor, SyntheticBatch], Tensor], list[float] | None, list[str]], ...] = (
    ("skin tone", skin_tone, None, ["darkest third", "middle third", "lightest third"]),
    ("palm length", palm_length, None, ["shortest third", "middle third", "longest third"]),
    ("view", facing, [-0.5, 0.5], ["back", "edge", "palm"]),
    ("line of sight", pointing, [0.5, 0.85], ["across", "slanting", "along the hand"]),
    ("visible joints", visible, [0.5, 0.8], ["below half", "half to 0.8", "above 0.8"]),
)


@torch.inference_mode()
def measure(names: list[str], count: int, variety: Variety) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Errors (count, 3) of each model, and values (count,) of each stratum."""
    models = {name: HandMIM.from_pretrained(name, detector="none", device="cpu").model for name in names}
    errors: dict[str, list[Tensor]] = {name: [] for name in models}
    values: dict[str, list[Tensor]] = {title: [] for title, *_ in STRATA}
    for start in range(0, count, CHUNK):
        index = torch.arange(start, min(start + CHUNK, count))
        for name, model in models.items():
            batch = generate(SEED, index, size=model.config.image_size, negatives=0.0, variety=variety)
            output = model(pixel_values=normalise(batch.images), intrinsics=batch.intrinsics)
            errors[name].append(sample_errors(output, batch))
        for title, value, *_ in STRATA:
            values[title].append(value(index, batch))
    return (
        {name: torch.cat(parts).numpy() for name, parts in errors.items()},
        {title: torch.cat(parts).numpy() for title, parts in values.items()},
    )


def sample_errors(output: object, batch: SyntheticBatch) -> Tensor:
    """(B, 3): 2D over the box's side, PA-MPJPE and MPJPE relative to the wrist in mm."""
    joints, points = batch.labels["joints"], batch.labels["keypoints_2d"]
    side = (points.amax(1) - points.amin(1)).amax(1)
    flat = (output.keypoints_2d - points).norm(dim=-1).mean(1) / side
    aligned = (similarity_align(output.joints, joints)[0] - joints).norm(dim=-1).mean(1)
    relative = (output.joints - output.joints[:, :1]) - (joints - joints[:, :1])
    return torch.stack([flat, 1e3 * aligned, 1e3 * relative.norm(dim=-1).mean(1)], 1)


def table(errors: np.ndarray, values: dict[str, np.ndarray]) -> str:
    """Markdown, a line a part."""
    lines = ["| hands | number | 2D error / box | PA-MPJPE, mm | MPJPE (wrist), mm |", "|---|---|---|---|---|"]
    lines.append(line("all", errors))
    for title, _, bounds, parts in STRATA:
        cuts = np.quantile(values[title], [1 / 3, 2 / 3]) if bounds is None else np.array(bounds)
        part = np.searchsorted(cuts, values[title])
        lines += [line(f"{title}: {name}", errors[part == number]) for number, name in enumerate(parts)]
    return "\n".join(lines)


def line(name: str, errors: np.ndarray) -> str:
    """Means and standard errors of (N, 3)."""
    if not len(errors):
        return f"| {name} | 0 | | | |"
    spread = errors.std(0) / np.sqrt(len(errors))
    cells = [f"{mean:.{d}f} ± {s:.{d}f}" for mean, s, d in zip(errors.mean(0), spread, (3, 1, 1), strict=True)]
    return f"| {name} | {len(errors)} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["handmim-tiny-open"], help="names or folders")
    parser.add_argument("--count", type=int, default=1024, help="of the pictures")
    parser.add_argument("--variety", default="full", help="a name, or a mapping as a recipe has it")
    args = parser.parse_args()
    errors, values = measure(args.model, args.count, find_variety(yaml.safe_load(args.variety)))
    for name in args.model:
        print(f"{name}\n\n{table(errors[name], values)}\n")


if __name__ == "__main__":
    main()
