"""Scoring a submission beside the official FreiHAND and HO3D scripts, from the files to scores.txt, in one run.

    python tests/benchmarks/official_evaluation.py --freihand DIR [--ho3d DIR] [--python PYTHON] [--samples 3960]

DIR holds `eval.py` and `utils/` of lmb-freiburg/freihand and shreyashampali/ho3d (not part of this repository). PYTHON
has numpy, scipy, matplotlib and open3d; the names that current numpy and open3d no longer have are given back to it,
images libraries are replaced by empty modules, and the HTML page at the end, which fails on Python 3, is left out.
Without open3d, scipy's KD-tree takes its place, and the output says so.

The submission is fabricated: hands in random poses, with bent and shifted predictions several millimetres off. Each
program runs as a process of its own, and times what follows its imports: reading, scoring, writing scores.txt. They
run in turn, so that a slow moment of the machine meets all; the scores are compared digit by digit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

OURS = """
import json, sys, time
sys.argv[0] = "handmim"  # as in the command: transformers is not imported
from pathlib import Path
import numpy as np
from handmim.evaluation.official import PROTOCOLS, score
from handmim.evaluation.submission import load_submission
from handmim.json_arrays import read_array

folder, out, protocol, samples = Path(sys.argv[1]), Path(sys.argv[2]), PROTOCOLS[sys.argv[3]], int(sys.argv[4])
start, processor = time.perf_counter(), time.process_time()
joints = read_array(folder / "ref/evaluation_xyz.json", (21, 3), np.float64)
vertices = read_array(folder / "ref/evaluation_verts.json", (protocol.vertices, 3), np.float64)
predicted = load_submission(folder / "res/pred.json", protocol, samples)
read = time.perf_counter()
(out / "scores.txt").write_text(score(*predicted, joints, vertices, protocol).text())
end = time.perf_counter()
figures = {"seconds": end - start, "reading": read - start, "processor": time.process_time() - processor}
print(json.dumps(figures))
"""

THEIRS = """
import json, sys, time, types
import numpy as np
folder, out, source, samples = sys.argv[1:5]
samples = int(samples)
sys.path.insert(0, source)
if not hasattr(np, "trapz"):
    np.trapz = np.trapezoid
for name in ("skimage", "skimage.io", "cv2"):
    sys.modules.setdefault(name, types.ModuleType(name))
sys.modules["skimage"].io = sys.modules["skimage.io"]
backend = "open3d"
try:
    import open3d
    if not hasattr(open3d, "PointCloud"):
        open3d.PointCloud = open3d.geometry.PointCloud
        open3d.Vector3dVector = open3d.utility.Vector3dVector
        open3d.compute_point_cloud_to_point_cloud_distance = lambda a, b: a.compute_point_cloud_distance(b)
except ImportError:
    from scipy.spatial import cKDTree
    backend = "scipy KD-tree"
    open3d = types.ModuleType("open3d")
    open3d.PointCloud = types.SimpleNamespace
    open3d.Vector3dVector = lambda points: points
    open3d.compute_point_cloud_to_point_cloud_distance = lambda a, b: cKDTree(b.points).query(a.points)[0]
    sys.modules["open3d"] = open3d
