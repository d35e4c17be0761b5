"""The options of every run of a recipe, of `handmim` and of the modules that torchrun starts. Imports nothing heavy."""

import argparse
from pathlib import Path


def add_run_options(parser: argparse.ArgumentParser, debug: bool = True) -> None:
    """What every run of a recipe takes.

    Args:
        parser: Gets `recipe`, `out`, `roots` (see `roots_of`) and `settings`.
        debug: Also `--debug`, which `handmim` has itself.
    """
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a recipe in the package")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoints and the released model")
    parser.add_argument(
        "--data", dest="roots", action="append", type=_root, default=[], metavar="NAME=ROOT",
        help="where a data set of the recipe is; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY.PATH=VALUE",
        help="change a value of the recipe, e.g. training.max_steps=10; may be given several times",
    )  # fmt: skip
    if debug:
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _root(text: str) -> tuple[str, str]:
    name, separator, root = text.partition("=")
    if not (name and separator and root):
        raise argparse.ArgumentTypeError(f"expected NAME=ROOT, got {text!r}")
    return name, root


def roots_of(args: argparse.Namespace) -> dict[str, str]:
    """`--data` as a mapping; the last of a name counts."""
    return dict(args.roots)
