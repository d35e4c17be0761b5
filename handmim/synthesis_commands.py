"""`handmim synthesize`: its options here, what it does in `synthesis/series.py`.

Nothing heavy is imported before the command runs.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from .command_line import positive


def add_commands(commands: Any) -> None:
    """Add this package's command to the command line (the sub-parsers of `handmim`)."""
    synthesize = commands.add_parser(
        "synthesize",
        help="make labelled synthetic images",
        description="Writes pictures, masks and labels as a data set. A run that was stopped goes on where it was.",
    )
    synthesize.add_argument("count", type=positive, metavar="N", help="how many")
    synthesize.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    synthesize.add_argument("--size", type=positive, default=128, metavar="PX", help="side (default: 128)")
    synthesize.add_argument("--seed", type=int, default=0, help="of the series (default: 0)")
    synthesize.add_argument(
        "--start",
        type=int,
        default=0,
        metavar="I",
        help="index of the first image (default: 0); a further split of a folder begins behind the others",
    )
    synthesize.add_argument("--split", metavar="S", help="labels, train, val or test (default: the layout's first)")
    synthesize.add_argument(
        "--layout",
        choices=("folder", "freihand", "coco-wholebody"),
        default="folder",
        help="folder: the package's own, with all labels; the others for other people's training code: FreiHAND's with "
        "joints, cameras and masks of right hands, COCO-WholeBody's with keypoints of both sides (default: folder)",
    )
    synthesize.add_argument(
        "--betas",
        type=parse_betas,
        metavar="B0,...,B9",
        help="shape of all hands, as --betas=1,-2,... (default: random)",
    )
    synthesize.add_argument(
        "--variety",
        type=parse_variety,
        default="full",
        metavar="V",
        help="plain: one right hand held up before an ideal camera, in every picture; scene: as hands stand in whole "
        "photographs, for detectors; with changes of single parts as in recipes, "
        "'{base: full, things: 0.5}' (default: full)",
    )
    synthesize.set_defaults(run=run_synthesize)


def parse_betas(text: str) -> tuple[float, ...]:
    """'b0,...,b9' as ten numbers; further ones are 0."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not 1 <= len(values) <= 10:
        raise argparse.ArgumentTypeError(f"expected up to ten numbers b0,b1,..., got {text!r}")
    return (*values, *[0.0] * (10 - len(values)))


def parse_variety(text: str) -> str | dict[str, Any]:
    """A name, or parts in YAML as a recipe has them; what they mean is looked at where pictures are made."""
    import yaml

    try:
        variety = yaml.safe_load(text)
    except yaml.YAMLError:
        variety = None
    if not isinstance(variety, str | dict):
        raise argparse.ArgumentTypeError(f"expected a name or {{base: NAME, PART: VALUE, ...}}, got {text!r}")
    return variety


def run_synthesize(args: argparse.Namespace) -> int:
    """`handmim synthesize`."""
    from tqdm import tqdm

    from .synthesis.layouts import LAYOUTS
    from .synthesis.series import Series, write_series

    split = args.split or next(iter(LAYOUTS[args.layout].splits))
    names = ("count", "start", "seed", "size", "variety", "betas", "layout")
    series = Series(split, **{name: getattr(args, name) for name in names})
    args.out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=args.count, unit="image", file=sys.stderr, disable=None) as bar:
        fresh = write_series(args.out, series, bar.update)
    what = f"{args.count} images of the split {split}"
    print(f"wrote {what} to {args.out}" if fresh else f"{args.out} holds these {what} already")
    return 0
