"""Several reports side by side, with published rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .published import published_rows
from .report import load, row_name, table, values


def compare(paths: Sequence[Path], published: bool = False, plot: Path | None = None) -> str:
    """Tables of reports, one a benchmark, as text.

    Args:
        paths: Reports.
        published: Whether the papers' rows are added, marked "published".
        plot: Picture file for the curves, drawn over each other.

    Raises:
        DataError: A file is no report.
        PlotError: A plot is wanted without matplotlib.
    """
    reports = [load(path) for path in paths]
    groups: dict[str, list[dict[str, Any]]] = {}
    for report in reports:
        groups.setdefault(report["benchmark"], []).append(report)
    quoted = published_rows(groups) if published else {}
    parts = [_benchmark(name, group, quoted.get(name)) for name, group in groups.items()]
    if plot is not None:
        from .curves import plot as draw

        draw(reports, plot)
    return "\n\n".join(parts)


def _benchmark(name: str, reports: Sequence[Mapping[str, Any]], quoted: Sequence[Any] | None) -> str:
    rows: dict[str, dict[str, float]] = {}
    for report in reports:
        rows[_unused(row_name(report), rows)] = values(report["metrics"])
    own = {measure for metrics in rows.values() for measure in metrics}
    for report in reports:  # baselines look at nothing: the same for every report on the same samples
        for label, metrics in report["baselines"].items():
            rows.setdefault(label, values(metrics))
    lines = []
    if quoted:
        rows |= {_unused(row.name, rows): row.metrics for row in quoted}
        own &= {measure for row in quoted for measure in row.metrics}
        own = own or {measure for row in quoted for measure in row.metrics}
    elif quoted is not None:
        lines.append("(no published rows for this benchmark)")
    rows = {label: {k: v for k, v in metrics.items() if k in own} for label, metrics in rows.items()}
    splits = ", ".join(sorted({f"{report['split']}, {report['samples']} samples" for report in reports}))
    return "\n".join([f"{name} ({splits})", table(rows), *lines, *_warnings(reports)])


def _unused(name: str, rows: Mapping[str, Any]) -> str:
    number, label = 1, name
    while label in rows:
        number += 1
        label = f"{name} ({number})"
    return label


def _warnings(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why rows may not be comparable."""
    warnings = []
    if len({(report["split"], report["samples"]) for report in reports}) > 1:
        warnings.append("note: the reports are about different samples")
    elif any(_differ(reports, name) for name in ("checksum", "labels_checksum")):
        warnings.append("note: the labels of the reports differ (other files or another release)")
    for report in reports:
        warnings += [f"note: {row_name(report)}: {what} not measured, {why}" for what, why in report["omitted"].items()]
    return warnings


def _differ(reports: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a check sum of the data differs between the reports that have it."""
    return len({str(report["data"][name]) for report in reports if report["data"].get(name)}) > 1
