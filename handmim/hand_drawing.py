"""Pictures of results: what `Hand.overlay` and `Hand.map_pictures` show."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from . import drawing, maps_drawing
from .errors import InputError
from .images import LoadedImage, load_image

if TYPE_CHECKING:
    from .hand import Hand

LAYERS = ("mesh", "mask", "skeleton")
# One colour a side in overlays, RGB in [0, 255].
SIDE_COLOURS = {"right": (236, 168, 136), "left": (140, 178, 232)}


def overlay(hands: "list[Hand]", image: Any, layers: str | Sequence[str] | None = None) -> Image.Image:
    """All hands of one picture drawn over it; with meshes, a view from the side beside it.

    Args:
        hands: Of this picture.
        image: Any kind that `images.load_image` reads.
        layers: Any of "mesh", "mask" (its outline) and "skeleton" (the keypoints of the heat maps, else the joints of
            the mesh), drawn in this order. None: the mesh, and all three of hands that have maps.

    Raises:
        ImageError: The picture cannot be read.
        InputError: There is no picture, no such layer, or no mask to be outlined.
    """
    chosen = _checked(hands, layers)
    loaded = load_picture(image)
    pixels = loaded.pixels
    if hands and "mesh" in chosen:
        meshes = [(hand.vertices, hand.faces, SIDE_COLOURS[hand.handedness]) for hand in hands]
        pixels = drawing.overlay(pixels, meshes, hands[0].intrinsics, side_view=True)
    height, width = loaded.pixels.shape[:2]
    photo, panel = pixels[:, :width], pixels[:, width:]
    for hand in hands:
        if "mask" in chosen and hand.mask is not None:
            photo = maps_drawing.draw_mask_outline(photo, hand.mask, hand.crop_box)
        if "skeleton" in chosen:
            seen = hand.keypoints_2d if hand.heatmap_keypoints is None else hand.heatmap_keypoints
            photo = drawing.draw_keypoints(photo, seen)
    return Image.fromarray(np.concatenate([photo, panel], 1))


def map_pictures(hand: "Hand", image: Any) -> dict[str, Image.Image]:
    """The large maps of a hand as pictures of its crop: "heatmaps" and "pof", as far as there are any.

    Raises:
        ImageError: The picture cannot be read.
        InputError: There is no picture.
    """
    pixels = load_picture(image).pixels
    pictures = {}
    if hand.heatmaps is not None:
        pictures["heatmaps"] = maps_drawing.heatmap_picture(pixels, hand.heatmaps, hand.crop_box)
    if hand.pof is not None:
        pictures["pof"] = maps_drawing.pof_picture(pixels, hand.pof, hand.crop_box)
    return {name: Image.fromarray(picture) for name, picture in pictures.items()}


def load_picture(image: Any) -> LoadedImage:
    """The picture of a hand, read.

    Raises:
        ImageError: It cannot be read (any more).
        InputError: There is none.
    """
    if image is None:
        raise InputError("the hand does not know its picture; pass one: hand.overlay(image)")
    return load_image(image)


def _checked(hands: "list[Hand]", layers: str | Sequence[str] | None) -> tuple[str, ...]:
    if layers is None:
        return LAYERS if any(hand.crop_box is not None for hand in hands) else ("mesh",)
    chosen = (layers,) if isinstance(layers, str) else tuple(layers)
    unknown = [layer for layer in chosen if layer not in LAYERS]
    if unknown:
        raise InputError(f"layers must be some of {', '.join(LAYERS)}, got {unknown[0]!r}")
    if "mask" in chosen and any(hand.mask is None for hand in hands):
        raise InputError("there is no mask to draw: that takes a HIU-DMTL checkpoint with the task 'mask', without tta")
    return chosen
