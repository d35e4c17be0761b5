"""Speed of the rasteriser on hands with forearms: python tests/benchmarks/rasterizer.py [--device cuda].

Prints, for each picture size, milliseconds an image (the fastest and the median of the repeats) and images a second
for rasterising, a depth map, interpolating normals and computing them. On a CPU everything runs on one thread, and the
clock is the process's own time, so that a busy machine disturbs the figures less.
"""

import argparse
import time
from collections.abc import Callable
from importlib import resources

import torch
from safetensors.torch import load

from handmim.rendering import depth_map, interpolate_pixels, rasterize, vertex_normals


def hands(batch: int, size: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Randomly turned hands that fill about a quarter of the picture: points (B, V, 3) px, px, m, and faces."""
    arrays = load(resources.files("handmim").joinpath("assets/open_hand.safetensors").read_bytes())
    vertices, faces = arrays["render_template"].float(), arrays["render_faces"].long()
    generator = torch.Generator().manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(batch, 3, 3, generator=generator))
    rotation = rotation * rotation.det().sign()[:, None, None]
    centred = vertices - arrays["template"].float().mean(0)
    placed = centred @ rotation + torch.tensor([0.0, 0.0, 0.5])
    pixels = placed[..., :2] / placed[..., 2:] * 2.4 * size + (size - 1) / 2
    return torch.cat([pixels, placed[..., 2:]], dim=-1).to(device), faces.to(device)


def seconds(function: Callable[[], object], device: str, repeats: int) -> list[float]:
    """Sorted times of the repeats, after one warm-up."""
    times = []
    for _ in range(repeats + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        clock = time.process_time if device == "cpu" else time.perf_counter
        start = clock()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return sorted(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 224, 256])
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    print(f"{'size':>5} {'covered':>8} {'step':>16} {'best ms':>8} {'median':>8} {'images/s':>9}")
    for size in arguments.sizes:
        points, faces = hands(arguments.batch, size, arguments.device)
        fragments = rasterize(points, faces, size, size)
        normals = vertex_normals(points, faces)
        steps: dict[str, Callable[[], object]] = {
            "rasterize": lambda p=points, f=faces, s=size: rasterize(p, f, s, s),
            "depth_map": lambda p=points, f=faces, s=size: depth_map(p, f, s, s),
            "interpolate": lambda g=fragments, f=faces, n=normals: interpolate_pixels(g, f, n),
            "vertex_normals": lambda p=points, f=faces: vertex_normals(p, f),
        }
        share = len(fragments.pixel_index) / (arguments.batch * size * size)
        for name, step in steps.items():
            times = seconds(step, arguments.device, arguments.repeats)
            best, median = (1e3 * t / arguments.batch for t in (times[0], times[len(times) // 2]))
            print(f"{size:5d} {share:8.1%} {name:>16} {best:8.3f} {median:8.3f} {1e3 / median:9.0f}")


if __name__ == "__main__":
    main()
