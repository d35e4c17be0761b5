"""What fitting hands to the maps that were seen beside them gives, and what it costs.

    OMP_NUM_THREADS=1 python tests/benchmarks/fitting.py [--model NAME ...] [--count 512] [--real MANIFEST.json]

Each network looks once at rendered hands that it was not trained on, and with `--real` at the annotated photographs'
development part, boxes and sides given; then `handmim.fitting` fits what it estimated, as the checkpoint says and with
one constant changed at a time. Errors: 2D over the box's longer side, PA-MPJPE and, rendered hands only, MPJPE relative
to the wrist, mm. Last, milliseconds of the fit of one hand and of a hand in a batch of 64, medians of processor time,
beside the network's.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from strata import SEED, sample_errors
from torch import Tensor

from handmim import HandMIM, fitting
from handmim.evaluation.metrics import normalized_errors_2d, pa_errors
from handmim.evaluation.predictions import Predictor
from handmim.evaluation.real_photos import RealPhotos
from handmim.evaluation.scoring import collect
from handmim.geometry import affine_points, invert_affine
from handmim.synthesis import generate
from handmim.training.datasets.synthetic import normalise

# Row: constants of `handmim.fitting`, and fields of the configuration as functions of what they are.
ROWS: dict[str, tuple[dict[str, Any], dict[str, Callable[[Any], Any]]]] = {
    "as it is": ({}, {}),
    "one round, all of the maps": ({"WINDOWS": (None,)}, {}),
    "two rounds": ({"WINDOWS": (None, 0.1)}, {}),
    "maps not squared": ({"_SHARPNESS": 1}, {}),
    "half the steps": ({}, {"fit_steps": lambda n: max(1, n // 2)}),
    "twice the steps": ({}, {"fit_steps": lambda n: 2 * n}),
    "joints held twice as firmly": ({}, {"fit_turn": lambda s: s / 2}),
    "half as firmly": ({}, {"fit_turn": lambda s: 2 * s}),
    "keypoints half as exact": ({"KEYPOINT_SIGMA": 2 * fitting.KEYPOINT_SIGMA}, {}),
    "twice as exact": ({"KEYPOINT_SIGMA": fitting.KEYPOINT_SIGMA / 2}, {}),
    "bones half as exact": ({"BONE_SIGMA": 2 * fitting.BONE_SIGMA}, {}),
    "bones twice as exact": ({"BONE_SIGMA": fitting.BONE_SIGMA / 2}, {}),
    "shape held twice as firmly": ({"SHAPE_SIGMA": fitting.SHAPE_SIGMA / 2}, {}),
}


@dataclass
class Seen:
    """What a network says of hands, and how what is fitted is measured."""

    output: dict[str, Tensor]
    intrinsics: Tensor
    errors: Callable[[dict[str, Tensor]], list[float]]


@torch.inference_mode()
def look(model: Any, pixels: Tensor, intrinsics: Tensor) -> dict[str, Tensor]:
    """The network alone."""
    with patch.object(model.config, "fit_steps", 0):
        parts = [
            model(pixel_values=p, intrinsics=k) for p, k in zip(pixels.split(64), intrinsics.split(64), strict=True)
        ]
    names = [name for name in parts[0] if torch.is_tensor(parts[0][name])]
    return {name: torch.cat([part[name] for part in parts]) for name in names}


def rendered(model: Any, count: int) -> Seen:
    """Hands of `strata`."""
    batch = generate(SEED, range(count), size=model.config.image_size, negatives=0.0)
    output = look(model, normalise(batch.images), batch.intrinsics)

    def errors(found: dict[str, Tensor]) -> list[float]:
        return sample_errors(argparse.Namespace(**found), batch).mean(0).tolist()

    return Seen(output, batch.intrinsics, errors)


def photographed(hand: HandMIM, manifest: str) -> Seen:
    """Annotated photographs; keypoints are brought back to the photographs, where they are labelled."""
    reader = RealPhotos(manifest, "dev")
    truth, predictor = collect(reader, vertices=False), Predictor(hand.model, hand.image_processor, vertices=False)
    crops = [predictor.crops(reader[row]) for row in range(len(reader))]
    inputs = {name: torch.cat([crop[name] for crop in crops]) for name in crops[0]}
    keypoints, joints = torch.from_numpy(truth.keypoints_2d), torch.from_numpy(truth.joints)
    sign = torch.where(inputs["mirrored"].bool(), -1.0, 1.0).double()

    def errors(found: dict[str, Tensor]) -> list[float]:
        points = affine_points(invert_affine(inputs["crop_affine"].double()), found["keypoints_2d"].double())
        flat = normalized_errors_2d(points, keypoints, torch.from_numpy(truth.box_sides))
        placed = found["joints"].double().clone()
        placed[..., 0] *= sign[:, None]
        return [float(flat.nanmean()), 1e3 * float(np.nanmean(pa_errors(placed, joints).nanmean(1)))]

    output = look(hand.model, inputs["pixel_values"].float(), inputs["intrinsics"].float())
    return Seen(output, inputs["intrinsics"].float(), errors)


def fit(
    model: Any, seen: Seen, constants: dict[str, Any], changes: dict[str, Callable[[Any], Any]]
) -> dict[str, Tensor]:
    """Hands with a row's settings."""
    names = ("model_type", "fit_steps", "fit_turn", "heatmap_sigma")
    settings = {name: getattr(model.config, name) for name in names}
    settings |= {name: change(settings[name]) for name, change in changes.items()}
    with patch.dict(vars(fitting), constants):
        config = argparse.Namespace(**settings)
        return fitting.fit_output(config, model.hand_model, seen.output, seen.intrinsics, model.config.image_size)


