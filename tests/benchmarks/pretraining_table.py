"""Tables 3 and 5 in small: every pre-training method, one budget, few labels, on rendered hands.

    OMP_NUM_THREADS=1 python tests/benchmarks/pretraining_table.py --out DIR [--seeds 3] [--steps 256] \
        [--finetune-steps 300] [--pictures 4096] [--labels 320] [--variety plain] [--real MANIFEST.json] \
        [--pretrain KEY=VALUE ...] [--finetune KEY=VALUE ...]

Each row is pre-trained on the same unlabelled pictures and fine-tuned on the same labelled ones, with the same steps,
batches and schedules; "none" is fine-tuned from random weights. A seed changes the weights at the start, the order, the
views and the masks of both. All that runs are `handmim` commands, which are printed, and kept in DIR/commands.txt; what
is there already is not computed again, so that a run can be stopped, continued and extended. `--pretrain` and
`--finetune` pass further `--set` options on; what `--pretrain` says of the model also holds for random weights.

Columns: errors after Procrustes alignment in mm and F-scores on the synthetic test pictures, mean +- standard deviation
over seeds; the same for the annotated photographs of `--real`, those of its development part. "spread" is
`feature_spread` and "kl" `class_kl` (patches where there is no class loss) at the end of pre-training: a look at
whether it learned at all. "minutes" is processor time of both parts, all threads.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from command_runs import CommandRuns, markdown, options

from handmim import HandMIMForMeshEstimation, HandMIMImageProcessor
from handmim.evaluation.predictions import Predictor, predict
from handmim.evaluation.scoring import collect, score_3d, score_vertices
from handmim.hand_model import HandModel
from handmim.training.datasets.registry import open_dataset

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
}
SCRATCH = ["model.pretrained=null", "model.size=tiny", "model.image_size=64"]
TEST_START = 1_000_000  # first index of the test pictures: none of them is trained on
COLUMNS = {"pa_mpjpe": "PA-MPJPE", "pa_mpvpe": "PA-MPVPE", "f5": "F@5", "f15": "F@15"}
REAL_COLUMNS = {"mean_2d": "2D error / box"}


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
        folder = self.out / f"{method}-{seed}"
        pretrained, finetuned = folder / "pretrained", folder / "finetuned"
        changes, metrics = METHODS[method], {}
        if changes is not None:
            settings = [
                *changes, f"data=[{{name: folder, root: {json.dumps(str(self.unlabelled))}}}]",
                f"training.max_steps={self.args.steps}", f"training.save_steps={self.args.steps}",
                f"training.logging_steps={max(1, self.args.steps // 16)}", "training.save_strategy=steps",
                f"training.seed={seed}", *self.args.pretrain,
            ]  # fmt: skip
            self.run(
                pretrained / "release" / "model.safetensors",
                "pretrain", "pretrain-tiny-synthetic", "--out", pretrained, *options(settings),
            )  # fmt: skip
            metrics = last_log(pretrained / f"checkpoint-{self.args.steps}")
        shape = [setting for setting in self.args.pretrain if setting.startswith("model.")]
        start = SCRATCH + shape if changes is None else [f"model.pretrained={pretrained / 'release'}"]
        settings = [
            *start,
            f"training.max_steps={self.args.finetune_steps}",
            f"training.seed={seed}",
            *self.args.finetune,
        ]
        self.run(
            finetuned / "release" / "model.safetensors",
            "finetune", "finetune-tiny-synthetic", "--out", finetuned, "--data", f"folder={self.labelled}",
            *options(settings),
        )  # fmt: skip
        metrics |= measure(finetuned / "release", self.labelled)
        if self.args.real:
            metrics |= self.evaluate_real(finetuned / "release")
        parts = [
            value for name, value in self.times.items() if name.startswith(f"{method}-{seed}/") and "release" in name
        ]
        return metrics | {"minutes": sum(parts) / 60}

    def evaluate_real(self, model: Path) -> dict[str, float]:
        """Metrics of a released model on annotated photographs."""
        report = model.parent / "real" / "report.json"
        self.run(
            report, "evaluate", "real-photos", "--model", model, "--data", self.args.real, "--split", "dev",
            "--out", report.parent, "--device", "cpu",
        )  # fmt: skip
        metrics = json.loads(report.read_text())["metrics"]
        return {f"real {name}": metrics[name]["value"] for name in (*COLUMNS, *REAL_COLUMNS) if name in metrics}


@torch.no_grad()
def measure(model: Path, labelled: Path) -> dict[str, float]:
    """Errors and F-scores on the test pictures; the true meshes are posed from their labels."""
    reader = open_dataset("folder", labelled, "test")
    samples = [reader[index] for index in range(len(reader))]
    labels = {
        name: torch.from_numpy(np.stack([sample.labels[name] for sample in samples])).float()
        for name in ("global_orient", "hand_pose", "betas", "joints")
    }
    hand = HandModel("open")(labels["global_orient"], labels["hand_pose"], labels["betas"])
    vertices = hand.vertices + (labels["joints"][:, :1] - hand.joints[:, :1])
    truth = replace(collect(reader), vertices=vertices.numpy())
    network = HandMIMForMeshEstimation.from_pretrained(model, dtype=torch.float32).eval()
    predictor = Predictor(network, HandMIMImageProcessor.from_pretrained(model))
    predicted = predict(reader, predictor, count=len(reader), progress=False)
    metrics = score_3d(truth, predicted, (0.0, 50.0)).metrics | score_vertices(truth, predicted).metrics
    return {name: metrics[name] for name in COLUMNS}


def last_log(checkpoint: Path) -> dict[str, float]:
    """Signs of life at the end of pre-training."""
    lines = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    line = [line for line in lines if "loss" in line][-1]
    signs = {"spread": line["feature_spread"]}
    kl = line.get("class_kl", line.get("patch_kl"))
    return signs if kl is None else signs | {"kl": kl}


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: mean +- standard deviation over the seeds."""
    names = list(dict.fromkeys(name for runs in rows.values() for run in runs for name in run))
    known = COLUMNS | REAL_COLUMNS
    titles = [
        ("real " if name.startswith("real ") else "") + known.get(name.removeprefix("real "), name) for name in names
    ]
    lines = {method: [[run[name] for run in runs if name in run] for name in names] for method, runs in rows.items()}
    return markdown("pre-training", titles, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for pictures, runs and results")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=256, help="of pre-training, 64 pictures each")
    parser.add_argument("--finetune-steps", type=int, default=300, help="32 pictures each")
    parser.add_argument("--pictures", type=int, default=4096, help="unlabelled")
    parser.add_argument("--labels", type=int, default=320)
    parser.add_argument("--tests", type=int, default=640)
    parser.add_argument("--picture-size", type=int, default=80)
    parser.add_argument("--variety", choices=("plain", "full"), default="full", help="of all pictures")
    parser.add_argument("--real", help="manifest of annotated photographs, see handmim/evaluation/real_photos.py")
    parser.add_argument("--pretrain", nargs="*", default=[], metavar="KEY=VALUE", help="--set of every pre-training")
    parser.add_argument("--finetune", nargs="*", default=[], metavar="KEY=VALUE", help="--set of every fine-tuning")
    args = parser.parse_args()
    bench = Bench(args)
    bench.synthesize()
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(1, args.seeds + 1):  # whole rows early: a table after every seed
        for method in args.methods:
            rows.setdefault(method, []).append(bench.row(method, seed))
        print(table(rows), flush=True)
    (bench.out / "table.md").write_text(table(rows) + "\n")


if __name__ == "__main__":
    main()
