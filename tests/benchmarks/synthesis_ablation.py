"""Which parts of the synthetic pictures help on photographs: one change at a time, one small budget.

    OMP_NUM_THREADS=1 python tests/benchmarks/synthesis_ablation.py --out DIR --backgrounds FOLDER \
        --real MANIFEST.json [--guessed FOLDER ...] [--seeds 1 2] [--rows NAME ...] [--steps 300] [--start-steps 2400]

A small network (heat maps and a mask, 64 px) first learns from plain pictures, the same for all rows: it then knows
hands, but nothing of what the rows differ in. Each row goes on from it with the recipe `synthesis-ablation` and one
change of `handmim.synthesis.variety.Variety`, and is measured on the annotated photographs' development part, boxes
given. With `--guessed`, also on folders of photographs whose keypoints another network has guessed
(`conversion/label_photos.py`): many more hands, and labels that are right on average. None of either is trained on. A
seed changes the pictures and their order. `--backgrounds` holds photographs without hands.

A mesh is not measured: none is learned in so short a time, and what helps to see where the parts are helps it too.

All that runs are `handmim` commands, which are printed, and kept in DIR/commands.txt; what is there already is not
computed again. Columns: 2D error (share of the box), PCK and mask IoU, mean +- standard deviation over seeds;
"minutes" is processor time of the row's training.
"""

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

from command_runs import CommandRuns, markdown, options

from handmim.synthesis.variety import FAULTS

RECIPE, START = "synthesis-ablation", "hiu-dmtl-ablation-synthetic"
BATCH = 48
START_SETTINGS = [
    "model.tasks=[heatmaps, mask]", "model.mesh=false", "model.num_stacks=1", "model.encoder_depth=2",
    "model.loss_weights={heatmaps: 20.0, heatmap_keypoints: 4.0, silhouette: 0.0}",
    "data=[{name: synthetic, samples: 10000000, seed: 11, variety: plain}]", f"training.batch_size={BATCH}",
    "training.bf16=false", "training.save_steps=600", "training.disable_tqdm=true",
]  # fmt: skip
# Row of the table: its change of `Variety`.
ROWS: dict[str, dict[str, Any]] = {
    "full": {},
    "plain": {"base": "plain"},
    "poses: named alone": {"poses": [1, 0, 0, 0, 0]},
    "poses: named and between": {"poses": [0.6, 0.4, 0, 0, 0]},
    "poses: any angles alone": {"poses": [0, 0, 0, 0, 1]},
    "poses: fingers may collide": {"collisions": True},
    "views: uniform alone": {"views": [1, 0, 0, 0, 0]},
    "views: upright alone": {"views": [0, 1, 0, 0, 0]},
    "views: no wearer's": {"views": [0.25, 0.4, 0.15, 0, 0.08]},
    "no second hands": {"second_hands": 0},
    "people, three in ten": {"persons": 0.3},
    "no objects": {"things": 0},
    "no relief of the skin": {"relief": 0},
    "no sleeves": {"sleeves": 0},
    "jewellery": {"jewellery": 0.3},
    "no shadows on the background": {"shadows": 0},
    "backgrounds: drawn alone": {"photos": 0},
    "backgrounds: photos alone": {"photos": 1},
    "boxes: no small hands": {"loose": 0},
    "boxes: centred": {"jitter": 0.03},
    "boxes: within the picture": {"borders": False},
    "no faults": {"faults": []},
    "more upright, more named": {"views": [0.12, 0.56, 0.12, 0.13, 0.07], "poses": [0.38, 0.24, 0.14, 0.12, 0.12]},
    **{f"no {fault}": {"faults": [other for other in FAULTS if other != fault]} for fault in FAULTS},
}
FIGURES = {
    "map_mean_2d": "2D error",
    "map_pck_2d_10": "PCK@.1",
    "map_pck_2d_20": "PCK@.2",
    "map_mask_iou": "mask IoU",
}


class Bench(CommandRuns):
    """The network that all rows start from, and the rows."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(Path(args.out))
        self.args, self.start = args, self.out / "start" / "release"

    def train_start(self) -> None:
        """On plain pictures."""
        settings = [*START_SETTINGS, f"training.max_steps={self.args.start_steps}"]
        done = self.start / "model.safetensors"
        self.run(done, "finetune", START, "--out", self.start.parent, *options(settings))

    def row(self, name: str, seed: int) -> dict[str, float]:
        """Train and measure once."""
        release = self.out / f"{re.sub('[^a-z]+', '-', name)}-{seed}" / "release"
        weights = release / "model.safetensors"
        variety = json.dumps({"base": "full"} | ROWS[name])
        settings = [f"data.0.variety={variety}", f"data.0.seed={20 + seed}"]
        settings += [f"training.seed={seed}", f"training.max_steps={self.args.steps}"]
        self.run(weights, "finetune", RECIPE, "--out", release.parent, *options(settings))
        minutes = self.times[str(weights.relative_to(self.out))] / 60
        return self.measure(release) | {"minutes": minutes}

    def measure(self, release: Path) -> dict[str, float]:
        """Figures of a released network on the annotated photographs, and with the prefix "guessed" on the others."""
        figures = self.evaluate(release, "real-photos", self.args.real, "dev", release.parent / "real")
        for folder in self.args.guessed:
            found = self.evaluate(release, "folder", folder, "train", release.parent / Path(folder).name)
            figures |= {f"{Path(folder).name}: {title}": value for title, value in found.items()}
        return figures

    def evaluate(self, model: Path, benchmark: str, data: str, split: str, out: Path) -> dict[str, float]:
        """Figures by title."""
        words = ("--model", model, "--data", data, "--split", split, "--out", out, "--device", "cpu")
        self.run(out / "report.json", "evaluate", benchmark, *words)
        metrics = json.loads((out / "report.json").read_text())["metrics"]
        return {title: metrics[name]["value"] for name, title in FIGURES.items() if name in metrics}


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: mean +- standard deviation over the seeds."""
    titles = list(dict.fromkeys(title for runs in rows.values() for run in runs for title in run))
    lines = {name: [[run[title] for run in runs if title in run] for title in titles] for name, runs in rows.items()}
    return markdown("pictures", titles, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for runs and results")
    parser.add_argument("--backgrounds", required=True, help="folder of photographs without hands")
    parser.add_argument("--real", required=True, help="manifest of annotated photographs, or its folder")
    parser.add_argument("--guessed", nargs="*", default=[], help="folders of photographs with guessed keypoints")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=300, help=f"of a row, {BATCH} pictures each")
    parser.add_argument("--start-steps", type=int, default=2400, help="on plain pictures")
    args = parser.parse_args()
    bench = Bench(args)
    os.environ |= {"START": str(bench.start), "BACKGROUND_PHOTOS": args.backgrounds}
    bench.train_start()
    rows: dict[str, list[dict[str, float]]] = {"before": [bench.measure(bench.start)]}
    for seed in args.seeds:  # whole rows early: a table after every seed
        for name in args.rows:
            rows.setdefault(name, []).append(bench.row(name, seed))
            (bench.out / "table.md").write_text(table(rows) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
