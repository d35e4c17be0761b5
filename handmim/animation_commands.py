"""`handmim animate`: the JSON files that `handmim predict` wrote for the frames of a film -> one animated `.glb`.

Nothing heavy is imported before the command runs.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    from .skinned_gltf import HandFrame

# Of one file: a hundred times what `handmim predict` writes for a hand.
MAX_BYTES = 2**25


def add_commands(commands: Any) -> None:
    """Add the command to the command line (the sub-parsers of `handmim`)."""
    animate = commands.add_parser(
        "animate",
        help="results of predict, a frame each, as one skinned, animated .glb",
        description="Writes a hand with skeleton, skin weights, shape and keyframes for Blender, three.js and others. "
        "The files are taken in natural order of their names (frame2 before frame10). A frame without the hand gets "
        "no keyframe: programs interpolate over its time.",
    )
    animate.add_argument(
        "results", nargs="+", type=Path, metavar="JSON", help="files that predict wrote, or folders of them"
    )
    animate.add_argument("--out", type=Path, required=True, metavar="FILE.glb", help="the file to write")
    animate.add_argument("--fps", type=_rate, default=30.0, metavar="N", help="frames a second (default: 30)")
    animate.add_argument(
        "--hand",
        type=_choice,
        default=0,
        metavar="H",
        help="which hand of each frame: its number, or left or right for the likeliest of that side (default: 0)",
    )
    animate.add_argument("--hand-model-path", metavar="PATH", help="MANO_RIGHT.pkl or its folder, for MANO hands")
    animate.add_argument(
        "--allow-licensed", action="store_true", help="write a MANO hand: the file then contains MANO itself"
    )
    animate.set_defaults(run=run_animate)


def run_animate(args: argparse.Namespace) -> int:
    """`handmim animate`."""
    files = find_results(args.results)
    hands = [read_hand(file, args.hand) for file in files]
    found = sum(hand is not None for hand in hands)
    if not found:
        side = args.hand if isinstance(args.hand, str) else f"number {args.hand}"
        raise InputError(f"none of the {len(files)} file(s) has a hand {side}")
    from .skinned_gltf import inexact_message, is_inexact, write_animation

    path, error = write_animation(
        hands, args.out, args.fps, allow_licensed=args.allow_licensed, hand_model_path=args.hand_model_path
    )
    missing = f", {len(files) - found} without the hand" if found < len(files) else ""
    size = path.stat().st_size / 1000
    print(f"wrote {path}: {len(files)} frame(s){missing}, {size:.0f} kB", file=sys.stderr)
    if is_inexact(error):
        print(f"warning: {inexact_message(error)}", file=sys.stderr)
    return 0


def find_results(paths: Sequence[Path]) -> list[Path]:
    """The files, and the .json files of the folders, in natural order.

    Raises:
        InputError: There is none.
    """
    from .skinned_gltf import MAX_FRAMES

    files = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = [file for file in path.glob("*.json") if not file.name.startswith(".")]
        if not inside:
            raise InputError(f"{path} holds no .json file; write some with handmim predict --out {path}")
        files += inside
    if len(files) > MAX_FRAMES:
        raise InputError(f"an animation may have {MAX_FRAMES} frames, got {len(files)} files; write it in parts")
    return sorted(files, key=natural_key)


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sorts names as people count: frame2 before frame10."""
    parts = re.split(r"([0-9]+)", path.with_suffix("").as_posix())
    # Digits of any length: compared by how many they are, then as text.
    return [(len(p.lstrip("0")), 0, p.lstrip("0")) if n % 2 else (0, 1, p) for n, p in enumerate(parts)]


def read_hand(path: Path, choice: int | str) -> "HandFrame | None":
    """The parameters of one hand of a file that `handmim predict` wrote; None if it has no such hand.

    Types, shapes and ranges of the numbers are checked when they are used.

    Args:
        path: The file.
        choice: Number of the hand; or its side, then of several the one with the highest score.

    Raises:
        InputError: Not such a file.
    """
    from .skinned_gltf import SHAPES, HandFrame

    hands = _hands(path)
    if isinstance(choice, str):
        hands = sorted((hand for hand in hands if hand.get("handedness") == choice), key=_score, reverse=True)
        choice = 0
    if choice >= len(hands):
        return None
    hand = hands[choice]
    missing = sorted({*SHAPES, "handedness", "hand_model"} - set(hand))
    if missing:
        raise InputError(f"{path}: the hand has no {missing[0]!r}; handmim predict writes it")
    values = {name: hand[name] for name in SHAPES}
    return HandFrame(**values, handedness=hand["handedness"], hand_model=hand["hand_model"], source=str(path))


def _hands(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path} is missing or not a file")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} has more than the {MAX_BYTES} bytes that are read of a result")
    try:
        hands = json.loads(data)["hands"]
        sound = isinstance(hands, list) and all(isinstance(hand, dict) for hand in hands)
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise InputError(f"{path} is no result of handmim predict: it must be JSON with a list 'hands'")
    return hands


def _score(hand: dict[str, Any]) -> float:
    score = hand.get("score")
    number = isinstance(score, (int, float)) and not isinstance(score, bool)
    return score if number and abs(score) < math.inf else -1.0  # whole numbers may be too large for a float


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0.001 <= rate <= 10_000:
        raise argparse.ArgumentTypeError(f"expected frames a second from 0.001 to 10000, got {text!r}")
    return rate


def _choice(text: str) -> int | str:
    if text in ("left", "right"):
        return text
    if not (text.isascii() and text.isdecimal() and len(text) < 7):
        raise argparse.ArgumentTypeError(f"expected a number from 0 up, left or right, got {text!r}")
    return int(text)
