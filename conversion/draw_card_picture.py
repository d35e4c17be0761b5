"""Draws the picture of a model card: synthetic hands, and what a checkpoint says of them, one hand a row.

    python conversion/draw_card_picture.py MODEL [--out model_cards/NAME.jpg] [--seed 99] [--indices 1 2 3]

Photographs would show more, but those that models are measured on may not be handed on. None of these pictures was
trained on. A row is the picture, the overlay with a view from the side, and of a HIU-DMTL network its heat maps and
part orientation fields.
"""

import argparse
from pathlib import Path

from PIL import Image

from handmim import Hand, HandMIM
from handmim.atomic_files import atomic_file
from handmim.hand_drawing import map_pictures
from handmim.synthesis import generate

CARDS = Path(__file__).resolve().parents[1] / "model_cards"
SIZE, SHOWN = 192, 224  # px of a rendered picture, and of a panel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder, or the name of a checkpoint in the package")
    parser.add_argument("--out", type=Path, help="default: model_cards/NAME.jpg")
    parser.add_argument("--seed", type=int, default=99)
    parser.add_argument("--indices", type=int, nargs="+", default=[0, 1, 2], help="of the pictures")
    args = parser.parse_args()
    batch = generate(args.seed, args.indices, size=SIZE, negatives=0.0)
    model = HandMIM.from_pretrained(args.model, detector="none")
    rows = []
    for pixels, intrinsics in zip(batch.images.numpy(), batch.intrinsics.numpy(), strict=True):
        (hand,) = model(pixels, boxes=[0, 0, SIZE - 1, SIZE - 1], handedness="right", intrinsics=intrinsics)
        rows.append(in_a_row([Image.fromarray(pixels), *pictures(hand)]))
    sheet = Image.new("RGB", (max(row.width for row in rows), SHOWN * len(rows)), "white")
    for number, row in enumerate(rows):
        sheet.paste(row, (0, SHOWN * number))
    with atomic_file(args.out or CARDS / f"{Path(args.model).name}.jpg") as file:
        sheet.save(file, "JPEG", quality=88)


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
