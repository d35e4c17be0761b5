"""What `handmim check-data`, `handmim data info` and `handmim data list` do; options stand in `training/commands`."""

from __future__ import annotations

import argparse
import inspect
from collections import Counter
from pathlib import Path
from typing import Any

from ...errors import DataError, HandMIMError
from .check import check_dataset, check_reader
from .registry import READERS, open_dataset, reader_class
from .sample import HandReader, Part

LOOKED_AT = 200  # samples whose labels are counted for `data info`


def check_data(args: argparse.Namespace) -> int:
    """Print all faults of a data set's labels; 1 if there is an error."""
    if args.dataset == "folder":
        report = check_dataset(args.path, args.split or "labels", args.images)
    else:
        options = _options(args, args.dataset)
        report = check_reader(open_dataset(args.dataset, args.path, args.split, **options), args.images)
    print("\n".join(report.lines()))
    return 0 if report.ok else 1


def data_list() -> int:
    """Print the data sets that can be read."""
    for name in sorted(READERS):
        reader = reader_class(name)
        print(f"{name:16}{reader.title} ({', '.join(reader.splits)})\n{'':16}{reader.homepage}")
    return 0


def data_info(args: argparse.Namespace) -> int:
    """Print what of a data set is there, what is missing and what its labels are.

    Returns:
        0 if the split that was asked for can be read; without one, if nothing that any split needs is missing.
    """
    reader = reader_class(args.name)
    if args.split is not None:
        reader.check_split(args.split)
    if not args.root.is_dir():
        raise DataError(f"{args.root} is not a folder; give the root of {reader.title}: {reader.homepage}")
    print(f"{reader.title} ({args.name}), {reader.homepage}")
    parts = reader.contents(args.root)
    for part in parts:
        print(f"  {_state(part):34} {part.path}: {part.purpose}")
    splits = [args.split] if args.split else reader.splits_in(args.root)
    readable = [split for split in splits if _describe(args, split) is not None]
    if args.sheet is not None and readable:
        from .contact_sheet import save_contact_sheet

        print(f"wrote {save_contact_sheet(_open(args, readable[0]), args.sheet)}")
    complete = bool(args.split) or not any(part.required and lacks(part) for part in parts)
    return 0 if readable and complete else 1


def lacks(part: Part) -> bool:
    """Whether a part is missing or has fewer files than the official release."""
    return part.found < (part.expected or 1)


def _state(part: Part) -> str:
    count = f"{part.found}" if part.expected is None else f"{part.found} of {part.expected}"
    if not lacks(part):
        return f"found {count}"
    word = "missing" if part.found == 0 else "incomplete"
    return f"{word.upper() if part.required else word} {count}" + ("" if part.required else " (optional)")


def _describe(args: argparse.Namespace, split: str) -> HandReader | None:
    """Print a split's samples, labels and notes; None if it cannot be read."""
    try:
        reader = _open(args, split)
        counts, looked = _labels(reader)
    except HandMIMError as error:
        print(f"split {split} cannot be read: {error}")
        return None
    shares = [name if count == looked else f"{name} ({count / looked:.0%})" for name, count in sorted(counts.items())]
    model = f", hand model {reader.hand_model}" if reader.hand_model else ""
    print(f"split {split}: {len(reader)} samples{model}; {', '.join(shares)}")
    for note in getattr(reader, "notes", ()):
        print(f"  note: {note}")
    return reader


def _labels(reader: HandReader) -> tuple[Counter[str], int]:
    """How many of some samples, evenly spread, have each label; and how many those are."""
    counts: Counter[str] = Counter()
    step = max(1, len(reader) // LOOKED_AT)
    indices = range(0, len(reader), step)
    for index in indices:
        sample = reader[index]
        counts.update(sample.labels.keys())
        for name in ("box", "intrinsics", "visibility", "handedness", "load_mask", "load_foreground"):
            if getattr(sample, name) is not None:
                counts[name.removeprefix("load_")] += 1
    return counts, len(indices)


def _open(args: argparse.Namespace, split: str) -> HandReader:
    return open_dataset(args.name, args.root, split, **_options(args, args.name))


def _options(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Of a reader by name; the hand model's file is for those whose labels need it."""
    path: Path | None = getattr(args, "hand_model_path", None)
    if path is None:
        return {}
    if "hand_model_path" not in inspect.signature(reader_class(name)).parameters:
        raise DataError(f"--hand-model-path is of no use for {name}, whose labels need no hand model; leave it out")
    return {"hand_model_path": path}
