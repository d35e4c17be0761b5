"""Tables 2 to 5 and figure 10 of HIU-DMTL in small, on rendered hands, with one budget.

    OMP_NUM_THREADS=1 python tests/benchmarks/hiu_dmtl_table.py --out DIR [--seeds 1 2 3] [--steps 500] \
        [--rows NAME ...] [--tests 256] [--real MANIFEST.json] [--set KEY=VALUE ...]

Every row is the recipe `hiu-dmtl-ablation-synthetic` with one change, trained with the same steps, batches and
schedule, each picture seen once, and measured by `handmim evaluate` on the same test pictures; a seed changes the
weights at the start and the order. "all tasks" is the recipe as it is; networks with "stacks" in their names have
twice its cost, each as much. In figure 10's rows a share of the pictures has labels; "supervised" learns from these
alone, again and again, "self" by self-supervision from the others as well, which are half of each batch. A step has as
many pictures in both: "self" sees each label half as often. All labels are the row "all tasks".

All that runs are `handmim` commands, which are printed, and kept in DIR/commands.txt; what is there already is not
computed again, so that a run can be stopped, continued and extended; a training that was stopped goes on from its last
checkpoint. `--set` passes settings to every training; `--report` prints the tables of all that is there, and runs
nothing.

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
BATCH, PICTURE_SIZE = 16, 80
SHARES = (0.005, 0.05)
SELF = ["model.loss_weights.self_mask=0.5", "model.loss_weights.self_keypoints=1.0"]
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
    silhouette = ["model.loss_weights.silhouette=0"] if mesh and "mask" not in names else []
    return [f"model.tasks=[{names}]", f"model.mesh={str(mesh).lower()}", *silhouette]


def rows(pictures: int) -> dict[str, list[str]]:
    """Row of the table -> the settings that make it, of a run that sees so many pictures."""
    found: dict[str, list[str]] = {"all tasks": []}
    for n in (1, 2, 4):  # at equal cost: as many encoder blocks as the configuration gives them by itself
        found[f"{n} stack{'s'[: n > 1]}"] = [f"model.num_stacks={n}", "model.encoder_depth=null"]
    found["4 stacks, concatenation"] = [*found["4 stacks"], "model.task_attention=false"]
    found |= {
        "pose": tasks("heatmaps", False),
        "mask": tasks("mask", False),
        "mesh": tasks("pof", True),
        "pose + mask": tasks("heatmaps, mask", False),
        "mask + mesh": tasks("mask, pof", True),
        "pose + mesh": tasks("heatmaps, pof", True),
    }
    found = {name: [f"data.0.samples={pictures}", *settings] for name, settings in found.items()}
    for share in SHARES:
        labelled = round(share * pictures)
        given, rest = entry(0, labelled), entry(labelled, pictures - labelled, ", labels: false")
        found[f"{share:g} of the labels, supervised"] = [f"data=[{given}]"]
        found[f"{share:g} of the labels, self"] = [f"data=[{given}, {rest}]", *SELF]
    return found


def entry(first: int, samples: int, labels: str = "") -> str:
    """Some of the pictures as an entry of `data`; of two each is half of a batch."""
    return f"{{name: synthetic, first: {first}, samples: {samples}, seed: 11, variety: plain, weight: 1{labels}}}"


class Bench(CommandRuns):
    """The test pictures, and the rows of the table."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(Path(args.out))
        self.args, self.data = args, self.out / "pictures"
        self.rows = rows(BATCH * args.steps)

    def synthesize(self) -> None:
        """Labelled pictures to test on: none of them is trained on."""
        words = ("--size", PICTURE_SIZE, "--seed", 11, "--start", TEST_START, "--split", "test", "--variety", "plain")
        self.run(self.data / "test.jsonl", "synthesize", self.args.tests, *words, "--out", self.data)

    def row(self, name: str, seed: int) -> dict[str, Any]:
        """Train and measure once -> figures, and those of each stack."""
        release = self.release(name, seed)
        weights = release / "model.safetensors"
        steps = self.args.steps
        settings = [*self.rows[name], f"training.max_steps={steps}", f"training.seed={seed}"]
        settings += ["training.disable_tqdm=true", *self.args.settings]
        self.run(weights, "finetune", RECIPE, "--out", release.parent, *options(settings))
        figures, stacks = self.evaluate(release, "folder", self.data, "test", COLUMNS)
        if self.args.real and not {"heatmaps", "mesh"}.isdisjoint(self.estimates(release)):
            photos, _ = self.evaluate(release, "real-photos", self.args.real, "dev", REAL_COLUMNS)
            figures |= {f"real {key}": value for key, value in photos.items()}
        minutes = self.times.get(str(weights.relative_to(self.out)))
        return {"figures": figures | ({} if minutes is None else {"minutes": minutes / 60}), "stacks": stacks}

    def release(self, name: str, seed: int) -> Path:
        """Folder of the trained model of a row."""
        return self.out / f"{name.replace(' ', '-').replace(',', '')}-{seed}" / "release"

    def measured(self, name: str, seed: int) -> bool:
        """Whether a row is there already."""
        return (self.release(name, seed).parent / "folder" / "report.json").exists()

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
        if not runs:
            continue
        stacks = {f"stack {key}": [run["stacks"][key] for run in runs] for key in runs[0]["stacks"]}
        if stacks and "stacks" in name:
            parts.append(table(stacks, name))
    return "\n\n".join(parts)


def main() -> None:
    names = list(rows(1))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for pictures, runs and results")
    parser.add_argument("--rows", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=500, help=f"{BATCH} pictures each")
    parser.add_argument("--tests", type=int, default=256)
    parser.add_argument("--real", help="manifest of annotated photographs, see handmim/evaluation/real_photos.py")
    parser.add_argument("--set", dest="settings", nargs="*", default=[], metavar="KEY=VALUE", help="of every training")
    parser.add_argument("--report", action="store_true", help="only print what is there")
    args = parser.parse_args()
    bench = Bench(args)
    if not args.report:
        bench.synthesize()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in args.rows}
    for seed in args.seeds:  # whole rows early: a table after every seed
        for name in args.rows:
            if not args.report or bench.measured(name, seed):
                found[name].append(bench.row(name, seed))
        (bench.out / "table.md").write_text(report(found) + "\n")
    print(report(found))


if __name__ == "__main__":
    main()
