"""Where the time and the memory of a prediction go, from a cold start, on the CPU.

    python tests/benchmarks/predict.py [--model NAME] [--threads 2] [--image photo.jpg] [--repeat 5]

A fresh process imports, loads and predicts; its stages are timed one by one, and its largest resident size is read at
the end. Without --image a synthetic hand is used, with its box given, so that nothing but the package is needed.
Start-up times (`import handmim`, `handmim --help`, transformers' Auto classes with and without handmim) are medians
over fresh processes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

AUTO_CLASSES = "from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline"
STARTS = {
    "python alone": ["-c", "pass"],
    "import handmim": ["-c", "import handmim"],
    "handmim --help": ["-c", "from handmim.cli import main; main(['--help'])"],
    "Auto classes": ["-c", AUTO_CLASSES],
    "Auto classes, then handmim": ["-c", f"{AUTO_CLASSES}; import handmim"],
    "handmim.HandMIM": ["-c", "from handmim import HandMIM"],
}


def start_times(repeat: int) -> dict[str, float]:
    """Median seconds of a fresh process for each start, the starts taking turns."""
    times: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(repeat):
        for name, arguments in STARTS.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_megabytes() -> float:
    """Largest resident size of this process so far, in 10^6 bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def synthetic_image(folder: Path) -> str:
    """A JPEG of a rendered hand, written by another process so that the renderer is not in this one's memory."""
    path = folder / "hand.jpg"
    code = (
        "import sys; from PIL import Image; from handmim.synthesis import generate;"
        "Image.fromarray(generate(0, range(1), size=256).images[0].numpy()).save(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    return str(path)


def timed(stages: dict[str, float], name: str, call: Callable[[], Any]) -> Any:
    """Run `call`, add its seconds to `stages[name]`, return its result."""
    start = time.perf_counter()
    result = call()
    stages[name] = stages.get(name, 0.0) + time.perf_counter() - start
    return result


def predict_stages(args: argparse.Namespace) -> dict[str, Any]:
    """Stages of the first prediction and of a warm one, in this process; seconds and megabytes."""
    first: dict[str, float] = {}
    timed(first, "import", lambda: __import__("handmim").HandMIM)
    import torch

    from handmim import HandMIM

    torch.set_num_threads(args.threads)
    predictor = timed(first, "load", lambda: HandMIM.from_pretrained(args.model, device="cpu"))
    loaded = peak_megabytes()
    watch_stages(predictor, current := {})
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(1 + args.repeat):
            current.clear()
            hands = timed(current, "predict", lambda: predictor(args.image, boxes=args.box))
            if not hands:
                raise SystemExit(f"no hand found in {args.image}; give --box x0 y0 x1 y1")
            timed(current, "overlay", lambda hand=hands[0]: hand.overlay())
            timed(current, "export", lambda hand=hands[0]: hand.export(Path(folder) / "hand.glb"))
            runs.append(dict(current))
    warm = {name: statistics.median(run.get(name, 0.0) for run in runs[1:]) for name in runs[-1]}
    return {"first": first | runs[0], "warm": warm, "loaded_mb": loaded, "peak_mb": peak_megabytes()}


def watch_stages(predictor: Any, stages: dict[str, float]) -> None:
    """Time the parts inside `predict`: detector, crops, network."""
    model, processor, pipe = predictor.model, predictor.image_processor, predictor.pipeline

    def watch(owner: Any, attribute: str, name: str) -> None:
        original = getattr(owner, attribute)
        setattr(owner, attribute, lambda *a, **k: timed(stages, name, lambda: original(*a, **k)))

    watch(pipe, "_detect", "  detect")
    watch(model, "forward", "  forward")
    watch(processor, "preprocess", "  crop")
    watch(processor, "post_process_hand_mesh", "  post-process")


def main() -> None:
    """Print the stages, or, in the inner process, their JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hub id or folder (default: the checkpoint in the package)")
    parser.add_argument("--image", help="default: a synthetic hand")
    parser.add_argument("--box", type=float, nargs=4, metavar=("X0", "Y0", "X1", "Y1"), help="default: found")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inner:
        print(json.dumps(predict_stages(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        image, box = args.image, args.box
        if image is None:
            image, box = synthetic_image(Path(folder)), box or [20.0, 20.0, 235.0, 235.0]
        command = [sys.executable, __file__, "--inner", "--image", image, "--threads", str(args.threads)]
        command += ["--repeat", str(args.repeat), *(["--model", args.model] if args.model else [])]
        command += ["--box", *map(str, box)] if box else []
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"{'stage':22} first ms   warm ms")
    for name, seconds in result["first"].items():
        warm = f"{result['warm'][name] * 1e3:9.1f}" if name in result["warm"] else ""
        print(f"{name:22} {seconds * 1e3:8.1f} {warm}")
    print(f"resident: {result['loaded_mb']:.0f} MB after loading, {result['peak_mb']:.0f} MB at the peak")
    for name, seconds in start_times(args.repeat).items():
        print(f"start: {name:28} {seconds * 1e3:8.1f} ms")


if __name__ == "__main__":
    main()
