"""What must not be lost where an evaluation writes: a report that is there already and is about something else, and
the figures, when there is no place for them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from . import report as reports

REPORT = "report.json"


@dataclass(frozen=True, eq=False)
class Measured:
    """What is about to be measured, as far as it tells two reports apart.

    Attributes:
        benchmark, split: As in reports.
        kind: "model" or "submission".
        root_name: Of the data's folder.
        limit: Only so many of the first samples; None: all.
        samples: How many these are.
        checksum_entry: Under which name a report of this kind keeps the check sum of its labels.
        checksum: Of the labels that an evaluation with this limit takes.
    """

    benchmark: str
    split: str
    kind: str
    root_name: str
    limit: int | None
    samples: int
    checksum_entry: str
    checksum: Callable[[int | None], str]


def check_places(out: Path | None, extra: Path | None) -> None:
    """Raises a DataError, before anything is measured, if a report could not be written at the end.

    Args:
        out: `--out`, the folder of all files; None: there is none.
        extra: `--report`, another place of the report; None: there is none.
    """
    for option, path in (("--out", None if out is None else out / REPORT), ("--report", extra)):
        problem = None if path is None else _why_not_writable(path)
        if problem:
            raise DataError(f"{option}: {path} cannot be written: {problem}; name another place")


def _why_not_writable(path: Path) -> str | None:
    """What is in the way of a file; None if nothing is, as far as can be told without writing."""
    try:
        if path.exists() and not path.is_file():
            return "it is a folder" if path.is_dir() else "it is a device or a pipe"
        folder = next(parent for parent in path.absolute().parents if parent.exists())
    except OSError as error:
        return error.strerror
    if not folder.is_dir():
        return f"{folder} is no folder"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"there is no permission to write in {folder}"


def refuse_other_report(out: Path | None, measured: Measured) -> None:
    """Stop before a folder's report is replaced by one that is about something else.

    Another model, or another submission, on the same labels is no reason: that is how a run is repeated.

    Args:
        out: The folder; None: nothing is written.
        measured: What is about to be written there.

    Raises:
        DataError: The folder holds such a report, or a report.json from elsewhere.
    """
    if out is None or not (out / REPORT).exists():
        return
    try:
        report = reports.load(out / REPORT)
    except DataError as error:
        raise DataError(f"{error}; move it away or give another --out") from error
    if (report["benchmark"], report["split"]) != (measured.benchmark, measured.split):
        raise DataError(_other_data(out, report))
    if _kind(report) != measured.kind:
        raise DataError(f"{out / REPORT} is about a {_kind(report)}, not a {measured.kind}{_LOST}")
    if not _same_labels(report, measured):
        raise DataError(_other_data(out, report))


_LOST = ", and would be lost; give another --out"


def _other_data(out: Path, report: Mapping[str, Any]) -> str:
    data = report["data"].get("root_name")
    what = f"{report['benchmark']}, split {report['split']!r}, of a folder {data!r}"
    return f"{out / REPORT} is about other data ({what}){_LOST}"


def _kind(report: Mapping[str, Any]) -> str:
    return "model" if report.get("submission") is None else "submission"


def _same_labels(report: Mapping[str, Any], measured: Measured) -> bool:
    """Whether a report is about the same labels, or about more or fewer of them by another --limit."""
    before, known = report["options"].get("limit"), report["data"].get(measured.checksum_entry)
    if known is not None:
        return known == measured.checksum(before)
    # Old reports have no check sum: of a plain repetition at least the folder and the number of samples are the same.
    same_number = before != measured.limit or report["samples"] == measured.samples
    return same_number and report["data"].get("root_name") == measured.root_name
