"""Several reports side by side, with published rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from .published import published_rows
from .report import load, own_data, row_name, table, values


def compare(paths: Sequence[Path], published: bool = False) -> str:
    """Tables of reports, one a benchmark, as text.

    Args:
        paths: Reports.
        published: Whether the papers' rows are added, marked "published".

    Raises:
        DataError: A file is no report.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for report in map(load, paths):
        groups.setdefault(report["benchmark"], []).append(report)
    quoted = published_rows(groups) if published else {}
    return "\n\n".join(_benchmark(name, group, quoted.get(name)) for name, group in groups.items())


def draw(paths: Sequence[Path], picture: Path) -> None:
    """The curves of reports over each other.

    Args:
        paths: Reports.
        picture: PNG file to write; see `check_picture`.

    Raises:
        DataError: A file is no report.
        PlotError: There is no matplotlib.
        ValueError: No report has a curve.
    """
    from .curves import plot

    plot([load(path) for path in paths], picture)


def check_picture(picture: Path, paths: Sequence[Path]) -> None:
    """Raises a DataError for a picture that would be no PNG by its name, or would replace one of the reports."""
    if picture.suffix.lower() != ".png":
        raise DataError(f"--plot writes a PNG: its file must end in .png, got {picture}")
    if any(_same_file(picture, path) for path in paths):
        raise DataError(f"--plot {picture} is one of the reports and would be lost; give another file")


def _same_file(one: Path, other: Path) -> bool:
    """Also by two names, where capitals make no difference or a link leads there."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def _benchmark(name: str, reports: Sequence[Mapping[str, Any]], quoted: Sequence[Any] | None) -> str:
    rows: dict[str, dict[str, float]] = {}
    several = len({own_data(report) for report in reports}) > 1
    for report in reports:
        label = f"{row_name(report)} ({own_data(report)})" if several else row_name(report)
        rows[_unused(label, rows)] = values(report["metrics"])
    own = {measure for metrics in rows.values() for measure in metrics}
    for label, metrics in _baselines(reports).items():
        rows[_unused(label, rows)] = metrics
    lines = []
    if quoted:
        rows |= {_unused(row.name, rows): row.metrics for row in quoted}
        own &= {measure for row in quoted for measure in row.metrics}
        own = own or {measure for row in quoted for measure in row.metrics}
    elif quoted is not None:
        lines.append("(no published rows for this benchmark)")
    rows = {label: {k: v for k, v in metrics.items() if k in own} for label, metrics in rows.items()}
    samples = "; ".join(sorted(set(map(_samples, reports))))
    return "\n".join([f"{name} ({samples})", table(rows), *lines, *_warnings(reports)])


def _baselines(reports: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Baselines look at nothing: one row for all reports on the same samples, which it names where there are others."""
    found: dict[tuple[str, str, Any], dict[str, float]] = {}
    for report in reports:
        for label, metrics in report["baselines"].items():
            found.setdefault((label, _samples(report), str(report["data"].get("checksum"))), values(metrics))
    several = len(set(map(_samples, reports))) > 1
    rows: dict[str, dict[str, float]] = {}
    for (label, samples, _), metrics in found.items():
        rows[_unused(f"{label} ({samples})" if several else label, rows)] = metrics
    return rows


def _samples(report: Mapping[str, Any]) -> str:
    """On what a report is, in a few words."""
    return ", ".join(filter(None, [own_data(report), report["split"], f"{report['samples']} samples"]))


def _unused(name: str, rows: Mapping[str, Any]) -> str:
    number, label = 1, name
    while label in rows:
        number += 1
        label = f"{name} ({number})"
    return label


def _warnings(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why rows may not be comparable."""
    warnings = []
    if len(set(map(_samples, reports))) > 1:
        warnings.append("note: the reports are about different samples")
    elif any(_differ(reports, name) for name in ("checksum", "labels_checksum")):
        warnings.append("note: the labels of the reports differ (other files or another release)")
    for report in reports:
        warnings += [f"note: {row_name(report)}: {what} not measured, {why}" for what, why in report["omitted"].items()]
    return warnings


def _differ(reports: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a check sum of the data differs between the reports that have it."""
    return len({str(report["data"][name]) for report in reports if report["data"].get(name)}) > 1
