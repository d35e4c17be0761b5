"""Forward time of HIU-DMTL with 1, 2 and 4 stacks beside a plain network of as many FLOPs, in one run.

    OMP_NUM_THREADS=1 python tests/benchmarks/hiu_dmtl_forward.py [--threads 1] [--batch 1] [--rounds 9] [--side SIDE]

The peer stands in for PyMAF with its ResNet-50: timm's `resnet50` without its classifier, global average pooling, three
rounds of a regressor of two hidden layers as HMR's, from the mean state, and the same hand model. PyMAF's own feature
pyramid and mesh-aligned sampling are left out, so that it does less than PyMAF. It looks at 256 px; its FLOPs and those
of the others are counted and printed, and times also stand as nanoseconds a thousand FLOPs, relative to the peer's: a
ratio of at most 1 there is "no slower at equal FLOPs". `--side` gives the peer pictures of another side: about 288 px
brings it to the FLOPs of four stacks.

All have random weights, in evaluation mode, float32. "default" is what `HandMIM.from_pretrained` runs on a CPU (see
`handmim/acceleration.py`); the peer is in channels_last, which is its fastest plain form. Variants take turns, so that
a busy machine disturbs all alike; medians of processor time, and ratios.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial

import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from handmim import HIUDMTLConfig, HIUDMTLForHandUnderstanding
from handmim.acceleration import optimize_for_inference
from handmim.hand_model import HandModel
from handmim.hand_state import STATE_SIZE, decode_hand, mean_state
from handmim.modeling_hiu_dmtl import centred_intrinsics

ROUNDS_OF_REGRESSION = 3


class Peer(nn.Module):
    """ResNet-50, a regressor that corrects the mean hand three times, and the hand model."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm.create_model("resnet50", num_classes=0)
        width = self.backbone.num_features
        self.regressor = nn.Sequential(
            nn.Linear(width + STATE_SIZE, 1024),
            nn.ReLU(),
            nn.Linear(1024, 1024),
            nn.ReLU(),
            nn.Linear(1024, STATE_SIZE),
        )
        self.hand_model = HandModel("open", side="right")

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S) -> what `decode_hand` gives."""
        size = pixels.shape[-1]
        features = self.backbone(pixels)
        state = mean_state((1.1, 0.0, 0.6), pixels.device).expand(len(pixels), -1)
        for _ in range(ROUNDS_OF_REGRESSION):
            state = state + 0.01 * self.regressor(torch.cat([features, state], 1))
        intrinsics = centred_intrinsics(torch.full((len(pixels),), 2.0 * size), size)
        return decode_hand(self.hand_model, state, intrinsics, size, along_ray=True)


def flops(call: Callable[[], object]) -> int:
    """Of one call, two for each multiply-add."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def interleaved_times(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median processor seconds of each call over rounds in which every call runs once, after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--stacks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--side", type=int, default=256, help="of the peer's pictures, pixels (default: 256)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    name = f"ResNet-50 peer, {args.side} px"
    peer = Peer().eval().to(memory_format=torch.channels_last)
    pixels = torch.randn(args.batch, 3, args.side, args.side).clamp(-1, 1).contiguous(memory_format=torch.channels_last)
    calls: dict[str, Callable[[], object]] = {name: partial(peer, pixels)}
    crops = torch.randn(args.batch, 3, 256, 256).clamp(-1, 1)
    with torch.inference_mode():
        costs = {name: flops(calls[name]) / args.batch}
        for stacks in args.stacks:
            plain = HIUDMTLForHandUnderstanding(HIUDMTLConfig(num_stacks=stacks)).eval()
            fast = optimize_for_inference(copy.deepcopy(plain))
            for kind, model in (("plain", plain), ("default", fast)):
                row = f"HIU-DMTL {stacks} stack{'s'[: stacks > 1]}, {kind}"
                calls[row] = partial(model, crops)
                costs[row] = flops(partial(plain, crops)) / args.batch
        times = interleaved_times(calls, args.rounds)
    print(f"batch {args.batch}, {args.threads} threads, torch {torch.__version__}; processor time")
    print(f"{'':28} GFLOPs  ms/image  ratio  ratio a FLOP")
    for row, seconds in times.items():
        ratio = seconds / times[name]
        each = ratio * costs[name] / costs[row]
        print(f"{row:28} {costs[row] / 1e9:6.1f}  {seconds / args.batch * 1e3:8.1f}  {ratio:5.2f}  {each:12.2f}")


if __name__ == "__main__":
    main()
