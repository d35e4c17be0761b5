"""The commands of training and data sets: their options here, what they do in the modules they name.

Nothing heavy is imported before a command runs.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..command_line import positive
from .run_options import add_run_options, roots_of


def add_commands(commands: Any) -> None:
    """Add this package's commands to the command line (the sub-parsers of `handmim`)."""
    _add_runs(commands)
    _add_check_data(commands)
    _add_data(commands)
    _add_crops(commands)


# ---------------------------------------------------------------------------------------------------------------------
# pretrain, finetune and train-detector


def _add_runs(commands: Any) -> None:
    _add_run(
        commands,
        "pretrain",
        run_pretrain,
        module="pretraining",
        summary="train a backbone on pictures without labels, as a recipe says",
        released="the backbone that fine-tuning starts from",
    )
    _add_run(
        commands,
        "finetune",
        run_finetune,
        module="finetuning",
        summary="train a mesh model as a recipe says",
        released="the released model",
    )
    _add_run(
        commands,
        "train-detector",
        run_train_detector,
        module="detector",
        summary="train what finds hands in photos, as a recipe says",
        released="the released detector",
    )


def _add_run(commands: Any, name: str, run: Callable, *, module: str, summary: str, released: str) -> None:
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"Trains, or goes on where an interrupted run stopped; {released} is in DIR/release. On several "
        f"GPUs: torchrun --nproc-per-node N -m handmim.training.{module} RECIPE --out DIR ...",
    )
    add_run_options(parser, debug=False)
    parser.set_defaults(run=run)


def run_pretrain(args: argparse.Namespace) -> int:
    """`handmim pretrain`."""
    from ..commands import hide_loaders_bars
    from .pretraining import prepare_recipe, pretrain

    hide_loaders_bars(args)
    pretrain(prepare_recipe(args.recipe, roots_of(args), args.settings), args.out)
    print(f"wrote the pre-trained backbone to {args.out / 'release'}")
    return 0


def run_finetune(args: argparse.Namespace) -> int:
    """`handmim finetune`."""
    from .. import register
    from ..commands import hide_loaders_bars
    from .finetuning import finetune, prepare_recipe

    hide_loaders_bars(args)
    register()  # for the image processor of the checkpoint that a recipe may start from
    finetune(prepare_recipe(args.recipe, roots_of(args), args.settings), args.out)
    print(f"wrote the trained model to {args.out / 'release'}")
    return 0


def run_train_detector(args: argparse.Namespace) -> int:
    """`handmim train-detector`."""
    from ..commands import hide_loaders_bars
    from .detector import prepare_recipe, train_detector

    hide_loaders_bars(args)
    train_detector(prepare_recipe(args.recipe, roots_of(args), args.settings), args.out)
    print(f"wrote the trained detector to {args.out / 'release'}")
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# check-data and data


def _add_check_data(commands: Any) -> None:
    check = commands.add_parser(
        "check-data",
        help="find what is wrong with labels before training",
        description="Tests all labels of a folder of pictures with labels.jsonl (or of a data set, --dataset), and "
        "names every fault by line (or sample) and field. Exit code 1 if there are errors; warnings can be right.",
    )
    check.add_argument("path", type=Path, metavar="PATH", help="the folder")
    check.add_argument("--split", metavar="S", help="label file without .jsonl, or split (default: labels, the first)")
    check.add_argument("--images", action="store_true", help="also decode every picture and mask")
    check.add_argument("--dataset", default="folder", metavar="NAME", help="see handmim data list (default: folder)")
    check.add_argument("--hand-model-path", type=Path, metavar="P", help="MANO file or folder, where labels need it")
    check.set_defaults(run=run_check_data)


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="the data sets that can be read").add_subparsers(metavar="ACTION")
    data.required = True
    data.add_parser("list", help="names and homepages").set_defaults(run=run_data_list)
    info = data.add_parser(
        "info",
        help="what of a data set is there and what is missing",
        description="Exit code 1 if the split cannot be read; without --split, if anything that one needs is missing.",
    )
    info.add_argument("name", metavar="NAME", help="see handmim data list")
    info.add_argument("root", type=Path, metavar="ROOT", help="folder of the official layout")
    info.add_argument("--split", metavar="S", help="only this one (default: all)")
    info.add_argument("--sheet", type=Path, metavar="OUT.png", help="draw samples with their labels")
    info.add_argument("--hand-model-path", type=Path, metavar="P", help="MANO file or folder, where labels need it")
    info.set_defaults(run=run_data_info)


def run_check_data(args: argparse.Namespace) -> int:
    """`handmim check-data`."""
    from .datasets.data_commands import check_data

    return check_data(args)


def run_data_list(args: argparse.Namespace) -> int:
    """`handmim data list`."""
    from .datasets.data_commands import data_list

    return data_list()


def run_data_info(args: argparse.Namespace) -> int:
    """`handmim data info`."""
    from .datasets.data_commands import data_info

    return data_info(args)


# ---------------------------------------------------------------------------------------------------------------------
# crops


def _add_crops(commands: Any) -> None:
    crops = commands.add_parser(
        "crops",
        help="cut hands out of photos, for pre-training",
        description="Writes square crops, manifest.jsonl (one line a crop) and sources.jsonl (one line a photo). Run "
        "again with the same options and boxes, it skips the photos that are done, but for unreadable ones. Exit code "
        "1 if the folder holds no crop in the end, 143 if SIGTERM stopped the run.",
    )
    crops.add_argument(
        "photos",
        nargs="+",
        metavar="PHOTOS",
        help="photos, or folders with photos anywhere below; folders of crops are left out",
    )
    crops.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    crops.add_argument("--detector", default="auto", help="what finds the hands (default: auto; see handmim info)")
    crops.add_argument(
        "--boxes", type=Path, metavar="FILE",
        help='where the hands are, in place of a detector: lines {"source": NAME, "box": [x0, y0, x1, y1], "side": '
        '"left"} with names as in sources.jsonl',
    )  # fmt: skip
    crops.add_argument("--size", type=positive, default=256, metavar="PX", help="largest side (default: 256)")
    crops.add_argument(
        "--box-scale", type=float, default=1.5, metavar="X", help="side of a crop over that of the hand (default: 1.5)"
    )
    crops.add_argument(
        "--min-side", type=positive, default=32, metavar="PX", help="leave smaller hands out (default: 32)"
    )
    crops.set_defaults(run=run_crops)


def run_crops(args: argparse.Namespace) -> int:
    """`handmim crops`."""
    from ..commands import quiet_loaders
    from .crops import run_crops

    quiet_loaders(args)
    return run_crops(args)
