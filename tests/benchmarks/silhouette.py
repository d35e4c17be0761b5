"""Time and memory of the soft silhouette beside the dense formulation: python tests/benchmarks/silhouette.py.

The peer is SoftRas (Liu et al., ICCV 2019) written down as it stands: the signed distance of every pixel to every
triangle, a sigmoid, one minus the product over the triangles. PyTorch3D's renderer, which HIU-DMTL used, keeps the
nearest faces of each pixel in compiled code and is not compared: it has no wheel for current PyTorch.

Each variant runs in a process of its own, on one thread: milliseconds a hand forward and with backward (processor
time, median of the repeats), and the peak of memory above that before the first call.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from handmim.geometry import axis_angle_to_matrix
from handmim.hand_model import HandModel
from handmim.rendering import project_with_depth, render_mask
from handmim.silhouette import segment_distance, soft_silhouette

SHARPNESS = 0.5


def dense_silhouette(vertices: Tensor, faces: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
    """(B, height, width) coverage by all faces at once."""
    corner = project_with_depth(vertices, intrinsics)[:, faces, :2]  # (B, F, 3, 2)
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixel = torch.stack([column, row], -1).float().reshape(1, 1, -1, 2)  # (1, 1, P, 2)
    starts = [corner[:, :, side, None] for side in range(3)]
    ends = [corner[:, :, (side + 1) % 3, None] for side in range(3)]
    distance = torch.stack([segment_distance(pixel, *ab) for ab in zip(starts, ends, strict=True)]).amin(0)
    turns = []
    for start, end in zip(starts, ends, strict=True):
        along, offset = end - start, pixel - start
        turns.append(along[..., 0] * offset[..., 1] - along[..., 1] * offset[..., 0] > 0)
    inside = (turns[0] == turns[1]) & (turns[1] == turns[2])
    signed = torch.where(inside, distance, -distance)
    return 1 - torch.nn.functional.logsigmoid(-signed / SHARPNESS).sum(1).exp().view(-1, height, width)


def hands(batch: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bent hands seen from several sides, (B, V, 3), their faces, and a camera that they nearly fill."""
    generator = torch.Generator().manual_seed(0)
    hand = HandModel("open")
    orient = axis_angle_to_matrix(torch.randn(batch, 3, generator=generator))
    pose = axis_angle_to_matrix(0.3 * torch.randn(batch, 15, 3, generator=generator))
    vertices = hand(orient, pose, torch.zeros(batch, 10)).vertices
    vertices = vertices - vertices.mean(1, keepdim=True) + torch.tensor([0.0, 0.0, 0.5])
    middle = (side - 1) / 2
    return vertices, hand.faces, torch.tensor([[2.2 * side, 0, middle], [0, 2.2 * side, middle], [0, 0, 1]])


def measure(variant: str, batch: int, side: int, repeats: int) -> dict[str, float]:
    """One variant, in this process."""
    torch.set_num_threads(1)
    vertices, faces, intrinsics = hands(batch, side)
    function: Callable[..., Tensor] = dense_silhouette if variant == "dense" else soft_silhouette
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    forward, both = [], []
    for _ in range(repeats + 1):
        moved = vertices.clone().requires_grad_()
        start = time.process_time()
        coverage = function(moved, faces, intrinsics, side, side)
        forward.append(time.process_time() - start)
        coverage.sum().backward()
        both.append(time.process_time() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    mask = render_mask(vertices, faces, intrinsics, side, side)
    found = coverage.detach() > 0.5
    return {
        "forward": 1e3 * statistics.median(forward[1:]) / batch,
        "both": 1e3 * statistics.median(both[1:]) / batch,
        "memory": memory / 1024 / batch,
        "iou": ((found & mask).sum() / (found | mask).sum()).item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sides", type=int, nargs="+", default=[24, 32, 64], help="of the picture, px")
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "SIDE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], args.batch, int(args.one[1]), args.repeats)))
        return
    print(
        f"{'side':>5} {'variant':>8} {'forward ms':>11} {'with backward':>14} {'memory MB':>10} {'IoU with mask':>14}"
    )
    for side in args.sides:
        for variant in ("ours", "dense"):
            options = ["--batch", str(args.batch), "--repeats", str(args.repeats), "--one", variant, str(side)]
            command = [sys.executable, os.path.abspath(__file__), *options]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            figures = f"{found['forward']:11.2f} {found['both']:14.2f} {found['memory']:10.1f} {found['iou']:10.3f}"
            print(f"{side:5} {variant:>8} {figures}", flush=True)


if __name__ == "__main__":
    main()
