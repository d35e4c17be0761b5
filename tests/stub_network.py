"""What tests of the way from picture to hand share: a network whose answer is known, and pictures."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

# A mesh model of 64 px and two blocks.
TINY = dict(
    image_size=64,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=1,
    feature_layers=(1, 2),
    num_feedback=1,
    feature_channels=(16,),
    point_channels=(16, 8),
    regressor_hidden_size=32,
    regressor_dropout=0.0,
    hand_model="open",
    score_head=True,
)
# A HIU-DMTL network of 64 px and one stack, maps of 16 cells.
TINY_HIU = dict(
    image_size=64,
    hidden_size=16,
    num_stacks=1,
    encoder_depth=1,
    encoder_levels=2,
    regressor_channels=(16, 16),
    regressor_hidden_size=32,
    score_head=True,
)


def picture(width: int = 120, height: int = 90, seed: int = 0) -> np.ndarray:
    """Smooth random colours, (height, width, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


class StubNetwork(torch.nn.Module):
    """A "network" whose answer in the crop is known: a fixed hand, turned to where the crop is brighter in red.

    The turn makes it equivariant to rotations of the picture, so results in the frame of the picture can be compared
    after any mirror, shift, scale or quarter turn; and it fails when pixels and geometry disagree.

    Args:
        right: function of the pixel values (B, 3, S, S) -> (B,) logits that the crop shows a right hand.
    """

    def __init__(self, right: Callable[[torch.Tensor], torch.Tensor] = lambda pixels: torch.ones(len(pixels))) -> None:
        super().__init__()
        from handmim import HandModel

        self.config = SimpleNamespace(score_head=True, hand_model="open", image_size=64)
        self.hand_model = HandModel("open")
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.right = right
        self.batches: list[int] = []

    def forward(self, pixel_values: torch.Tensor, intrinsics: torch.Tensor, **_: Any) -> dict[str, torch.Tensor]:
        from handmim.geometry import axis_angle_to_matrix, camera_translation, project

        self.batches.append(len(pixel_values))
        batch, size = len(pixel_values), pixel_values.shape[-1]
        red = pixel_values[:, 0]
        across = torch.linspace(-1, 1, size)
        weight = torch.stack([(red * across).mean((1, 2)), (red * across[:, None]).mean((1, 2))], -1)
        angle = torch.atan2(weight[:, 1], weight[:, 0])
        turn = axis_angle_to_matrix(torch.nn.functional.pad(angle[:, None], (2, 0)))
        base = axis_angle_to_matrix(torch.tensor([[0.3, -1.2, 0.5]]))
        pose = axis_angle_to_matrix(0.2 * torch.sin(torch.arange(45.0)).view(1, 15, 3)).expand(batch, 15, 3, 3)
        betas = torch.linspace(-1, 1, 10).expand(batch, 10)
        shift = (turn[:, :2, :2] @ torch.tensor([[0.2], [-0.1]])).squeeze(-1)
        camera = torch.cat([torch.ones(batch, 1), shift], 1)
        hand = self.hand_model(turn @ base, pose, betas)
        translation = camera_translation(camera, intrinsics, size) - hand.joints[:, 0]
        joints = hand.joints + translation[:, None]
        return {
            "vertices": hand.vertices + translation[:, None],
            "joints": joints,
            "keypoints_2d": project(joints, intrinsics),
            "global_orient": turn @ base,
            "hand_pose": pose,
            "betas": betas,
            "translation": translation,
            "score_logits": self.right(pixel_values),
        }


def stub_model(**kwargs: Any) -> Any:
    """`HandMIM` around a `StubNetwork`, looking in the whole picture."""
    from handmim import HandMeshPipeline, HandMIM, HandMIMImageProcessor

    detector = kwargs.pop("detector", "whole-image")
    network = StubNetwork(**kwargs)
    processor = HandMIMImageProcessor(size=64)
    return HandMIM(HandMeshPipeline(model=network, image_processor=processor, device="cpu", detector=detector))


def ramp(width: int = 160, height: int = 120) -> np.ndarray:
    """A picture whose red grows to the right, green downwards."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([x, y, np.full_like(x, 90)], -1).astype(np.uint8)
