"""Draws the picture of a model card: synthetic hands, and what a checkpoint says of them.

    python conversion/draw_card_picture.py MODEL [--out model_cards/NAME.jpg] [--seed 99] [--indices 1 2 3]

Photographs would show more, but those that models are measured on may not be handed on. None of these pictures was
trained on. Those that are shown are a seed's first in which most of the hand can be seen. Of a hand there are the
picture, the overlay with a view from the side, and of a HIU-DMTL network its heat maps and part orientation fields. Of
a detector: rendered scenes with the boxes found, right hands green, left ones red, hands of either side blue.
"""

import argparse
import json
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from handmim import Hand, HandMIM
from handmim.atomic_files import atomic_file
from handmim.configuration_hand_detector import HandDetectorConfig
from handmim.hand_drawing import map_pictures
from handmim.open_detector import OpenHandDetector
from handmim.synthesis import generate
from handmim.training.datasets.hand_scenes import HandScenes

CARDS = Path(__file__).resolve().parents[1] / "model_cards"
SIZE, SHOWN = 192, 224  # px of a rendered picture, and of a panel
HANDS, COLUMNS, MAP_COLUMNS = 6, 2, 1  # of a mesh network's picture; columns of one with maps
SEEN = 0.6  # share of the joints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder, or the name of a checkpoint in the package")
    parser.add_argument("--out", type=Path, help="default: model_cards/NAME.jpg")
    parser.add_argument("--seed", type=int, default=99)
    parser.add_argument("--indices", type=int, nargs="+", help="of the pictures; default: the first well seen ones")
    args = parser.parse_args()
    out = args.out or CARDS / f"{Path(args.model).name}.jpg"
    if is_detector(Path(args.model)):
        save(detections(Path(args.model), args.seed), out)
        return
    batch = generate(args.seed, args.indices or well_seen(args.seed), size=SIZE, negatives=0.0)
    model = HandMIM.from_pretrained(args.model, detector="none")
    hands = []
    for pixels, intrinsics in zip(batch.images.numpy(), batch.intrinsics.numpy(), strict=True):
        (hand,) = model(pixels, boxes=[0, 0, SIZE - 1, SIZE - 1], handedness="right", intrinsics=intrinsics)
        hands.append(in_a_row([Image.fromarray(pixels), *pictures(hand)]))
    columns = COLUMNS if hand.heatmaps is None else MAP_COLUMNS
    rows = [in_a_row(hands[start : start + columns]) for start in range(0, len(hands), columns)]
    sheet = Image.new("RGB", (max(row.width for row in rows), SHOWN * len(rows)), "white")
    for number, row in enumerate(rows):
        sheet.paste(row, (0, SHOWN * number))
    save(sheet, out)


def save(picture: Image.Image, path: Path) -> None:
    """As JPEG, whole or not at all."""
    with atomic_file(path) as file:
        picture.save(file, "JPEG", quality=88)


def well_seen(seed: int) -> list[int]:
    """The first pictures of a seed in which most of the hand can be seen."""
    visible = generate(seed, range(8 * HANDS), size=SIZE, negatives=0.0).labels["visibility"].float().mean(1)
    return torch.nonzero(visible >= SEEN).flatten()[:HANDS].tolist()


def is_detector(folder: Path) -> bool:
    """Whether a folder holds a hand detector."""
    config = folder / "config.json"
    return config.is_file() and json.loads(config.read_text())["model_type"] == HandDetectorConfig.model_type


def detections(folder: Path, seed: int) -> Image.Image:
    """Two rows of rendered scenes, and what the detector finds in them."""
    detector, colours = OpenHandDetector(folder), {"right": "lime", "left": "red", None: "dodgerblue"}
    variety = {"base": "scene", "persons": 0.5}
    scenes = HandScenes(8, seed=seed, size=SIZE, grids=(1, 1, 0), variety=variety)
    rows: list[list[Image.Image]] = [[], []]
    for number, scene in enumerate(scenes.__getitems__(range(8))):
        pixels = ((scene["pixel_values"] + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        picture = Image.fromarray(pixels)
        for hand in detector.detect(pixels):
            ImageDraw.Draw(picture).rectangle(hand.box.tolist(), outline=colours[hand.handedness], width=2)
        rows[number // 4].append(picture)
    sheet = Image.new("RGB", (4 * SHOWN, 2 * SHOWN))
    for number, row in enumerate(rows):
        sheet.paste(in_a_row(row), (0, SHOWN * number))
    return sheet


def pictures(hand: Hand) -> list[Image.Image]:
    """What there is to see of a hand."""
    maps = [] if hand.heatmaps is None else map_pictures(hand, hand.image).values()
    return [hand.overlay(), *maps]


def in_a_row(panels: list[Image.Image]) -> Image.Image:
    """Pictures side by side, each as high as a panel."""
    scaled = [panel.resize((round(panel.width * SHOWN / panel.height), SHOWN)) for panel in panels]
    row = Image.new("RGB", (sum(panel.width for panel in scaled), SHOWN))
    left = 0
    for panel in scaled:
        row.paste(panel, (left, 0))
        left += panel.width
    return row


if __name__ == "__main__":
    main()
