r"""Cut photographed hands out of their backgrounds, so that training can show them before others.

    python conversion/cut_out_hands.py FOLDER [--split NAME]

reads the keypoints in FOLDER/NAME.jsonl (`handmim/training/datasets/folder.py`; `label_photos.py` guesses them), writes
a picture FOLDER/.foregrounds/... (hidden: what looks for photographs passes it over) for each hand that can be told
from what is behind it, white where hand and arm are, and names it as `foreground` in the lines of NAME.jsonl and its
parts (NAME-palm.jsonl, ...); other lines, and foregrounds from elsewhere, stay as they are. A recipe uses it by
`new_backgrounds`. For pictures of one hand each; hands that lack a keypoint are left out. Needs OpenCV, which MediaPipe
brings along, and neither torch nor handmim.

GrabCut (Rother et al., SIGGRAPH 2004) tells hand and arm from the rest by colour: what lies around the fingers' bones
and the palm is sure to be hand, what is far from them and from where the arm may be is sure to be background. A hand is
left out where nearly all of what could be hand was taken for it: then colours do not tell.
"""

import argparse
import json
import os
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

CHAINS = [[0, *range(first, first + 4)] for first in range(1, 21, 4)]
BONES = [pair for chain in CHAINS for pair in zip(chain[:-1], chain[1:], strict=True)]
BONES += [(1, 5), (5, 9), (9, 13), (13, 17)]
PALM = (0, 5, 9, 13, 17)  # in order around it
FOREGROUNDS = ".foregrounds"
SIDE = 256  # px, longer side of the picture in which the hand is cut out
ROUNDS = 4  # of GrabCut
# Widths over the length from wrist to middle knuckle: of what is surely a finger, may well be one, and may be.
SURE, NEAR, REACH = 0.08, 0.24, 0.55
FORESHORTENED = 0.45  # that length is at least this share of the hand's extent
FILLED = 0.8  # of what may be hand or arm: where more was taken for it, the background was, too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="labels", help="name of the file (default: labels)")
    args = parser.parse_args()
    print("{} of {} hands cut out".format(*cut_out_all(args.folder, args.split)))


def cut_out_all(folder: Path, split: str) -> tuple[int, int]:
    """Write the foregrounds of a split, then its lines and those of its parts; how many hands were cut out, of all."""
    files = [folder / f"{split}.jsonl", *sorted(folder.glob(f"{split}-*.jsonl"))]
    foregrounds: dict[str, str | None] = {}
    lines = read_lines(files[0])
    for line in lines:
        image = line["image"]
        found = cut_out(read_picture(folder, image), keypoints(line))
        foregrounds.setdefault(image, None)
        if found is not None:
            foregrounds[image] = f"{FOREGROUNDS}/{image}.png"
            target = folder / FOREGROUNDS / f"{image}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            buffer = BytesIO()
            found.save(buffer, "PNG")
            write(target, buffer.getvalue())
    for file in files:
        write(file, "".join(f"{json.dumps(named(line, foregrounds))}\n" for line in read_lines(file)).encode())
    return sum(name is not None for name in foregrounds.values()), len(lines)


