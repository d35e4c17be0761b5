"""The command that draws what a backbone sees. Nothing heavy is imported before it runs."""

import argparse
from pathlib import Path
from typing import Any

from .command_line import BoxesAction, add_revision_option, complain, gather_images, one_sentence


def add_commands(commands: Any) -> None:
    """Add `handmim features` to the command line (the sub-parsers of `handmim`)."""
    features = commands.add_parser(
        "features",
        help="pictures of what a backbone sees",
        description="Writes NAME.0.features.png, ... for each image: the crop, the principal components of the patch "
        "tokens as colours, the class token's attention, and each head's.",
    )
    images = features.add_argument(
        "images", nargs="+", default=[], metavar="IMAGE", help="image files or folders of images"
    )
    images.required = False  # `--box` may have taken them
    features.add_argument("--model", required=True, metavar="M", help="Hub id or folder of any HandMIM checkpoint")
    add_revision_option(features)
    features.add_argument("--out", type=Path, default=Path("."), metavar="DIR", help="where to write (default: here)")
    features.add_argument(
        "--box", dest="boxes", nargs="+", action=BoxesAction, default=[], metavar="x0,y0,x1,y1",
        help="where the hands are, pixels (one image only; default: the whole picture)",
    )  # fmt: skip
    features.add_argument("--hand", choices=("left", "right"), default="right", help="left hands are mirrored")
    features.set_defaults(run=run_features, more_images=[], parser=features)


def run_features(args: argparse.Namespace) -> int:
    """`handmim features`: a picture of each hand; images that cannot be read are told and counted."""
    from .atomic_files import atomic_file
    from .commands import find_sources, hub_options, output_stems, quiet_loaders
    from .errors import HandMIMError, InputError
    from .features import extract_features, load_backbone

    quiet_loaders(args)
    gather_images(args)
    paths, failed = find_sources(args.images)
    if args.boxes and len(paths) > 1:
        raise InputError(f"--box is for one image, got {len(paths)}")
    backbone, processor = load_backbone(args.model, **hub_options(args.model, args.revision))
    args.out.mkdir(parents=True, exist_ok=True)
    for path, stem in zip(paths, output_stems(paths), strict=True):
        try:
            found = extract_features(backbone, processor, path, args.boxes or None, args.hand)
        except HandMIMError as error:
            complain(one_sentence(error))
            failed += 1
            continue
        for number, features in enumerate(found):
            with atomic_file(args.out / f"{stem}.{number}.features.png") as file:
                features.picture().save(file, "PNG")
    return 1 if failed else 0
