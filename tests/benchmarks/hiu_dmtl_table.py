"""Tables 2 to 5 and figure 10 of HIU-DMTL in small, on rendered hands, with one budget.

    OMP_NUM_THREADS=1 python tests/benchmarks/hiu_dmtl_table.py --out DIR [--seeds 3] [--steps 600] \
        [--rows NAME ...] [--pictures 2048] [--tests 512] [--real MANIFEST.json] [--set KEY=VALUE ...]

Every row is the recipe `hiu-dmtl-ablation-synthetic` with one change, trained with the same steps, batches and
schedule and measured by `handmim evaluate` on the same test pictures; a seed changes the weights at the start, the
order and the augmentation. In figure 10's rows a share of the pictures has labels; "supervised" learns from these
alone, "self" by self-supervision from the others as well, which are half of each batch. A step has as many pictures in
both: "self" sees each label half as often. All labels, and all tasks, are the row "2 stacks". All that runs are
`handmim` commands, which are printed, and kept in DIR/commands.txt; what is there already is not computed again, so
that a run can be stopped, continued and extended; a training that was stopped goes on from its last checkpoint. `--set`
passes settings to every training.

Columns: those of the paper's tables, areas under PCK curves, mean +- standard deviation over seeds: 2D pose of the heat
maps and of the projected joints ("mesh"), mask of the network and of the rendered mesh, 3D joints and vertices after
Procrustes alignment; PA-MPJPE in mm. With `--real` also the annotated photographs' development part, prefix "real".
"minutes" is processor time of the training, all threads. Table 3, the stacks of one network, is printed for the rows of
several stacks.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from command_runs import CommandRuns, markdown, options

RECIPE = "hiu-dmtl-ablation-synthetic"
TEST_START = 1_000_000  # first index of the test pictures: none of them is trained on
LABELS = "[keypoints_2d, joints, mask]"
SHARES = (0.05, 0.2, 0.5)
SELF = "model.loss_weights={self_mask: 0.5, self_keypoints: 1.0}"
COLUMNS = {
    "map_auc_2d": "2D pose",
    "auc_2d": "2D pose, mesh",
    "map_mask_iou": "mask",
    "mask_iou": "mask, mesh",
    "pa_auc_joints": "3D pose",
    "pa_auc_vertices": "mesh",
    "pa_mpjpe": "PA-MPJPE",
}
REAL_COLUMNS = ("map_auc_2d", "auc_2d", "map_mask_iou", "mask_iou", "pa_mpjpe")


def tasks(names: str, mesh: bool) -> list[str]:
    """Settings of a subset of tasks, table 4; without its task nothing learns from a mask."""
    silhouette = ["model.loss_weights={silhouette: 0}"] if mesh and "mask" not in names else []
    labels = [word for word, used in (("keypoints_2d", mesh or "heatmaps" in names), ("joints", mesh)) if used]
    labels += ["mask"] if "mask" in names else []
    return [
        f"model.tasks=[{names}]",
        f"model.mesh={str(mesh).lower()}",
        f"data.0.labels=[{', '.join(labels)}]",
        *silhouette,
    ]


def rows() -> dict[str, list[str]]:
    """Row of the table -> the settings that make it."""
    found = {f"{n} stack{'s'[: n > 1]}": [f"model.num_stacks={n}"] for n in (1, 2, 4)}
    for n in (1, 4):
        found[f"{n} stack{'s'[: n > 1]}, concatenation"] = [f"model.num_stacks={n}", "model.task_attention=false"]
    found |= {
        "pose": tasks("heatmaps", False),
        "mask": tasks("mask", False),
        "mesh": tasks("pof", True),
        "pose + mask": tasks("heatmaps, mask", False),
        "mask + mesh": tasks("mask, pof", True),
        "pose + mesh": tasks("heatmaps, pof", True),
    }
    for share in SHARES:
        labelled, rest = entry(f"[0, {share}]", LABELS), entry(f"[{share}, 1]", "false")
        found[f"{share:g} of the labels, supervised"] = [f"data=[{labelled}]"]
        found[f"{share:g} of the labels, self"] = [f"data=[{labelled}, {rest}]", SELF]
    return found


def entry(part: str, labels: str) -> str:
    """One share of the pictures as an entry of `data`; of two each is half of a batch."""
    return f"{{name: folder, split: train, part: {part}, labels: {labels}, weight: 1}}"


class Bench(CommandRuns):
    """The pictures, and the rows of the table."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(Path(args.out))
        self.args, self.data = args, self.out / "pictures"

    def synthesize(self) -> None:
        """Labelled pictures to train on, and others to test."""
        for split, count, start in (("train", self.args.pictures, 0), ("test", self.args.tests, TEST_START)):
            words = ("--size", self.args.picture_size, "--seed", 11, "--start", start, "--split", split)
            self.run(self.data / f"{split}.jsonl", "synthesize", count, *words, "--out", self.data)

    def row(self, name: str, seed: int) -> dict[str, Any]:
        """Train and measure once -> figures, and those of each stack."""
        folder = self.out / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
        release = folder / "release"
        steps = self.args.steps
        settings = [*rows()[name], f"training.max_steps={steps}", f"training.seed={seed}", "training.disable_tqdm=true"]
        settings += [f"training.save_steps={max(1, steps // 3)}", *self.args.settings]
        weights = release / "model.safetensors"
        words = ("--out", folder, "--data", f"folder={self.data}", *options(settings))
        self.run(weights, "finetune", RECIPE, *words)
        figures, stacks = self.evaluate(release, "folder", self.data, "test", COLUMNS)
        if self.args.real and not {"heatmaps", "mesh"}.isdisjoint(self.estimates(release)):
            photos, _ = self.evaluate(release, "real-photos", self.args.real, "dev", REAL_COLUMNS)
            figures |= {f"real {key}": value for key, value in photos.items()}
        minutes = self.times.get(str(weights.relative_to(self.out)))
        return {"figures": figures | ({} if minutes is None else {"minutes": minutes / 60}), "stacks": stacks}

    @staticmethod
    def estimates(release: Path) -> set[str]:
        """Tasks of a network, and "mesh"."""
        config = json.loads((release / "config.json").read_text())
        return {*config["tasks"], *(["mesh"] if config["mesh"] else [])}

    def evaluate(self, model: Path, benchmark: str, data: object, split: str, names: Any) -> tuple[dict, dict]:
        """Figures of a released model, and of its stacks."""
        out = model.parent / benchmark
        words = ("--model", model, "--data", data, "--split", split, "--out", out, "--device", "cpu")
        self.run(out / "report.json", "evaluate", benchmark, *words)
        report = json.loads((out / "report.json").read_text())
        stacks = {stack: values(metrics, names) for stack, metrics in report.get("stacks", {}).items()}
        return values(report["metrics"], names), stacks


