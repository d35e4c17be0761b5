"""The files that `handmim predict` writes for a picture. Nothing heavy is imported before they are written."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic_files import atomic_file
from .errors import InputError
from .images import LoadedImage

if TYPE_CHECKING:
    from PIL import Image

    from .hand import Hand


def write_results(
    hands: "list[Hand]",
    image: LoadedImage,
    out: Path,
    stem: str,
    kind: str,
    model: str | None = None,
    drawn: bool = True,
) -> dict[str, Any]:
    """Write the files of one picture, each complete or not at all: meshes, overlay, JSON, and pictures of maps.

    Masks, heat maps and part orientation fields are drawn of hands that have them. Files of further hands that an
    earlier run found, or of pictures that this one does not draw, are removed, if the earlier JSON file lists them.

    Args:
        hands: Of this picture, in the order of their numbers.
        image: The picture.
        out: Folder, made if need be.
        stem: Of all names.
        kind: Of the meshes: "glb", "obj" or "ply".
        model: The checkpoint as the user named it.
        drawn: Whether to draw the overlay, which takes longer than the hands of a large picture.

    Returns:
        What the JSON file holds.

    Raises:
        InputError: The JSON file is there already and is none of an earlier run.
        OSError: The folder cannot be made or written to.
    """
    from PIL import Image

    from .hand_drawing import overlay

    out.mkdir(parents=True, exist_ok=True)
    earlier, overview = earlier_report(out / f"{stem}.json"), f"{stem}.overlay.png"
    stale = listed_files(earlier, stem) | ({overview} if earlier else set())
    meshes, masks, maps = [], [], []
    for number, hand in enumerate(hands):
        meshes.append(hand.export(out / f"{stem}.{number}.{kind}").name)
        if hand.mask is not None:
            masks.append(f"{stem}.{number}.mask.png")
            _write_png(out / masks[-1], Image.fromarray(hand.image_mask(image)).convert("L"))
        for name, picture in hand.map_pictures(image).items():
            maps.append(f"{stem}.{number}.{name}.png")
            _write_png(out / maps[-1], picture)
    if drawn:
        _write_png(out / overview, overlay(hands, image))
    width, height = image.size
    report = {
        "image": image.name,
        "width": width,
        "height": height,
        "model": model,
        "meshes": meshes,
        "masks": masks,
        "maps": maps,
        "hands": [hand.to_dict() for hand in hands],
    }
    with atomic_file(out / f"{stem}.json") as file:
        file.write(json.dumps(report).encode())
    for name in stale - {*meshes, *masks, *maps, *([overview] if drawn else [])}:
        (out / name).unlink(missing_ok=True)
    return report


def earlier_report(path: Path) -> dict[str, Any]:
    """What the JSON file of an earlier run holds; nothing where there is none.

    Raises:
        InputError: Something else is there: labels of the photo are often kept under this name.
    """
    try:
        report = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        report = None
    if not (isinstance(report, dict) and isinstance(report.get("hands"), list) and "meshes" in report):
        raise InputError(f"{path} is there and was not written by handmim predict: choose another folder with --out")
    return report


def listed_files(report: dict[str, Any], stem: str) -> set[str]:
    """Names that an earlier report lists, of such as a run writes: `<stem>.<number>.` and a mesh's ending, `mask.png`,
    `heatmaps.png` or `pof.png`."""
    from .hand import MESH_FORMATS

    found: set[str] = set()
    endings = {"meshes": "|".join(MESH_FORMATS), "masks": r"mask\.png", "maps": r"(heatmaps|pof)\.png"}
    for entry, ending in endings.items():
        names = report.get(entry)
        pattern = re.compile(rf"{re.escape(stem)}\.\d+\.({ending})", re.ASCII)
        names = names if isinstance(names, list) else []
        found |= {name for name in names if isinstance(name, str) and pattern.fullmatch(name)}
    return found


def _write_png(path: Path, picture: "Image.Image") -> None:
    with atomic_file(path) as file:
        picture.save(file, "PNG", compress_level=3)
