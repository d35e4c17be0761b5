"""What the commands of `handmim` share: options, how they are read, and the line on stderr when something fails.

Nothing heavy is imported here: these are the first lines that run.
"""

import argparse
import itertools
import os
import re
import sys
from typing import Any

# Where a traceback comes to the error itself: "handmim.errors.DataError: ", "ValueError: ".
_LAST_ERROR = re.compile(r"^(?:\w+\.)*\w+(?:Error|Exception|Interrupt|Exit): ", re.MULTILINE)


def add_estimate_options(parser: argparse.ArgumentParser) -> None:
    """`--tta`, `--image-size` and `--fit-steps`, beside every option that names a checkpoint to predict with."""
    parser.add_argument(
        "--tta", action="store_true", help="look at each hand three times, also turned (README); no masks and maps"
    )
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PX",
        help="side of the crops; fewer pixels are faster and coarser (default: as the checkpoint says)",
    )
    parser.add_argument(
        "--fit-steps",
        type=int,
        metavar="N",
        help="steps of the fit to heat maps; 0: none (default: as the checkpoint says)",
    )


def add_revision_option(parser: argparse.ArgumentParser) -> None:
    """`--revision`, beside every option that names a checkpoint on the Hub."""
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit hash of a model on the Hub (default: the newest)"
    )


class BoxesAction(argparse.Action):
    """Boxes up to the first word that is none: `--box 1,2,30,40 photo.jpg` names a box and an image."""

    def __call__(
        self, parser: argparse.ArgumentParser, args: argparse.Namespace, values: Any, option: Any = None
    ) -> None:
        boxes = list(itertools.takewhile(lambda text: "," in text and not os.path.exists(text), values))
        try:
            args.boxes = args.boxes + [parse_box(text) for text in boxes or values[:1]]
        except argparse.ArgumentTypeError as error:
            parser.error(f"argument {option}: {error}")
        args.more_images = args.more_images + values[len(boxes) :]


def gather_images(args: argparse.Namespace) -> None:
    """Add to the images of a command those that stood behind its boxes, see `BoxesAction`."""
    args.images = args.images + args.more_images
    if not args.images:
        args.parser.error("the following arguments are required: IMAGE")


def parse_box(text: str) -> list[float]:
    """'x0,y0,x1,y1' as four numbers."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 4:
        raise argparse.ArgumentTypeError(f"expected x0,y0,x1,y1, got {text!r}")
    return values


def positive(text: str) -> int:
    """A whole number above zero."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def complain(message: str) -> None:
    """One line on stderr."""
    print(f"handmim: error: {message}", file=sys.stderr)


def one_sentence(error: BaseException) -> str:
    """An error's message on one line; of one in a loader's worker what that said, without the trace before it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'output'}: {error.strerror}"
    message = str(error)
    if message.startswith("Caught ") and "worker process" in message.partition("\n")[0]:
        message = _LAST_ERROR.split(message)[-1]
    return " ".join(message.split()) or type(error).__name__
