"""Pictures a second that the generator draws on one core (or on CUDA), and where the time goes.

    python tests/benchmarks/synthesis.py [--size 128] [--count 256] [--device cuda] [--sheet FILE.png]
    python tests/benchmarks/synthesis.py --prototype DIR

Times are processor time on a CPU, the best of several rounds, so that other work on the machine disturbs little.

With `--prototype` the generator's numba and OpenCV prototype (not part of this repository) runs beside it in the same
process: DIR holds `synthesis/src/gen.py`, `openhand/src/synth.py` and the arrays `openhand/*.npz`. It needs numba,
opencv-python and scipy. Poses and backgrounds are random numbers there: they cost the prototype nothing to draw, and
its backgrounds come from a file.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handmim.synthesis import backgrounds, generate, generator

STAGES = {
    "pose, shape, camera": (generator._Scene, "_pose"),
    "skin and light": (generator._Scene, "_light"),
    "background": (backgrounds, "compose_background"),
    "scan conversion": (generator, "Scan"),
    "pixels of the hand (with scan conversion)": (generator._Scene, "_draw_hands"),
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


def load_prototype(folder: Path, scratch: Path) -> Any:
    """The prototype's `Gen`, its paths replaced by those in `folder`; `scratch` gets the array that it expects."""
    render, hand = (np.load(folder / "openhand" / name) for name in ("openhand_right_render.npz", "openhand_right.npz"))
    directions = np.zeros((len(render["v_template"]), 3, 135), np.float32)
    directions[: len(hand["posedirs"])] = hand["posedirs"]
    np.save(scratch / "posedirs.npy", directions)
    source = (folder / "synthesis/src/gen.py").read_text()
    for old, new in (
        ("sys.path.insert(0,'SCRATCH')", f"sys.path.insert(0,{str(folder / 'synthesis/src')!r})"),
        ("open('SCRATCH')", f"open({str(folder / 'openhand/src/synth.py')!r})"),
        ("'model/posedirs.npy'", repr(str(scratch / "posedirs.npy"))),
        ("'model/", f"'{folder / 'openhand'}/"),
        ("cache=True,", ""),
    ):
        source = source.replace(old, new)
    names: dict[str, Any] = {"__name__": "prototype"}
    exec(compile(source, "gen.py", "exec"), names)
    random = np.random.default_rng(0)
    pool = {"hp": random.normal(0, 0.3, (64, 45)), "betas": random.normal(0, 1, (64, 10))}
    return names["Gen"](random.integers(0, 256, (16, 256, 256, 3), dtype=np.uint8), pool)


def seconds_each(draw: Callable[[int], Any], count: int, rounds: int, clock: Clock) -> float:
    """Best of `rounds` times of draw(round), which draws `count` pictures; one more round warms up."""
    taken = []
    for number in range(rounds + 1):
        start = clock.now()
        draw(number)
        taken.append((clock.now() - start) / count)
    return min(taken[1:])


def compare(folder: Path, count: int, rounds: int, clock: Clock) -> None:
    """Print pictures a second of the prototype and of the generator at the prototype's 160 px and at 128 px."""
    with tempfile.TemporaryDirectory() as scratch:
        prototype = load_prototype(folder.resolve(), Path(scratch))
    random, few = np.random.default_rng(1), 16
    rates = {}
    for size in (160, 128):
        type(prototype).S = size
        theirs = seconds_each(lambda _: [prototype.render(random) for _ in range(few)], few, rounds, clock)
        ours = seconds_each(
            lambda k, size=size: generate(0, range(k * count, (k + 1) * count), size), count, rounds, clock
        )
        rates[size] = 1 / theirs, 1 / ours
        print(f"{size} px: prototype {1 / theirs:.1f}, handmim {1 / ours:.0f} pictures/s a core")
        print(f"  ratio {theirs / ours:.1f}")
    print(f"128 px against the prototype's own 160 px: {rates[128][1] / rates[160][0]:.1f} times")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sheet", help="write a contact sheet here, too")
    parser.add_argument("--prototype", type=Path, help="folder of the prototype to compare with")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clock = Clock(torch.device(arguments.device))
    start = clock.now()
    generate(0, range(8), arguments.size, clock.device)
    print(f"the first eight pictures: {clock.now() - start:.2f} s")
    start = clock.now()
    bank = backgrounds.background_bank(0, str(clock.device))
    bank.packed(torch.arange(bank.count))
    print(f"the rest of {bank.count} backgrounds, drawn once a process: {clock.now() - start:.1f} s")
    if arguments.prototype:
        compare(arguments.prototype, arguments.count, arguments.rounds, clock)
        return
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
