"""PCK curves of reports as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..atomic_files import atomic_file
from ..errors import HandMIMError
from .report import row_name

# One hue a report, dark enough on white and told apart without colour by the line.
STYLES = [(colour, line) for line in ("-", "--", ":") for colour in
          ("#1f6fb4", "#d1495b", "#2e8b57", "#8a5a9e", "#c77f0a", "#4a4a4a")]  # fmt: skip


class PlotError(HandMIMError, ImportError):
    """Plots need matplotlib."""


def plot(reports: Sequence[Mapping[str, Any]], path: Path, dpi: int = 120) -> list[str]:
    """Draw the curves of one or several reports, one panel a kind of curve.

    Args:
        reports: Of one benchmark, or of several; a panel shows all reports that have its curve.
        path: PNG file to write; complete or not there.
        dpi: Resolution.

    Returns:
        Names of the curves drawn.

    Raises:
        PlotError: matplotlib is not installed.
        ValueError: No report has a curve.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError("plots need matplotlib: pip install handmim[eval]") from error
    names = list(dict.fromkeys((report["benchmark"], name) for report in reports for name in report["curves"]))
    if not names:
        raise ValueError("none of the reports has a curve to plot")
    several = len({benchmark for benchmark, _ in names}) > 1
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)  # the file format's own canvas: no display, no global state
    for number, (benchmark, name) in enumerate(names):
        axes = figure.add_subplot(rows, columns, number + 1)
        shown = [
            (STYLES[index % len(STYLES)], row_name(report), report["curves"][name])
            for index, report in enumerate(reports)  # a report keeps its colour in every panel
            if report["benchmark"] == benchmark and name in report["curves"]
        ]
        _panel(axes, shown)
        title = str(shown[0][2].get("title", name))
        axes.set_title(f"{benchmark}: {title}" if several else title, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(buffer.getvalue())
    return [name for _, name in names]


def _panel(axes: Any, curves: Sequence[tuple[tuple[str, str], str, Mapping[str, Any]]]) -> None:
    for (colour, line), label, curve in curves:
        area = curve.get("area")
        mark = f" ({area:.3f})" if isinstance(area, int | float) else ""
        axes.plot(curve["thresholds"], curve["values"], line, color=colour, linewidth=1.6, label=_short(label) + mark)
    first = curves[0][2]
    axes.set_xlim(first["thresholds"][0], first["thresholds"][-1])
    axes.set_ylim(0, 1)
    axes.set_xlabel(f"threshold, {first.get('unit', '')}", fontsize=9)
    axes.set_ylabel("share", fontsize=9)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7, title="area under the curve", title_fontsize=7, loc="best")


def _short(label: str, length: int = 44) -> str:
    return label if len(label) <= length else label[: length - 1] + "…"