def read_lines(file: Path) -> list[dict]:
    """The objects of a JSON lines file; blank lines are passed over."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_picture(folder: Path, image: str) -> Image.Image:
    """A picture below a folder, upright and RGB: keypoints are those of the picture as it is shown."""
    path = folder / image
    if ".." in Path(image).parts or not path.resolve().is_relative_to(folder.resolve()):
        raise SystemExit(f"{image!r} is not below {folder}")
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def keypoints(line: dict) -> np.ndarray | None:
    """(21, 2) pixels, or None if any is not labelled."""
    points = line.get("keypoints_2d")
    return None if points is None or None in points else np.array(points, float)


def named(line: dict, foregrounds: dict[str, str | None]) -> dict:
    """A line with its foreground, where one was made for its picture; an old one of ours is taken away."""
    ours = str(line.get("foreground") or FOREGROUNDS).startswith(FOREGROUNDS)
    if line["image"] not in foregrounds or not ours:
        return line
    line = {key: value for key, value in line.items() if key != "foreground"}
    name = foregrounds[line["image"]]
    return line if name is None else line | {"foreground": name}


def write(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def cut_out(picture: Image.Image, points: np.ndarray | None) -> Image.Image | None:
    """Where hand and arm are.

    Args:
        picture: RGB.
        points: (21, 2) keypoints, pixels; the centre of the first pixel is (0, 0). None: not all are known.

    Returns:
        A picture of one channel and the same size, 255 there and 0 elsewhere; None if they cannot be told from the
        background, or lie outside the picture.
    """
    if points is None:
        return None
    scale = SIDE / max(picture.size)
    small = picture.resize(tuple(max(1, round(scale * length)) for length in picture.size), Image.Resampling.BOX)
    sure, near, reach = regions((points + 0.5) * scale - 0.5, small.size)
    if reach.all() or not sure.any():
        return None
    found = told_apart(np.asarray(small), sure, near, reach)
    if found.sum() > FILLED * reach.sum():
        return None
    soft = Image.fromarray(found.astype(np.uint8) * 255).resize(picture.size, Image.Resampling.BILINEAR)
    return soft.point(lambda value: 255 if value > 127 else 0)


def regions(points: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three (H, W) bool: where the hand is, where it may well be, and where hand and arm may be; each in the next.

    Args:
        points: (21, 2) keypoints, pixels.
        size: (W, H).
    """
    wrist, knuckle = points[0], points[9]
    length = max(float(np.linalg.norm(knuckle - wrist)), FORESHORTENED * float(np.ptp(points, axis=0).max()))
    back = (wrist - knuckle) / max(float(np.linalg.norm(wrist - knuckle)), 1e-6)
    aside, far = np.array([-back[1], back[0]]), wrist + 2 * SIDE * back
    palm, forearm = points[list(PALM)], np.array([wrist, wrist + 0.5 * length * back])
    start, end = 0.5 * length * aside, SIDE * aside
    arm = np.array([wrist + start, far + end, far - end, wrist - start])  # widens away from the hand
    sure = painted(size, [*bones(points), forearm], SURE * length, palm)
    sure |= painted(size, [forearm], 0.25 * length)
    near = painted(size, bones(points), NEAR * length) | sure
    return sure, near, painted(size, bones(points), REACH * length, arm) | near


def bones(points: np.ndarray) -> list[np.ndarray]:
    """The skeleton's lines, each (2, 2), of keypoints (21, 2)."""
    return [points[list(pair)] for pair in BONES]


def painted(
    size: tuple[int, int], lines: list[np.ndarray], width: float, polygon: np.ndarray | None = None
) -> np.ndarray:
    """(H, W) bool: lines of a width in pixels, with round ends, and what a polygon (N, 2) encloses."""
    picture = Image.new("1", size)
    draw = ImageDraw.Draw(picture)
    for line in lines:
        draw.line([tuple(point) for point in line.tolist()], 1, max(1, round(width)))
        for x, y in line.tolist():
            draw.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], 1)
    if polygon is not None:
        draw.polygon([tuple(point) for point in polygon.tolist()], 1)
    return np.array(picture)


def told_apart(pixels: np.ndarray, sure: np.ndarray, near: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """(H, W) bool: hand and arm, by their colours.

    Args:
        pixels: (H, W, 3) uint8.
        sure, near, reach: See `regions`.
    """
    import cv2

    state = np.select([sure, near, reach], [cv2.GC_FGD, cv2.GC_PR_FGD, cv2.GC_PR_BGD], cv2.GC_BGD).astype(np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # else a hand's outline would depend on the hands before it
    cv2.grabCut(np.ascontiguousarray(pixels[..., ::-1]), state, None, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = np.isin(state, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    found = cv2.morphologyEx(found, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) | sure.astype(np.uint8)
    count, parts = cv2.connectedComponents(found)
    hand = max(range(1, count), key=lambda part: (sure & (parts == part)).sum())
    return parts == hand


if __name__ == "__main__":
    main()
