"""Tables 3 and 5 in small: every pre-training method, one budget, few labels, on rendered hands.

    OMP_NUM_THREADS=1 python tests/benchmarks/pretraining_table.py --out DIR [--seeds 3] [--pretrain-seeds 1] \
        [--steps 2500] [--finetune-steps 1200] [--frozen-steps 600] [--pictures 24576] [--labels 2048] [--variety V] \
        [--real MANIFEST.json] [--pretrain KEY=VALUE ...] [--finetune KEY=VALUE ...]

Each row is pre-trained on the same unlabelled pictures and fine-tuned on the same labelled ones, with the same steps,
batches and schedules; "none" is fine-tuned from random weights. Of fine-tuning a seed changes the new weights and the
order, of pre-training also the views and the masks; where there are fewer of the latter than of the former, several
fine-tunings start from one pre-trained network. All that runs are `handmim` commands, which are printed, and kept in
DIR/commands.txt; what is there already is not computed again, so that a run can be stopped, continued and extended.
`--pretrain` and `--finetune` pass further `--set` options on; what `--pretrain` says of the model also holds for random
weights.

The settings are what one CPU core can do: pictures of 32 px in 64 patches of 4, four blocks of 64 channels, hands that
hold up some fingers. On coarser patches or with a larger network nothing but mean colours was recovered, and nothing
gained, in the same minutes.

Columns: errors after Procrustes alignment in mm, F-scores, and the 2D error over the box's side, on the synthetic test
pictures, mean +- standard deviation over seeds; "real", of the annotated photographs of `--real`, those of its
development part; "frozen", of a shorter fine-tuning (`--frozen-steps`) in which the head alone learns. At the end of
pre-training "spread" is `feature_spread`, "kl" `class_kl` (patches where there is no class loss), "pixels" the
reconstruction's mean error: a look at whether it learned at all; "by picture" and "by place" are the shares of the
variance of its patch tokens on test pictures that the picture tells, and the place: where the picture tells all,
nothing can be found by them. "minutes" is processor time of pre-training and fine-tuning, all threads, without the
frozen probe. "constant" is the mean of the labelled hands, whatever the picture: a row that is no better has learned
nothing in that column.

The last two rows go on where "without-patch" ended, with as many steps again: as it was, or with patch distillation.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from command_runs import CommandRuns, markdown, options
from torch import Tensor

from handmim import HandMIMForMeshEstimation, HandMIMImageProcessor
from handmim.evaluation.predictions import Predictions, Predictor, evaluated_box, predict
from handmim.evaluation.scoring import Truth, collect, score_2d, score_3d, score_vertices
from handmim.features import load_backbone
from handmim.geometry import similarity_align
from handmim.hand_model import HandModel
from handmim.training.datasets.registry import open_dataset
from handmim.training.datasets.sample import HandReader

# Row of the table: what pre-training changes. iBOT's 8192 prototypes are for millions of pictures.
METHODS: dict[str, list[str] | None] = {
    "none": None,
    "peclr": ["pretraining.method=peclr"],
    "ibot": ["pretraining.method=ibot", "pretraining.num_prototypes=512"],
    "mae": ["pretraining.method=mae"],
    "handmim": [],
    "without-pose": ["pretraining.method=handmim_without_pose"],
    "without-patch": ["pretraining.method=handmim_without_patch"],
    "without-reconstruction": ["pretraining.method=handmim_without_reconstruction"],
    "without-patch-twice": ["pretraining.method=handmim_without_patch"],
    "patch-later": [],
}
# Rows that go on where another one's pre-training ended, with as many steps again.
STARTS = {"without-patch-twice": "without-patch", "patch-later": "without-patch"}
SHAPE = [
    "model.image_size=32", "model.patch_size=4", "model.hidden_size=64", "model.num_attention_heads=2",
    "model.num_hidden_layers=4", "model.feature_layers=[2,4]",
]  # fmt: skip
PRETRAINING = [
    "pretraining.projection_hidden_size=128", "pretraining.projection_size=64", "pretraining.decoder_channels=[64,32]",
    "views={area: [0.5, 1.0], rotation: [0, 60], blur_sigma: [0.1, 1.0]}", "training.batch_size=32",
    "training.reference_batch_size=32", "training.learning_rate=2.0e-3", "training.final_weight_decay=0.04",
    "training.use_cpu=true", "training.disable_tqdm=true", "training.save_strategy=steps",
]  # fmt: skip
# Heat maps, as in our checkpoints: they tell the tokens where to look long before the regression does.
FINETUNING = [
    "model.num_feedback=1", "model.feature_channels=[64]", "model.heatmap_evidence=true", "model.heatmap_level=0",
    "model.loss_weights={heatmap: 2.0, heatmap_keypoints: 6.0, hand_pose: 4.0, betas: 0.05}",
    "training.learning_rate=1.0e-3", "training.use_cpu=true", "training.disable_tqdm=true",
]  # fmt: skip
COUNTING = "{base: plain, poses: [0, 0, 0, 1, 0]}"  # each finger straight or curled
WEIGHTS = "model.safetensors"  # of a release
TEST_START = 1_000_000  # first index of the test pictures: none of them is trained on
COLUMNS = {"pa_mpjpe": "PA-MPJPE", "pa_mpvpe": "PA-MPVPE", "f5": "F@5", "f15": "F@15", "mean_2d": "2D error / box"}


class Bench(CommandRuns):
    """The pictures, and the rows of the table."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(Path(args.out))
        self.args = args

    def synthesize(self) -> None:
        """The pictures: unlabelled ones of one series; labelled and test pictures of another."""
        size = ("--size", self.args.picture_size, "--variety", self.args.variety)
        folder = self.out / "unlabelled"
        self.run(folder / "labels.jsonl", "synthesize", self.args.pictures, *size, "--seed", 7, "--out", folder)
        for split, count, start in (("train", self.args.labels, 0), ("test", self.args.tests, TEST_START)):
            words = ("--seed", 8, "--start", start, "--split", split, "--out", self.labelled)
            self.run(self.labelled / f"{split}.jsonl", "synthesize", count, *size, *words)

    @property
    def unlabelled(self) -> Path:
        return self.out / "unlabelled" / "images"

    @property
    def labelled(self) -> Path:
        return self.out / "labelled"

    def row(self, method: str, seed: int) -> dict[str, float]:
        """Pre-train, fine-tune and measure once."""
        before = 1 + (seed - 1) % self.args.pretrain_seeds
        finetuned = self.out / f"{method}-{seed}" / "finetuned"
        pretrained, metrics = self.pretrain(method, before), {}
        if pretrained:
            metrics = last_log(pretrained[-1].parent / f"checkpoint-{self.args.steps}")
            metrics |= variances(pretrained[-1], self.labelled)
            start = [f"model.pretrained={pretrained[-1]}"]
        else:
            shape = [setting for setting in self.args.pretrain if setting.startswith("model.")]
            start = ["model.pretrained=null", "model.size=tiny", *SHAPE, *shape]
        settings = [
            *start,
            *FINETUNING,
            f"training.max_steps={self.args.finetune_steps}",
            f"training.seed={seed}",
            *self.args.finetune,
        ]
        self.run(
            finetuned / "release" / WEIGHTS,
            "finetune", "finetune-tiny-synthetic", "--out", finetuned, "--data", f"folder={self.labelled}",
            *options(settings),
        )  # fmt: skip
        metrics |= measure(finetuned / "release", self.labelled)
        if self.args.frozen_steps:
            metrics |= self.probe(finetuned.with_name("frozen"), settings)
        if self.args.real:
            metrics |= self.evaluate_real(finetuned / "release")
        runs = [str((release / WEIGHTS).relative_to(self.out)) for release in (*pretrained, finetuned / "release")]
        return metrics | {"minutes": sum(self.times.get(run, 0.0) for run in runs) / 60}

    def pretrain(self, method: str, seed: int) -> list[Path]:
        """The released backbone, after those that its row of `STARTS` goes on from; none of random weights."""
        changes = METHODS[method]
        if changes is None:
            return []
        before = self.pretrain(STARTS[method], seed) if method in STARTS else []
        out = self.out / f"{method}-{seed}" / "pretrained"
        settings = [
            *[f"model.timm={release / WEIGHTS}" for release in before], *SHAPE, *PRETRAINING, *changes,
            f"data=[{{name: folder, root: {json.dumps(str(self.unlabelled))}}}]",
            f"training.max_steps={self.args.steps}", f"training.save_steps={self.args.steps}",
            f"training.logging_steps={max(1, self.args.steps // 16)}",
            f"training.seed={seed}", *self.args.pretrain,
        ]  # fmt: skip
        self.run(out / "release" / WEIGHTS, "pretrain", "pretrain-tiny-synthetic", "--out", out, *options(settings))
        return [*before, out / "release"]

    def probe(self, out: Path, settings: list[str]) -> dict[str, float]:
        """The same with a backbone that stays as it is: what its tokens know already."""
        frozen = ["model.trained_parts=[upsample, initial, rectifiers, heatmap]"]
        steps = [f"training.max_steps={self.args.frozen_steps}"]
        self.run(
            out / "release" / WEIGHTS,
            "finetune", "finetune-tiny-synthetic", "--out", out, "--data", f"folder={self.labelled}",
            *options([*settings, *frozen, *steps]),
        )  # fmt: skip
        figures = measure(out / "release", self.labelled)
        return {f"frozen {name}": figures[name] for name in ("pa_mpjpe", "mean_2d")}

    def evaluate_real(self, model: Path) -> dict[str, float]:
        """Metrics of a released model on annotated photographs."""
        report = model.parent / "real" / "report.json"
        self.run(
            report, "evaluate", "real-photos", "--model", model, "--data", self.args.real, "--split", "dev",
            "--out", report.parent, "--device", "cpu",
        )  # fmt: skip
        metrics = json.loads(report.read_text())["metrics"]
        return {f"real {name}": metrics[name]["value"] for name in COLUMNS if name in metrics}


