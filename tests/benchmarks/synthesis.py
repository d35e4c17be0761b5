"""Pictures a second that the generator draws on one core (or on CUDA), and where the time goes.

    python tests/benchmarks/synthesis.py [--size 128] [--count 256] [--device cuda] [--sheet FILE.png]

Times are processor time on a CPU, the best of several rounds, so that other work on the machine disturbs little.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from handmim.synthesis import backgrounds, generate, generator

STAGES = {
    "pose, shape, camera": (generator._Scene, "_pose"),
    "skin and light": (generator._Scene, "_light"),
    "background": (backgrounds, "compose_background"),
    "rasterisation": (generator, "rasterize"),
    "pixels of the hand (with rasterisation)": (generator._Scene, "_draw_hands"),
    "objects": (generator._Scene, "_draw_things"),
    "degradation": (generator, "degrade"),
    "labels": (generator._Scene, "_label"),
}


class Clock:
    """Adds up the time spent in functions it wraps."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.total: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        """Seconds: processor time on a CPU, wall time after synchronisation on CUDA."""
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, timed under `name`."""

        def timed(*arguments: Any, **named: Any) -> Any:
            start = self.now()
            result = function(*arguments, **named)
            self.total[name] += self.now() - start
            return result

        return timed


def save_sheet(path: str, size: int) -> None:
    """48 pictures, joints drawn on every second one: white where visible, black where hidden."""
    from PIL import Image, ImageDraw

    batch = generate(1, range(48), size)
    sheet = Image.new("RGB", (8 * size, 6 * size))
    for k in range(48):
        picture = Image.fromarray(batch.images[k].numpy())
        if k % 2 and batch.labels["hand"][k]:
            draw = ImageDraw.Draw(picture)
            for (x, y), seen in zip(
                batch.labels["keypoints_2d"][k].tolist(), batch.visibility[k].tolist(), strict=True
            ):
                draw.ellipse([x - 1, y - 1, x + 1, y + 1], fill="white" if seen else "black")
        sheet.paste(picture, (k % 8 * size, k // 8 * size))
    sheet.save(path)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sheet", help="write a contact sheet here, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clock = Clock(torch.device(arguments.device))
    start = clock.now()
    backgrounds.background_bank(0, str(clock.device))
    print(f"bank of {backgrounds.BANK_COUNT} backgrounds: {clock.now() - start:.1f} s")
    if arguments.sheet:
        save_sheet(arguments.sheet, arguments.size)
    for name, (owner, attribute) in STAGES.items():
        setattr(owner, attribute, clock.wrap(name, getattr(owner, attribute)))
    best: tuple[float, dict[str, float]] = (float("inf"), {})
    for number in range(arguments.rounds + 1):
        clock.total.clear()
        start = clock.now()
        generate(0, range(number * arguments.count, (number + 1) * arguments.count), arguments.size, clock.device)
        taken = clock.now() - start
        if number and taken < best[0]:  # the first round warms up
            best = taken, dict(clock.total)
    each = best[0] / arguments.count
    print(f"{arguments.size} px: {1 / each:.0f} pictures/s, {each * 1e3:.2f} ms each")
    for name in STAGES:
        print(f"  {name:42s} {best[1][name] / arguments.count * 1e3:6.2f} ms {best[1][name] / best[0]:6.0%}")


if __name__ == "__main__":
    main()
