"""The `handmim` command. Everything heavy is imported inside the commands, so that `handmim --help` answers at once.

That holds for the console script: there `import handmim` leaves the registration with transformers, and with it torch,
to the commands that load a model. `python -m handmim.cli` works as well, after the import of torch.

Exit codes: 0 all is well, 1 something failed (one sentence on stderr says what), 2 the command line was wrong.
"""

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from .command_line import (
    BoxesAction,
    add_estimate_options,
    add_revision_option,
    complain,
    gather_images,
    one_sentence,
    positive,
)
from .versions import package_version

FORMATS = ("glb", "obj", "ply")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None: those of the process.

    Returns:
        The exit code.
    """
    args = build_parser().parse_args(argv)
    from .errors import HandMIMError
    from .memory_allocator import keep_freed_memory

    keep_freed_memory()
    try:
        return args.run(args)
    except BrokenPipeError:  # the reader of our output has gone, as in `handmim ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except (HandMIMError, OSError, ValueError, ImportError) as error:
        if args.debug:
            raise
        complain(one_sentence(error))
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from .animation_commands import add_commands as add_animation
    from .conversion_commands import add_commands as add_conversion
    from .evaluation.commands import add_commands as add_evaluation
    from .exchange_commands import add_commands as add_exchange
    from .feature_commands import add_commands as add_features
    from .publish_commands import add_commands as add_publish
    from .synthesis_commands import add_commands as add_synthesis
    from .training.commands import add_commands as add_training

    parser = _Parser(prog="handmim", description="3D hand meshes from single pictures.")
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_predict(commands)
    _add_demo(commands)
    _add_mano(commands)
    add_synthesis(commands)
    add_training(commands)
    add_features(commands)
    add_evaluation(commands)
    add_conversion(commands)
    add_exchange(commands)
    add_animation(commands)
    add_publish(commands)
    info = commands.add_parser("info", help="versions, hand models, detectors, device")
    info.set_defaults(run=run_info)
    return parser


def _add_predict(commands: Any) -> None:
    predict = commands.add_parser(
        "predict",
        help="hand meshes of images",
        description="Writes NAME.json, NAME.overlay.png and NAME.0.glb, NAME.1.glb, ... for each image; with a "
        "HIU-DMTL checkpoint also NAME.0.mask.png, ...",
    )
    images = predict.add_argument(
        "images", nargs="+", default=[], metavar="IMAGE", help="image files, folders of images, or URLs"
    )
    images.required = False  # `--box` may have taken them; run_predict looks again
    predict.add_argument("--out", type=Path, default=Path("."), metavar="DIR", help="where to write (default: here)")
    predict.add_argument(
        "--box",
        dest="boxes",
        nargs="+",
        action=BoxesAction,
        default=[],
        metavar="x0,y0,x1,y1",
        help="where the hands are, pixels (one image only; default: found)",
    )
    predict.add_argument("--hand", choices=("left", "right", "auto"), default="auto", help="which hand (default: auto)")
    predict.add_argument("--format", choices=FORMATS, default="glb", help="of the meshes (default: glb)")
    predict.add_argument("--detector", default="auto", help="what finds the hands (default: auto; see handmim info)")
    predict.add_argument("--batch-size", type=positive, default=16, metavar="N", help="images at a time (default: 16)")
    predict.add_argument(
        "--maps", action="store_true", help="also draw NAME.0.heatmaps.png and NAME.0.pof.png (HIU-DMTL checkpoints)"
    )
    predict.add_argument(
        "--no-overlay", action="store_true", help="draw no NAME.overlay.png: most of the time of a large photo"
    )
    predict.add_argument("--json", action="store_true", help="also print one line of JSON for each image")
    _add_model_options(predict)
    predict.set_defaults(run=run_predict, more_images=[], parser=predict)


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser("demo", help="predict a synthetic hand and compare with the truth")
    demo.add_argument("--seed", type=int, default=5, help="which hand (default: 5, a clear one)")
    demo.add_argument("--out", type=Path, default=Path("."), metavar="DIR", help="where to write (default: here)")
    _add_model_options(demo)
    demo.set_defaults(run=run_demo)


def _add_mano(commands: Any) -> None:
    mano = commands.add_parser("mano", help="the licensed MANO hand model").add_subparsers(metavar="ACTION")
    mano.required = True
    install = mano.add_parser("install", help="check a MANO file and keep it for this user")
    install.add_argument("file", type=Path, metavar="FILE", help="MANO_RIGHT.pkl, MANO_LEFT.pkl or .npz")
    install.add_argument("--side", choices=("left", "right"), help="which hand it is (default: from the file's name)")
    install.set_defaults(run=run_mano_install)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="M",
        help="Hub id, folder, or a checkpoint in the package (default: handmim-tiny-open)",
    )
    add_revision_option(parser)
    parser.add_argument(
        "--hand-model-path", metavar="PATH", help="MANO_RIGHT.pkl or its folder, for models that need it"
    )
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    add_estimate_options(parser)


class _Parser(argparse.ArgumentParser):
    """Refuses options that it does not know itself, with its own usage: the program's lists no option of a command."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            near = difflib.get_close_matches(unknown[0].partition("=")[0], self._option_string_actions, 1, 0.6)
            hint = f"; did you mean {near[0]}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return namespace, unknown


class _Version(argparse.Action):
    """Looks the version up only when asked."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(f"handmim {package_version('handmim')}")
        parser.exit()


def run_predict(args: argparse.Namespace) -> int:
    """`handmim predict`."""
    gather_images(args)
    from .commands import predict

    return predict(args)


def run_demo(args: argparse.Namespace) -> int:
    """`handmim demo`."""
    from .commands import demo

    return demo(args)


def run_mano_install(args: argparse.Namespace) -> int:
    """`handmim mano install`."""
    from .mano_installation import install_mano

    print(f"installed {install_mano(args.file, args.side)}")
    return 0


def run_info(args: argparse.Namespace) -> int:
    """`handmim info`."""
    from .commands import info

    return info()


if __name__ == "__main__":
    sys.exit(main())
