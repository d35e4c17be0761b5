"""Forward time of HandMIM beside timm's ViT of the same size, on the CPU, in one run.

    python tests/benchmarks/forward.py [--size small] [--threads 2] [--batch 1 16] [--checkpoint DIR]

The peer is `timm.create_model("vit_<size>_patch16_224")` in eager float32; HandMIM is backbone, head and hand model.
Variants take turns, so that a busy machine disturbs all alike; the median and the ratio to the peer are printed, and
how far the vertices move from plain float32 (mean and largest distance, mm; in the camera frame and relative to the
wrist). With random weights the head predicts nearly the mean hand whatever the picture: pass a trained checkpoint (and
it decides the size) for distances that mean something.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial

import timm
import torch

from handmim import HandMIMConfig, HandMIMForMeshEstimation
from handmim.acceleration import is_supported, optimize_for_inference
from handmim.configuration_handmim import SIZES


def interleaved_times(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call over `rounds` rounds in which every call runs once, after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def build_variants(args: argparse.Namespace) -> dict[str, torch.nn.Module]:
    """The peer, then HandMIM plain, with packed float32 products and with bfloat16 products."""
    torch.manual_seed(0)
    if args.checkpoint:
        plain = HandMIMForMeshEstimation.from_pretrained(args.checkpoint, dtype=torch.float32).eval()
        sizes = [name for name, values in SIZES.items() if values["hidden_size"] == plain.config.hidden_size]
        size = sizes[0]
    else:
        size = args.size
        plain = HandMIMForMeshEstimation(HandMIMConfig.from_size(size)).eval()
    peer = timm.create_model(f"vit_{size}_patch16_224", num_classes=0).eval()
    variants = {f"timm vit_{size}, eager fp32": peer, f"HandMIM {size}, plain fp32": plain}
    variants[f"HandMIM {size}, optimised (default)"] = optimize_for_inference(copy.deepcopy(plain))
    if is_supported(torch.bfloat16):
        variants[f"HandMIM {size}, optimised bf16"] = optimize_for_inference(copy.deepcopy(plain), torch.bfloat16)
    return variants


def vertex_distances(plain: torch.Tensor, other: torch.Tensor, wrists: tuple[torch.Tensor, torch.Tensor]) -> str:
    """Mean and largest distance in mm, in the camera frame and relative to the wrist."""
    camera = (other - plain).norm(dim=-1) * 1000
    relative = ((other - wrists[1]) - (plain - wrists[0])).norm(dim=-1) * 1000
    return f"{camera.mean():.4f} {camera.max():.4f}   {relative.mean():.4f} {relative.max():.4f}"


def main() -> None:
    """Print one table a batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small", choices=sorted(SIZES))
    parser.add_argument("--checkpoint", help="folder or Hub id of a trained model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    variants = build_variants(args)
    names = list(variants)
    model = variants[names[1]]
    with torch.inference_mode():
        for batch in args.batch:
            peer_input = torch.randn(batch, 3, 224, 224)
            size = model.config.image_size
            pixels = torch.randn(batch, 3, size, size).clamp(-1, 1)
            calls = {name: partial(variants[name], pixels) for name in names}
            calls[names[0]] = partial(variants[names[0]], peer_input)
            times = interleaved_times(calls, args.rounds if batch < 8 else max(3, args.rounds // 3))
            print(f"batch {batch}, {args.threads} threads, torch {torch.__version__}")
            print(f"{'':36} ms/image  ratio   mm from plain: camera mean, max; wrist-relative mean, max")
            reference = model(pixels)
            for name in names:
                line = f"{name:36} {times[name] / batch * 1e3:8.1f}  {times[name] / times[names[0]]:5.2f}"
                if name not in names[:2]:
                    out = calls[name]()
                    wrists = (reference.joints[:, :1], out.joints[:, :1])
                    line += "   " + vertex_distances(reference.vertices, out.vertices, wrists)
                print(line, flush=True)


if __name__ == "__main__":
    main()