@torch.no_grad()
def measure(model: Path, labelled: Path) -> dict[str, float]:
    """Errors and F-scores of a released model on the test pictures."""
    reader, truth = truth_of(labelled, "test")
    network = HandMIMForMeshEstimation.from_pretrained(model, dtype=torch.float32).eval()
    predictor = Predictor(network, HandMIMImageProcessor.from_pretrained(model))
    return score(truth, predict(reader, predictor, count=len(reader), progress=False))


def constant(labelled: Path) -> dict[str, float]:
    """The same of the mean of the labelled hands, whatever the picture: what is no better has learned nothing."""
    (_, known), (_, truth) = truth_of(labelled, "train"), truth_of(labelled, "test")
    corner, side = truth.boxes[:, None, :2], truth.box_sides[:, None, None]
    keypoints = ((known.keypoints_2d - known.boxes[:, None, :2]) / known.box_sides[:, None, None]).mean(0)
    joints, vertices = (
        np.tile(procrustes_mean(torch.from_numpy(points)).numpy(), (len(truth), 1, 1))
        for points in (known.joints, known.vertices)
    )
    return score(truth, Predictions(corner + keypoints * side, joints, vertices))


def truth_of(labelled: Path, split: str) -> tuple[HandReader, Truth]:
    """The pictures and their labels; the meshes are posed from their labels."""
    reader = open_dataset("folder", labelled, split)
    samples = [reader[index] for index in range(len(reader))]
    labels = {
        name: torch.from_numpy(np.stack([sample.labels[name] for sample in samples])).float()
        for name in ("global_orient", "hand_pose", "betas", "joints")
    }
    hand = HandModel("open")(labels["global_orient"], labels["hand_pose"], labels["betas"])
    vertices = hand.vertices + (labels["joints"][:, :1] - hand.joints[:, :1])
    return reader, replace(collect(reader), vertices=vertices.numpy())


