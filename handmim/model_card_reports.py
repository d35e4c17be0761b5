"""What a card says about evaluation reports: their names, and figures as Markdown tables."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .evaluation.measures import MEASURES, formatted, heading
from .evaluation.report import marks, own_data

# More columns than this do not fit a page: measures are rows then.
MAX_COLUMNS = 8
GROUP_MEASURES = ("mean_2d", "pck_2d_10", "auc_2d", "pa_mpjpe", "pa_mpvpe", "mask_iou")
ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}
_UNFIT = re.compile(r"[^a-z0-9.]+")


def report_name(report: Mapping[str, Any]) -> str:
    """The file name, beside its card, of a report, a comparison with other methods, or figures of a detector."""
    if "min_score" in report:
        parts = [report["benchmark"], report["split"], "detection"]
    elif "methods" in report:
        parts = [report["benchmark"], "comparison"]
    else:
        parts = [report["benchmark"], own_data(report) or "", report["split"], *marks(report)]
    fit = [_UNFIT.sub("-", str(part).lower()).strip("-.") for part in parts]
    return ("-".join(filter(None, fit)) or "report") + ".json"


def report_bytes(report: Mapping[str, Any]) -> bytes:
    """A report, or a comparison, as it was written."""
    return json.dumps(report, indent=1, allow_nan=False).encode()


def checksum(report: Mapping[str, Any]) -> str:
    """The first twelve digits of the SHA-256 of a report's file."""
    return hashlib.sha256(report_bytes(report)).hexdigest()[:12]


def figures(rows: Mapping[str, Mapping[str, float]], samples: int) -> str:
    """A Markdown table of methods (rows) and measures (columns), turned if there are many measures.

    Args:
        rows: Name -> (measure -> value); the first is the checkpoint's, set in bold.
        samples: Of which `found` counts a part.
    """
    present = {name for row in rows.values() for name in row}
    columns = [name for name in MEASURES if name in present]
    lines = [["", *(label(name) for name in columns)]]
    for index, (name, row) in enumerate(rows.items()):
        title = f"**{cell(name)}**" if index == 0 else cell(name)
        lines.append([title, *(value(measure, row, samples) for measure in columns)])
    return table(transposed(lines) if len(columns) > MAX_COLUMNS else lines)


def groups(report: Mapping[str, Any]) -> str:
    """A Markdown table of the parts of a data set; "" if the report has none."""
    parts = {name: {key: entry["value"] for key, entry in part.items()} for name, part in report["groups"].items()}
    columns = [name for name in GROUP_MEASURES if any(name in part for part in parts.values())]
    if not columns:
        return ""
    lines = [["part", "hands", *(label(name) for name in columns)]]
    for name, part in parts.items():
        lines.append([cell(name), formatted("found", part.get("samples")), *(value(key, part, 0) for key in columns)])
    return table(lines)


def label(measure: str) -> str:
    """Name, unit and direction of a measure."""
    return heading(measure) + ARROWS[MEASURES[measure].better]


def value(measure: str, row: Mapping[str, float], samples: int) -> str:
    """One figure; of how many hands where it counts those that were found."""
    text = formatted(measure, row.get(measure))
    return f"{text} of {samples}" if measure == "found" and measure in row else text


def transposed(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rows as columns."""
    return [list(line) for line in zip(*lines, strict=True)]


def table(lines: Sequence[Sequence[str]]) -> str:
    """Markdown; the first line is the head."""
    head, *rest = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(lines[0]), *rest])


def cell(text: object) -> str:
    """A text from a file as plain words in Markdown, on one line: nothing in it is a link, a tag or a new cell."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", one_line(text))


def link_to(name: str) -> str:
    """A file beside the card as the target of a link."""
    return f"<{name}>" if re.search(r"[\s()]", name) else name


def one_line(text: object) -> str:
    """A text with single blanks for all white space, and without what cannot be printed or encoded."""
    line = " ".join(str(text).encode("utf-8", "replace").decode("utf-8").split())
    return "".join(character for character in line if character.isprintable())
