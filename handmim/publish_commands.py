"""`handmim publish`: a checkpoint with its card, reports and code to the Hub.

Nothing heavy is imported before the command runs.
"""

import argparse
from pathlib import Path
from typing import Any

UNUSED = "-"


def add_commands(commands: Any) -> None:
    """Add this command to the command line (the sub-parsers of `handmim`)."""
    publish = commands.add_parser(
        "publish",
        help="a checkpoint with its model card to the Hub",
        description="Uploads weights, configurations, recipe, reports, a card made from them, and the code to load it "
        "without this package. Refused are hand-model arrays, pickles and paths of this machine. A card that the "
        "repository has stays on the weights it was made for, unless you say something new; one edited by hand goes "
        "only for a report or notes.",
    )
    publish.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="RUN/release, another checkpoint's folder, or handmim-tiny-open"
    )
    publish.add_argument("repo_id", metavar="REPO_ID", help="ORGANISATION/NAME on the Hub")
    publish.add_argument(
        "--report", action="append", default=[], type=Path, metavar="R.json", help="of handmim evaluate; repeatable"
    )
    publish.add_argument("--notes", type=Path, metavar="NOTES.md", help="sections for the card, such as '## limits'")
    publish.add_argument("--licence", "--license", metavar="SPDX", help="of the weights (default: the zoo's)")
    publish.add_argument("--base-model", metavar="ID", help="what training started from (default: the recipe's)")
    publish.add_argument("--dataset", action="append", metavar="NAME", help="repeatable (default: the recipe's)")
    publish.add_argument("--private", action="store_true", help="a new one; a public one is refused")
    publish.add_argument("--revision", metavar="BRANCH", help="made if it is not there (default: main)")
    publish.add_argument("--no-code", action="store_true", help="leave the Python files out: only for handmim's users")
    publish.add_argument(
        "--dry-run", nargs="?", const=UNUSED, metavar="DIR", help="show what would be uploaded; with DIR keep it there"
    )
    publish.set_defaults(run=run_publish)


def run_publish(args: argparse.Namespace) -> int:
    """`handmim publish`."""
    import tempfile

    from . import register
    from .publishing import check_source, find_checkpoint, left_out, publish

    register()
    checkpoint = find_checkpoint(args.checkpoint)
    check_source(checkpoint)
    stays = left_out(checkpoint)
    if stays:
        print(f"not published: {', '.join(stays)}")
    options = {
        "reports": args.report,
        "notes": args.notes,
        "licence": args.licence,
        "base_model": args.base_model,
        "datasets": args.dataset,
        "carry_code": not args.no_code,
    }
    if args.dry_run is None:
        where = {"private": args.private or None, "revision": args.revision}
        print(f"published {publish(checkpoint, args.repo_id, **options, **where)}")
        return 0
    with tempfile.TemporaryDirectory(prefix="handmim-dry-run-") as temporary:
        out = Path(temporary) / "repository" if args.dry_run == UNUSED else Path(args.dry_run)
        publish(checkpoint, args.repo_id, **options, revision=args.revision, dry_run=out)
        print(listing(out))
        kept = "" if args.dry_run == UNUSED else f"; the card is {out / 'README.md'}"
        print(f"nothing was uploaded to {args.repo_id}{kept}")
    return 0


def listing(folder: Path) -> str:
    """The files below a folder with their sizes, and the sum."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in files]
    lines = [f"{size:>12,}  {path.relative_to(folder).as_posix()}" for size, path in zip(sizes, files, strict=True)]
    return "\n".join([*lines, f"{sum(sizes):>12,}  in {len(files)} files"])