def score(truth: Truth, predicted: Predictions) -> dict[str, float]:
    """The columns of the table."""
    metrics = score_3d(truth, predicted, (0.0, 50.0)).metrics | score_vertices(truth, predicted).metrics
    metrics |= score_2d(truth, predicted).metrics
    return {name: metrics[name] for name in COLUMNS}


def procrustes_mean(points: Tensor, rounds: int = 10) -> Tensor:
    """The mean of shapes (N, P, 3) that are aligned with it: (P, 3)."""
    mean = points[0]
    for _ in range(rounds):
        mean = similarity_align(points, mean.expand_as(points))[0].mean(0)
    return mean


@torch.no_grad()
def variances(release: Path, labelled: Path, count: int = 512) -> dict[str, float]:
    """How much of the variance of the patch tokens is told by the picture, and by the place, alone."""
    backbone, processor = load_backbone(release)
    reader = open_dataset("folder", labelled, "test")
    samples = [reader[index] for index in range(min(count, len(reader)))]
    crops = [
        processor(s.image, boxes=[evaluated_box(s)], handedness=[s.handedness], return_tensors="pt")["pixel_values"]
        for s in samples
    ]
    tokens = backbone(torch.cat(crops)).last_hidden_state[:, 1:]
    total = tokens.var(dim=(0, 1), correction=0).sum()
    picture, place = (tokens.mean(dim).var(0, correction=0).sum() / total for dim in (1, 0))
    return {"by picture": picture.item(), "by place": place.item()}