import eval
eval.createHTML = lambda *_: None
eval.db_size = lambda *_, **__: samples
more = {"version": "v2"} if "version" in eval.main.__code__.co_varnames else {}
start, processor = time.perf_counter(), time.process_time()
eval.main(folder + "/ref", folder + "/res", out, "pred.json", set_name="evaluation", **more)
figures = {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor, "backend": backend}
print(json.dumps(figures))
"""


def fabricate(folder: Path, samples: int) -> None:
    """Write `ref/evaluation_{xyz,verts}.json` and `res/pred.json` with hands of 778 vertices."""
    import torch

    from handmim.hand_model import HandModel
    from handmim.json_arrays import write_array, write_arrays

    generator = torch.Generator().manual_seed(0)
    model = HandModel("open")
    chosen = np.linspace(0, model.num_vertices - 1, 778).astype(int)

    def hands(pose: torch.Tensor, betas: torch.Tensor, orient: torch.Tensor, shift: torch.Tensor) -> tuple:
        from handmim.geometry import axis_angle_to_matrix

        joints, vertices = [], []
        for rows in torch.arange(samples).split(256):
            output = model(
                axis_angle_to_matrix(orient[rows]), axis_angle_to_matrix(pose[rows]), betas[rows], shift[rows]
            )
            joints.append(output.joints)
            vertices.append(output.vertices[:, chosen])
        return torch.cat(joints).double().numpy(), torch.cat(vertices).double().numpy()

    def normal(*shape: int, scale: float) -> torch.Tensor:
        return scale * torch.randn(samples, *shape, generator=generator)

    pose, betas, orient = normal(15, 3, scale=0.3), normal(10, scale=0.7), normal(3, scale=1.0)
    shift = normal(3, scale=0.05) + torch.tensor([0.0, 0.0, 0.7])
    with torch.no_grad():
        true = hands(pose, betas, orient, shift)
        predicted = hands(
            pose + normal(15, 3, scale=0.12),
            betas + normal(10, scale=0.5),
            orient + normal(3, scale=0.05),
            shift + normal(3, scale=0.01),
        )
    for name in ("ref", "res"):
        (folder / name).mkdir()
    write_array(folder / "ref/evaluation_xyz.json", true[0], 9)
    write_array(folder / "ref/evaluation_verts.json", true[1], 9)
    write_arrays(folder / "res/pred.json", predicted, 9)


def run(python: str, program: str, *arguments: str) -> dict:
    """The figures that a program prints on its last line."""
    done = subprocess.run([python, "-c", program, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"a program failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(folder: Path, protocol: str, source: Path, python: str, samples: int, rounds: int) -> None:
    """Run both in turn and print the median ratio; ours runs before and after each of theirs."""
    out = {}
    for name in ("ours", "theirs"):
        out[name] = folder / f"{protocol}-{name}"
        out[name].mkdir(exist_ok=True)
    ratios = []
    for _ in range(rounds):
        ours = [run(sys.executable, OURS, str(folder), str(out["ours"]), protocol, str(samples))]
        theirs = run(python, THEIRS, str(folder), str(out["theirs"]), str(source), str(samples))
        ours.append(run(sys.executable, OURS, str(folder), str(out["ours"]), protocol, str(samples)))
        seconds, reading, processor = (
            statistics.mean(each[key] for each in ours) for key in ("seconds", "reading", "processor")
        )
        ratios.append(theirs["seconds"] / seconds)
        print(
            f"{protocol}: official ({theirs['backend']}) {theirs['seconds']:.1f} s, processor {theirs['processor']:.1f}"
            f" s; handmim {seconds:.2f} s (reading {reading:.2f}), processor {processor:.2f} s; ratio {ratios[-1]:.1f},"
            f" of processor times {theirs['processor'] / processor:.1f}",
            flush=True,
        )
    scores = [(out[name] / "scores.txt").read_text() for name in ("ours", "theirs")]
    equal = "equal to every digit" if scores[0] == scores[1] else f"DIFFERENT:\n{scores[0]}\n{scores[1]}"
    print(f"{protocol}: {statistics.median(ratios):.1f} times faster (median of {rounds}); scores {equal}", flush=True)


def main() -> None:
    """Fabricate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--freihand", type=Path, help="folder of the official FreiHAND script")
    parser.add_argument("--ho3d", type=Path, help="folder of the official HO3D script")
    parser.add_argument("--python", default=sys.executable, help="interpreter for the official scripts")
    parser.add_argument("--samples", type=int, default=3960)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        fabricate(Path(scratch), arguments.samples)
        for protocol, source in (("freihand", arguments.freihand), ("ho3d-v2", arguments.ho3d)):
            if source:
                compare(
                    Path(scratch), protocol, source.resolve(), arguments.python, arguments.samples, arguments.rounds
                )
    if not (arguments.freihand or arguments.ho3d):
        parser.error("give --freihand, --ho3d or both")


if __name__ == "__main__":
    main()
