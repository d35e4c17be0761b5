"""`handmim exchange`: the JSON files of `handmim predict` as .npz files that hold HaMeR's or WiLoR-mini's results, and
back. Nothing heavy is imported before the command runs.
"""

import argparse
from pathlib import Path
from typing import Any


def add_commands(commands: Any) -> None:
    """Add `handmim exchange` to the command line (the sub-parsers of `handmim`)."""
    exchange = commands.add_parser(
        "exchange",
        help="results to and from what HaMeR and WiLoR hand out",
        description="From NAME.json of handmim predict to .npz and back. Other programs' .npz files are read if their "
        "arrays have the names of the network's results, nested ones joined by dots (pred_mano_params.hand_pose).",
    )
    exchange.add_argument("file", type=Path, metavar="FILE", help="NAME.json of handmim predict, or .npz")
    exchange.add_argument(
        "--to", choices=("hamer", "wilor", "handmim"), required=True, help="hamer, wilor (WiLoR-mini) or handmim"
    )
    exchange.add_argument("--out", type=Path, required=True, metavar="FILE", help=".npz, for handmim .json")
    exchange.add_argument(
        "--max-error", type=float, default=1.0, metavar="PX",
        help="how far off pixels may be where the camera does not look at the middle of the picture (default: 1)",
    )  # fmt: skip
    exchange.add_argument(
        "--image-size", type=float, nargs=2, metavar=("W", "H"), help="of the picture, where a .npz file lacks it"
    )
    exchange.add_argument(
        "--focal-length", type=float, metavar="PX", help="true one of the picture, in place of the networks' guess"
    )
    exchange.add_argument("--faces", type=Path, metavar="FILE.npy", help="of the right hand (default: the MANO file's)")
    exchange.set_defaults(run=run_exchange)


def run_exchange(args: argparse.Namespace) -> int:
    """`handmim exchange`."""
    from .exchange_files import read_hands, write_hands

    hands, size = read_hands(args.file, image_size=args.image_size, focal_length=args.focal_length, faces=args.faces)
    write_hands(args.out, hands, size, args.to, args.max_error)
    print(f"wrote {args.out}: {len(hands)} hand(s) for {args.to}")
    return 0