def last_log(checkpoint: Path) -> dict[str, float]:
    """Signs of life at the end of pre-training."""
    lines = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    line = [line for line in lines if "loss" in line][-1]
    signs = {"spread": "feature_spread", "kl": "class_kl" if "class_kl" in line else "patch_kl"}
    signs |= {"pixels": "loss_reconstruction"}
    return {name: float(line[key]) for name, key in signs.items() if key in line}


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: mean +- standard deviation over the seeds."""
    names = list(dict.fromkeys(name for runs in rows.values() for run in runs for name in run))
    titles = []
    for name in names:
        part, _, column = name.rpartition(" ")
        titles.append(f"{part} {COLUMNS.get(column, column)}".strip())
    lines = {method: [[run[name] for run in runs if name in run] for name in names] for method, runs in rows.items()}
    return markdown("pre-training", titles, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for pictures, runs and results")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pretrain-seeds", type=int, default=1, help="pre-trained networks of each method")
    parser.add_argument("--steps", type=int, default=2500, help="of pre-training, 32 pictures each")
    parser.add_argument("--finetune-steps", type=int, default=1200, help="32 pictures each")
    parser.add_argument(
        "--frozen-steps", type=int, default=600, help="the same with a frozen backbone; 0: leave it out"
    )
    parser.add_argument("--pictures", type=int, default=24576, help="unlabelled")
    parser.add_argument("--labels", type=int, default=2048)
    parser.add_argument("--tests", type=int, default=1024)
    parser.add_argument("--picture-size", type=int, default=48)
    parser.add_argument("--variety", default=COUNTING, help="of all pictures, as `handmim synthesize` takes it")
    parser.add_argument("--real", help="manifest of annotated photographs, see handmim/evaluation/real_photos.py")
    parser.add_argument("--pretrain", nargs="*", default=[], metavar="KEY=VALUE", help="--set of every pre-training")
    parser.add_argument("--finetune", nargs="*", default=[], metavar="KEY=VALUE", help="--set of every fine-tuning")
    args = parser.parse_args()
    bench = Bench(args)
    bench.synthesize()
    rows: dict[str, list[dict[str, float]]] = {"constant": [constant(bench.labelled)]}
    for seed in range(1, args.seeds + 1):  # whole rows early: a table after every seed
        for method in args.methods:
            rows.setdefault(method, []).append(bench.row(method, seed))
        print(table(rows), flush=True)
    (bench.out / "table.md").write_text(table(rows) + "\n")


if __name__ == "__main__":
    main()
