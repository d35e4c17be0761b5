"""How fast is the hand layer beside smplx's? Ratios of one run, on a fabricated file; nothing is asserted.

    python tests/benchmarks/hand_layer.py [--threads 2] [--rounds 15] [--vertices 778]

On Linux the program restarts itself with an allocator that keeps large blocks, for all contestants alike: with the
default one, page faults of large temporaries hide the arithmetic (`--default-allocator` leaves it alone).
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import smplx
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fabricate_mano import fabricate, write_pickle  # noqa: E402

from handmim.geometry import axis_angle_to_matrix  # noqa: E402
from handmim.hand_model import HandModel  # noqa: E402

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
BATCHES = (1, 64, 512)
Step = Callable[[], None]


def contestants(file: Path, batch: int, backward: bool) -> dict[str, Step]:
    """One closure a layer: pose a batch, and with `backward` derive the sum of its vertices for all parameters."""
    ours = HandModel("mano", path=file)
    with contextlib.redirect_stdout(None):  # a remark about the number of shape coefficients
        matrices = smplx.MANOLayer(str(file), use_pca=False, flat_hand_mean=True)
        angles = smplx.MANO(str(file), use_pca=False, flat_hand_mean=True, batch_size=batch)
    axis_angle = 0.5 * torch.randn(batch, 16, 3)
    rotmat = axis_angle_to_matrix(axis_angle)
    betas, translation = torch.randn(batch, 10), torch.randn(batch, 3)
    weight = torch.randn(batch, ours.num_vertices, 3)

    def step(function: Callable[..., Tensor], *arguments: Tensor) -> Step:
        arguments = tuple(a.clone().requires_grad_(backward) for a in arguments)

        def run() -> None:
            vertices = function(*arguments)
            if backward:
                torch.autograd.grad(vertices, arguments, weight)

        return run

    orient, pose = rotmat[:, 0].clone(), rotmat[:, 1:].clone()
    return {
        "handmim": step(lambda o, p, b, t: ours(o, p, b, t).vertices, orient, pose, betas, translation),
        "smplx.MANOLayer": step(
            lambda o, p, b, t: matrices(b, o, p, t).vertices, orient[:, None], pose, betas, translation
        ),
        "smplx.MANO": step(
            lambda o, p, b, t: angles(betas=b, global_orient=o, hand_pose=p, transl=t).vertices,
            axis_angle[:, 0].clone(),
            axis_angle[:, 1:].reshape(batch, 45),
            betas,
            translation,
        ),
    }


def measure(steps: dict[str, Step], repeats: int, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Best milliseconds a call of each contestant, taken in turns so that a disturbance meets all of them."""
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            step()
            start = clock()
            for _ in range(repeats):
                step()
            best[name] = min(best[name], (clock() - start) / repeats * 1e3)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=None, help="torch threads; default: torch's own choice")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--vertices", type=int, default=778)
    parser.add_argument("--default-allocator", action="store_true")
    options = parser.parse_args()
    if sys.platform == "linux" and not options.default_allocator and "MALLOC_TOP_PAD_" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    if options.threads:
        torch.set_num_threads(options.threads)
    # with one thread its own processor time leaves out what other programs on the machine take
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.vertices} vertices; ms a batch (best)"
    )
    print(f"{'batch':>5}  {'pass':8}  {'handmim':>9}  {'MANOLayer':>9}  {'MANO':>9}  {'times faster than both':>22}")
    with tempfile.TemporaryDirectory() as folder:
        file = write_pickle(Path(folder) / "MANO_RIGHT.pkl", fabricate(options.vertices))
        for batch in BATCHES:
            for backward in (False, True):
                steps = contestants(file, batch, backward)
                with torch.set_grad_enabled(backward):
                    best = measure(steps, max(1, 60 // batch), options.rounds, clock)
                ours, layer, mano = best["handmim"], best["smplx.MANOLayer"], best["smplx.MANO"]
                name = "fwd+bwd" if backward else "forward"
                ratios = f"{layer / ours:.2f}, {mano / ours:.2f}"
                print(f"{batch:>5}  {name:8}  {ours:>9.3f}  {layer:>9.3f}  {mano:>9.3f}  {ratios:>22}", flush=True)


if __name__ == "__main__":
    main()
