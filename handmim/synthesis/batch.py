"""What the generator gives: labelled pictures, and all hands that they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate

import torch
from torch import Tensor


@dataclass
class HandsShown:
    """Every hand of a batch of pictures, left ones and second ones too; R of them, picture by picture.

    Attributes:
        picture: (R,) int64, which picture shows it.
        boxes: (R, 4) float32 xyxy, crop pixels, around its 21 joints; may reach beyond the picture.
        left: (R,) bool.
        shown: (R,) float32, pixels of this hand, without its forearm, over the area of the box: about a third for an
            open hand that nothing hides. What an object or a grey border hides counts as shown.
    """

    picture: Tensor
    boxes: Tensor
    left: Tensor
    shown: Tensor


@dataclass
class SyntheticBatch:
    """Pictures with every label. Camera frame, metres; crop pixels with (0, 0) at the top-left pixel's centre.

    Attributes:
        images: (B, S, S, 3) uint8 RGB.
        intrinsics: (B, 3, 3) float32, px of the crop.
        labels: global_orient (B, 3, 3), hand_pose (B, 15, 3, 3), betas (B, 10), vertices (B, V, 3), joints (B, 21, 3),
            keypoints_2d (B, 21, 2), all NaN where no right hand is shown; hand (B,) 1.0 for a right hand, 0.0 for none
            or a left one; mask (B, S, S) bool, the visible pixels of the hand without its forearm (of a left hand,
            too); visibility (B, 21) bool, joints in the picture with nothing but their own flesh before them.
            Vertices are the hand model's. The picture shows those within 2 cm of the wrist where the bent forearm draws
            them: 4 in 100 of all vertices lie more than 2 mm elsewhere, some up to 26 mm.
        hands: all hands that are in the pictures, labelled above or not.
    """

    images: Tensor
    intrinsics: Tensor
    labels: dict[str, Tensor]
    hands: HandsShown

    @property
    def mask(self) -> Tensor:
        """(B, S, S) bool, see `labels`."""
        return self.labels["mask"]

    @property
    def visibility(self) -> Tensor:
        """(B, 21) bool, see `labels`."""
        return self.labels["visibility"]

    def to(self, device: torch.device | str) -> SyntheticBatch:
        """The batch on another device."""
        labels = {name: value.to(device) for name, value in self.labels.items()}
        hands = HandsShown(*(getattr(self.hands, field.name).to(device) for field in fields(HandsShown)))
        return SyntheticBatch(self.images.to(device), self.intrinsics.to(device), labels, hands)


def join(parts: Sequence[SyntheticBatch]) -> SyntheticBatch:
    """Batches one after the other."""
    labels = {name: torch.cat([part.labels[name] for part in parts]) for name in parts[0].labels}
    hands = HandsShown(*(torch.cat([getattr(part.hands, f.name) for part in parts]) for f in fields(HandsShown)))
    starts = accumulate((len(part.images) for part in parts[:-1]), initial=0)
    hands.picture = torch.cat([part.hands.picture + start for part, start in zip(parts, starts, strict=True)])
    images, intrinsics = (torch.cat([getattr(part, name) for part in parts]) for name in ("images", "intrinsics"))
    return SyntheticBatch(images, intrinsics, labels, hands)