def milliseconds(call: Callable[[], object], rounds: int = 15) -> float:
    """Median processor time."""
    times = []
    for _ in range(rounds + 2):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1e3 * statistics.median(times[2:])


@torch.inference_mode()
def costs(model: Any, seen: Seen) -> str:
    """The sentence about time."""
    size, found = model.config.image_size, []
    for count in (1, 64):
        part = replace(seen, output={k: v[:count] for k, v in seen.output.items()}, intrinsics=seen.intrinsics[:count])
        pixels = torch.randn(count, model.config.num_channels, size, size)
        with patch.object(model.config, "fit_steps", 0):
            network = milliseconds(lambda p=pixels, k=part.intrinsics: model(pixel_values=p, intrinsics=k)) / count
        found.append((milliseconds(lambda s=part: fit(model, s, {}, {})) / count, network))
    one, many = (f"{fitted:.1f} ms beside {network:.1f}" for fitted, network in found)
    return f"One hand: {one}; one of 64: {many}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["handmim-tiny-open", "hiu-dmtl-tiny-open"])
    parser.add_argument("--count", type=int, default=512, help="rendered hands")
    parser.add_argument("--real", help="manifest of annotated photographs, or its folder")
    args = parser.parse_args()
    for name in args.model:
        hand = HandMIM.from_pretrained(name, detector="none", device="cpu")
        sets = [rendered(hand.model, args.count)] + ([photographed(hand, args.real)] if args.real else [])
        titles = ["2D", "PA-MPJPE", "MPJPE"] + (["photographs: 2D", "PA-MPJPE"] if args.real else [])
        print(f"\n{name}\n\n| fit | {' | '.join(titles)} |\n" + "|---" * (len(titles) + 1) + "|")
        fits = {"none": [seen.output for seen in sets]}
        rows = {row: changes for row, changes in ROWS.items() if "bones" not in row or "pof" in sets[0].output}
        fits |= {row: [fit(hand.model, seen, *changes) for seen in sets] for row, changes in rows.items()}
        for row, found in fits.items():
            numbers = [number for seen, part in zip(sets, found, strict=True) for number in seen.errors(part)]
            print(f"| {row} | " + " | ".join(f"{n:.3f}" if n < 1 else f"{n:.1f}" for n in numbers) + " |")
        print(f"\n{costs(hand.model, sets[0])}")


if __name__ == "__main__":
    main()