def values(metrics: dict[str, Any], names: Any) -> dict[str, float]:
    """Those figures of a report that a table shows."""
    return {name: metrics[name]["value"] for name in names if name in metrics}


def table(lines: dict[str, list[dict[str, float]]], head: str = "") -> str:
    """Markdown: mean +- standard deviation over the seeds."""
    names = list(dict.fromkeys(name for runs in lines.values() for run in runs for name in run))
    order = [*COLUMNS, *(f"real {name}" for name in REAL_COLUMNS), "minutes"]
    names.sort(key=order.index)
    titles = [
        ("real " if name.startswith("real ") else "") + COLUMNS.get(name.removeprefix("real "), name) for name in names
    ]
    columns = {name: [[run[key] for run in runs if key in run] for key in names] for name, runs in lines.items()}
    return markdown(head, titles, columns)


def report(found: dict[str, list[dict[str, Any]]]) -> str:
    """The table of all rows, and one of the stacks of each row that has several."""
    parts = [table({name: [run["figures"] for run in runs] for name, runs in found.items()})]
    for name, runs in found.items():
        stacks = {f"stack {key}": [run["stacks"][key] for run in runs] for key in runs[0]["stacks"]}
        if stacks and "stacks" in name:
            parts.append(table(stacks, name))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for pictures, runs and results")
    parser.add_argument("--rows", nargs="+", choices=rows(), default=list(rows()), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600, help="32 pictures each")
    parser.add_argument("--pictures", type=int, default=2048, help="labelled")
    parser.add_argument("--tests", type=int, default=512)
    parser.add_argument("--picture-size", type=int, default=112)
    parser.add_argument("--real", help="manifest of annotated photographs, see handmim/evaluation/real_photos.py")
    parser.add_argument("--set", dest="settings", nargs="*", default=[], metavar="KEY=VALUE", help="of every training")
    args = parser.parse_args()
    bench = Bench(args)
    bench.synthesize()
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(1, args.seeds + 1):  # whole rows early: a table after every seed
        for name in args.rows:
            found.setdefault(name, []).append(bench.row(name, seed))
        print(report(found), flush=True)
        (bench.out / "table.md").write_text(report(found) + "\n")


if __name__ == "__main__":
    main()
