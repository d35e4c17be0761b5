"""The commands of evaluation: their options here, what they do in the modules they name.

Nothing heavy is imported before a command runs.
"""

import argparse
from pathlib import Path
from typing import Any

from ..command_line import add_estimate_options, add_revision_option, positive


def add_commands(commands: Any) -> None:
    """Add this package's commands to the command line (the sub-parsers of `handmim`)."""
    _add_evaluate(commands)
    _add_compare(commands)


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="measure a model, or a submission file, on labelled data",
        description="Prints a table. With --model it writes report.json, curves.png, samples.csv and, for FreiHAND and "
        "HO3D, the official pred.json and pred.zip. A run that was stopped continues where it was.",
    )
    evaluate.add_argument("benchmark", metavar="BENCHMARK", help="freihand, ho3d-v2, ho3d-v3, rhd, real-photos, ...")
    source = evaluate.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="M", help="Hub id, folder, or a checkpoint in the package")
    source.add_argument("--pred", type=Path, metavar="FILE", help="a submission (pred.json) to FreiHAND or HO3D")
    add_revision_option(evaluate)
    evaluate.add_argument("--data", type=Path, required=True, metavar="ROOT", help="folder of the official layout")
    evaluate.add_argument("--split", metavar="S", help="of the data set (default: the one that papers report)")
    evaluate.add_argument("--report", type=Path, metavar="R.json", help="where to write the report (also)")
    evaluate.add_argument(
        "--out", type=Path, metavar="DIR",
        help="for all files (default: BENCHMARK-MODEL, of folder and real-photos BENCHMARK-ROOT-MODEL; of --pred none "
        "are written); a report that is there of other data is not replaced, nor a model's by a "
        "submission's or the reverse",
    )  # fmt: skip
    evaluate.add_argument("--trained-on", action="append", metavar="NAME", help="training set, for the report")
    evaluate.add_argument("--batch-size", type=positive, default=32, metavar="N", help="hands at a time (default: 32)")
    evaluate.add_argument("--workers", type=positive, default=4, metavar="N", help="threads that read (default: 4)")
    evaluate.add_argument("--limit", type=positive, metavar="N", help="only the first N samples; told in the report")
    add_estimate_options(evaluate)
    evaluate.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    evaluate.add_argument(
        "--hand-model-path", metavar="P", help="MANO_RIGHT.pkl or its folder, for models that need it"
    )
    evaluate.set_defaults(run=run_evaluate, parser=evaluate)


def _add_compare(commands: Any) -> None:
    compare = commands.add_parser("compare", help="reports of handmim evaluate side by side")
    compare.add_argument("reports", nargs="+", type=Path, metavar="REPORT", help="files that handmim evaluate wrote")
    compare.add_argument("--published", action="store_true", help="add the papers' figures, marked as published")
    compare.add_argument("--plot", type=Path, metavar="F.png", help="draw the curves over each other, a PNG")
    compare.set_defaults(run=run_compare)


def run_evaluate(args: argparse.Namespace) -> int:
    """`handmim evaluate`."""
    from .benchmarks import BENCHMARKS

    if args.benchmark not in BENCHMARKS:
        args.parser.error(f"BENCHMARK must be one of {', '.join(BENCHMARKS)}, got {args.benchmark!r}")
    if args.pred is not None and not BENCHMARKS[args.benchmark].official:
        official = ", ".join(name for name, chosen in BENCHMARKS.items() if chosen.official)
        args.parser.error(f"--pred scores submissions to {official}; {args.benchmark} has no submission format")
    given = {
        "--tta": args.tta,
        "--revision": args.revision is not None,
        "--image-size": args.image_size is not None,
        "--fit-steps": args.fit_steps is not None,
    }
    for option, asked in given.items():
        if args.pred is not None and asked:
            args.parser.error(f"{option} needs --model")
    from .runner import evaluate

    return evaluate(args)


def run_compare(args: argparse.Namespace) -> int:
    """`handmim compare`."""
    from .compare import check_picture, compare, draw

    if args.plot is not None:
        check_picture(args.plot, args.reports)
    print(compare(args.reports, args.published))
    if args.plot is not None:  # the tables are of use without a picture, too
        draw(args.reports, args.plot)
    return 0
