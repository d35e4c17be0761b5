r"""Accuracy and time of the exported graphs (float32, float16, int8) beside torch, in one run.

    python tests/benchmarks/onnx_variants.py [--model DIR | --size small] [--manifest PATH/manifest.json] \
        [--threads 2] [--batch 1 16] [--rounds 15]

Accuracy: the figures of `handmim evaluate real-photos` on the manifest's hands, boxes and sides given, and how far the
21 joints move from torch's in float32 (relative to the wrist, mm). Time: networks take turns on the same crops; the
median and the ratio to torch as the package runs it (its optimised linear layers) are printed. Random weights (--size)
say something about time only. The first column is the size of the graph; torch's is that of float32 weights.
"""

import argparse
import copy
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from forward import interleaved_times

from handmim import HandMIMConfig, HandMIMForMeshEstimation, HandMIMImageProcessor
from handmim.acceleration import optimize_for_inference
from handmim.checkpoints import EMBEDDED_CHECKPOINT, load_network
from handmim.configuration_handmim import SIZES
from handmim.onnx_export import PRECISIONS, export_onnx
from handmim.onnx_network import OnnxNetwork

COLUMNS = ("found", "mean_2d", "pck_2d_05", "pck_2d_10", "pck_2d_20", "auc_2d", "pa_mpjpe")


def build(args: argparse.Namespace, work: Path) -> tuple[dict[str, Any], dict[str, float], Any]:
    """The networks by name, their sizes in MB, and the image processor."""
    if args.size:
        torch.manual_seed(0)
        plain = HandMIMForMeshEstimation(HandMIMConfig.from_size(args.size)).eval()
        processor = HandMIMImageProcessor(size=plain.config.image_size)
    else:
        source = args.model or EMBEDDED_CHECKPOINT
        plain, processor = load_network(source), HandMIMImageProcessor.from_pretrained(source)
    size = 4 * sum(value.numel() for value in plain.parameters()) / 1e6
    networks = {"torch, as the package": optimize_for_inference(copy.deepcopy(plain)), "torch, plain": plain}
    sizes = dict.fromkeys(networks, size)
    for precision in PRECISIONS:
        path = export_onnx(plain, work / precision, precision)
        networks[f"onnx {precision}"] = OnnxNetwork(path, plain.config)
        sizes[f"onnx {precision}"] = path.stat().st_size / 1e6
    return networks, sizes, processor


def print_accuracy(networks: dict[str, Any], processor: Any, manifest: Path) -> None:
    """One line a network: the benchmark's figures, and the distance of its joints from torch's."""
    from handmim.evaluation.predictions import Predictor, predict
    from handmim.evaluation.real_photos import RealPhotos
    from handmim.evaluation.report import table
    from handmim.evaluation.scoring import collect, score

    reader = RealPhotos(manifest)
    truth = collect(reader)
    figures, joints = {}, {}
    for name, network in networks.items():
        found = predict(reader, Predictor(network, processor, vertices=False), count=len(reader))
        figures[name] = score(truth, found).metrics
        joints[name] = torch.from_numpy(found.joints - found.joints[:, :1])
    print(table(figures, COLUMNS))
    for name, values in joints.items():
        moved = (values - joints["torch, plain"]).norm(dim=-1) * 1000
        print(f"{name:24} joints moved by mean {moved.mean():.3f}, largest {moved.max():.3f} mm")


def print_times(networks: dict[str, Any], sizes: dict[str, float], args: argparse.Namespace) -> None:
    """One table a batch size."""
    side = networks["torch, plain"].config.image_size
    camera = torch.tensor([[5.0 * side, 0, side / 2], [0, 5.0 * side, side / 2], [0, 0, 1]])
    with torch.inference_mode():
        for batch in args.batch:
            pixels = torch.randn(batch, 3, side, side).clamp(-1, 1)
            intrinsics = camera.repeat(batch, 1, 1)
            calls = {name: partial(network, pixels, intrinsics) for name, network in networks.items()}
            times = interleaved_times(calls, args.rounds)
            print(f"\nbatch {batch}, {side} px, {args.threads} threads")
            for name, seconds in times.items():
                ratio = seconds / times["torch, as the package"]
                print(f"{name:24} {sizes[name]:7.1f} MB  {seconds / batch * 1e3:8.2f} ms/image  ratio {ratio:5.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or Hub id (default: the checkpoint in the package)")
    parser.add_argument("--size", choices=sorted(SIZES), help="random weights of this size instead: time only")
    parser.add_argument("--manifest", type=Path, help="annotated photographs for the accuracy")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as work:
        networks, sizes, processor = build(args, Path(work))
        if args.manifest and not args.size:
            print_accuracy(networks, processor, args.manifest)
        print_times(networks, sizes, args)


if __name__ == "__main__":
    main()
