"""What looking at a hand several times gives: sets of views, on annotated photographs.

    OMP_NUM_THREADS=1 python tests/benchmarks/tta.py --real MANIFEST.json [--model NAME ...]

Boxes and sides are given. Each set holds the plain view. "fit" is `handmim.tta`: parameters are averaged and fitted to
the mean of all maps; "points" is what is often done, the mean of the points of hands that were fitted one by one.
Errors: 2D over the box's longer side, PA-MPJPE in mm. "time" is processor time for one hand, over that of one view.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from handmim import HandMIM
from handmim.evaluation.predictions import Predictor, predict
from handmim.evaluation.real_photos import RealPhotos
from handmim.evaluation.scoring import collect, score_2d, score_3d
from handmim.geometry import affine_points, invert_affine
from handmim.tta import View, estimate_from_views, view_of

PLAIN = View()
ROWS: dict[str, tuple[View, ...]] = {
    "plain": (PLAIN,),
    "15 degrees": (PLAIN, View(-15), View(15)),
    "20 degrees": (PLAIN, View(-20), View(20)),
    "30 degrees": (PLAIN, View(-30), View(30)),
    "45 degrees": (PLAIN, View(-45), View(45)),
    "15 and 30 degrees": (PLAIN, View(-15), View(15), View(-30), View(30)),
    "zoom .9 and 1.1": (PLAIN, View(0, 0.9), View(0, 1.1)),
    "30 degrees, zoom .9 and 1.1": (PLAIN, View(-30), View(30), View(0, 0.9), View(0, 1.1)),
}


class MeanOfPoints:
    """A network whose answer for wide crops is the mean of what it says of each view, for comparison."""

    def __init__(self, model: Any, views: Sequence[View]) -> None:
        self.model, self.views = model, views

    def __call__(self, pixels: torch.Tensor, intrinsics: torch.Tensor) -> dict[str, torch.Tensor]:
        found = []
        for view in self.views:
            seen = view_of(pixels, intrinsics, view, self.model.config.image_size)
            output = self.model(pixel_values=seen.pixel_values, intrinsics=seen.intrinsics)
            points = affine_points(invert_affine(seen.affine), output["keypoints_2d"])
            found.append({"joints": output["joints"] @ seen.rotation, "keypoints_2d": points})
        return {name: torch.stack([one[name] for one in found]).mean(0) for name in found[0]}


class PointsPredictor(Predictor):
    """`Predictor` with `MeanOfPoints`."""

    def _run(self, inputs: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        points = MeanOfPoints(self.model, self.views)(inputs["pixel_values"], inputs["intrinsics"])
        hand = estimate_from_views(self.model, inputs["pixel_values"], inputs["intrinsics"], self.views[:1])
        return [hand | points]


def errors(reader: RealPhotos, predictor: Predictor) -> str:
    truth = collect(reader, vertices=False)
    predicted = predict(reader, predictor, count=len(reader), progress=False)
    metrics = score_2d(truth, predicted).metrics | score_3d(truth, predicted, (0.0, 50.0)).metrics
    return f"{metrics['mean_2d']:.3f} | {metrics['pa_mpjpe']:.2f}"


def seconds(model: Any, crops: dict[str, torch.Tensor], views: Sequence[View]) -> float:
    times = []
    for _ in range(7):
        start = time.process_time()
        with torch.inference_mode():
            estimate_from_views(model, crops["pixel_values"][:1], crops["intrinsics"][:1], views)
        times.append(time.process_time() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", required=True, metavar="MANIFEST", help="annotated photographs")
    parser.add_argument("--model", nargs="+", default=["handmim-tiny-open", "hiu-dmtl-tiny-open"])
    args = parser.parse_args()
    reader = RealPhotos(args.real, "dev")
    for name in args.model:
        hand = HandMIM.from_pretrained(name, detector="none")
        print(f"\n| {name} | fit, 2D | PA-MPJPE | points, 2D | PA-MPJPE | time |\n|---|---|---|---|---|---|")
        once = None
        for row, views in ROWS.items():
            fit, points = (
                kind(hand.model, hand.image_processor, views, vertices=False) for kind in (Predictor, PointsPredictor)
            )
            took = seconds(hand.model, fit.crops(reader[0]), views)
            once = once or took
            print(f"| {row} | {errors(reader, fit)} | {errors(reader, points)} | {took / once:.1f} |", flush=True)


if __name__ == "__main__":
    main()
