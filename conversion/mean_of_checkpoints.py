"""The mean of two checkpoints of one network: what it has learned last, without losing what it knew before.

    python conversion/mean_of_checkpoints.py BEFORE AFTER --out FOLDER [--share 0.5]

BEFORE and AFTER are folders with one file of weights, or names of checkpoints in the package; AFTER has gone on from
BEFORE. Everything but the weights is AFTER's. Source: WiSE-FT (Wortsman et al., CVPR 2022, equation 1).
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel

import handmim  # noqa: F401 - makes the families known to transformers
from handmim.checkpoints import checkpoint_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--share", type=float, default=0.5, help="of AFTER in the mean (default: 0.5)")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    if not 0 <= args.share <= 1:
        parser.error(f"--share must be in [0, 1], got {args.share}")
    before, after = (Path(checkpoint_source(name)) for name in (args.before, args.after))
    states = (load_file(folder / "model.safetensors") for folder in (before, after))
    AutoModel.from_pretrained(after).save_pretrained(args.out, state_dict=mean_of(*states, args.share))
    AutoImageProcessor.from_pretrained(after).save_pretrained(args.out)
    print(f"written to {args.out}")


def mean_of(before: dict[str, Tensor], after: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights between those of two states of one network; whole numbers, such as counts of batches, are the later ones.

    Args:
        before, after: Names and tensors, the same of both; the mean has the later one's precision.
        share: Of the later state.

    Raises:
        ValueError: They are of two networks.
    """
    if {name: value.shape for name, value in before.items()} != {name: value.shape for name, value in after.items()}:
        raise ValueError("the checkpoints must be of one network: their weights differ in name or shape")
    return {
        name: torch.lerp(before[name].float(), value.float(), share).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in after.items()
    }


if __name__ == "__main__":
    main()
