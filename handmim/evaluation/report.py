"""The report of one evaluation: figures, and everything needed to say where they are from and to get them again.

A report travels (to a model card, to a colleague), so it holds no path of the machine it was made on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic_files import atomic_file
from ..errors import DataError
from ..versions import package_version
from .measures import MEASURES, formatted, heading
from .scores import Curve, Scores

FORMAT = "handmim evaluation report 1"
MAX_REPORT_BYTES = 50_000_000
USER_FOLDERS = ("folder", "real-photos")  # benchmarks of whatever data the user has
PACKAGES = ("handmim", "torch", "transformers", "timm", "numpy", "pillow")
_FOLDER_OF_A_RUN = re.compile(r"release|checkpoint-\d+")
# What the papers' tables show comes first; the others follow in the order of `MEASURES`.
COLUMNS = tuple(MEASURES)
# Of the stacks of a cascade: the six columns of HIU-DMTL's table 3.
STACK_COLUMNS = ("map_auc_2d", "auc_2d", "map_mask_iou", "mask_iou", "pa_auc_joints", "pa_auc_vertices")


def build(
    *,
    benchmark: str,
    title: str,
    protocol: str,
    split: str,
    samples: int,
    scores: Scores,
    baselines: Mapping[str, Scores] | None = None,
    official: Mapping[str, float] | None = None,
    model: Mapping[str, Any] | None = None,
    submission: Mapping[str, Any] | None = None,
    data: Mapping[str, Any],
    options: Mapping[str, Any],
    notes: Sequence[str] = (),
    command: str = "",
    private: Iterable[str | Path] = (),
    stacks: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """A report, ready for JSON.

    Args:
        benchmark, title, protocol: What was measured, and by which rules (a sentence).
        split, samples: On what.
        scores: The figures.
        baselines: Other rows on the same samples.
        official: The figures of the official script, under its names and in its units.
        model: Which model (see `describe_model`); None for a submission.
        submission: Which file.
        data: Name of its folder, check sum of its labels.
        options: Test-time augmentation, training set, limit, ... of the run.
        notes: For people.
        command: What to type to get it again, without paths.
        private: Paths that may occur in notes, and are cut to their last part.
        stacks: Figures of each stack of a cascade; None: there is no cascade.

    Returns:
        The report, without any absolute path.
    """
    report = {
        "format": FORMAT,
        "benchmark": benchmark,
        "title": title,
        "protocol": protocol,
        "split": split,
        "samples": samples,
        "metrics": _metrics(scores.metrics),
        "official": dict(official or {}),
        "baselines": {name: _metrics(other.metrics) for name, other in (baselines or {}).items()},
        "groups": {name: _metrics(metrics) for name, metrics in scores.groups.items()},
        **({"stacks": {name: _metrics(metrics) for name, metrics in stacks.items()}} if stacks else {}),
        "omitted": dict(scores.omitted),
        "curves": {name: _curve(curve) for name, curve in scores.curves.items()},
        "notes": list(notes),
        "model": None if model is None else dict(model),
        "submission": None if submission is None else dict(submission),
        "data": dict(data),
        "options": dict(options),
        "versions": versions(),
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return without_paths(report, private)


def _metrics(metrics: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    names = sorted(metrics, key=lambda name: COLUMNS.index(name) if name in COLUMNS else len(COLUMNS))
    units = {name: MEASURES[name].unit if name in MEASURES else "" for name in names}
    return {name: {"value": metrics[name], "unit": units[name]} for name in names if math.isfinite(metrics[name])}


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "title": curve.title,
        "unit": curve.unit,
        "thresholds": [round(value, 6) for value in curve.thresholds],
        "values": [round(value, 6) for value in curve.values],
        "area": curve.area,
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that a figure may depend on."""
    found = {name: package_version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | {name: version for name, version in found.items() if version}


def without_paths(value: Any, private: Iterable[str | Path]) -> Any:
    """The same nested value, with paths in its strings cut to their last part."""
    paths = {str(path) for path in private} | {str(Path(path).resolve()) for path in private}
    paths = sorted((path for path in paths if len(path) > 1 and os.path.isabs(path)), key=len, reverse=True)

    def cut(item: Any) -> Any:
        if isinstance(item, str):
            for path in paths:
                item = item.replace(path, Path(path).name)
            return item
        if isinstance(item, Mapping):
            return {cut(key): cut(entry) for key, entry in item.items()}
        return [cut(entry) for entry in item] if isinstance(item, list | tuple) else item

    return cut(value)


# ---------------------------------------------------------------------------------------------------------------------
# Provenance


def describe_model(model: Any, processor: Any, name: str) -> dict[str, Any]:
    """Name, revision, configuration and check sum of a model.

    Args:
        model: The network.
        processor: Its image processor.
        name: As the user wrote it; of a folder what `public_name` keeps.
    """
    config = model.config.to_dict() if hasattr(model.config, "to_dict") else dict(vars(model.config))
    config = {key: value for key, value in sorted(config.items()) if not key.startswith("_")}
    return {
        "name": public_name(name),
        "revision": getattr(model.config, "_commit_hash", None),
        "hand_model": model.config.hand_model,
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "weights_checksum": weights_checksum(model),
        "config": json.loads(json.dumps(config, default=str)),
        "processor": {key: getattr(processor, key) for key in ("box_scale", "image_mean", "image_std")}
        | {"size": int(processor.size["height"])},
    }


def weights_checksum(model: Any) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of the state dict, in hexadecimal digits."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def training_set(model: Any, name: str | None) -> list[str] | None:
    """What a checkpoint says it was trained on: its configuration's `trained_on`, or `datasets` of its model card."""
    stated = getattr(model.config, "trained_on", None)
    if stated:
        return [stated] if isinstance(stated, str) else [str(item) for item in stated]
    if name is None:
        return None
    card = Path(name) / "README.md"
    if not card.is_file():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(name, "README.md")
        except HFValidationError:  # a folder without a card
            return None
        if not isinstance(cached, str):
            return None
        card = Path(cached)
    return _card_datasets(card)


def _card_datasets(card: Path) -> list[str] | None:
    from huggingface_hub import ModelCard

    try:
        data = ModelCard.load(card).data
        datasets = [data.datasets] if isinstance(data.datasets, str) else [str(item) for item in data.datasets or ()]
        # of data that the Hub has no id of, `model_card_metadata` makes tags
        tags = [str(tag).removeprefix("trained-on-") for tag in data.tags or () if str(tag).startswith("trained-on-")]
    except Exception:  # of a card that somebody wrote by hand anything can be wrong, and nothing depends on it
        return None
    return [*datasets, *tags] or None


def public_name(name: str) -> str:
    """A Hub id as it is; of a folder its last part, after that of the run where all runs have such a folder."""
    if not is_folder(name):
        return name
    folder = Path(name).resolve()
    own_name = not _FOLDER_OF_A_RUN.fullmatch(folder.name) or not folder.parent.name
    return folder.name if own_name else f"{folder.parent.name}/{folder.name}"


def is_folder(name: str) -> bool:
    """Whether a model's name is a path here rather than a Hub id."""
    return os.path.isabs(name) or Path(name).exists()


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# Files and tables


def save(report: Mapping[str, Any], path: Path) -> None:
    """Write a report; the file is complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(json.dumps(report, indent=1, allow_nan=False).encode())


def load(path: Path) -> dict[str, Any]:
    """Read a report.

    Raises:
        DataError: it is missing, too large, or no report; the message says what is wrong.
    """
    try:
        if path.stat().st_size > MAX_REPORT_BYTES:
            raise ValueError(f"it has more than {MAX_REPORT_BYTES} bytes")
        report = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; give reports that handmim evaluate wrote") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a report of handmim evaluate ({error})") from error
    kind = report.get("format") if isinstance(report, dict) else type(report).__name__
    if kind != FORMAT:
        raise DataError(f"{path} is not a report of handmim evaluate: its format is {kind!r}, not {FORMAT!r}")
    problem = _problem(report)
    if problem:
        raise DataError(f"{path} is not a report of handmim evaluate: {problem}")
    return report


def _problem(report: Mapping[str, Any]) -> str | None:
    """What is wrong with a report's structure, as far as tables and plots use it."""
    kinds = dict.fromkeys(("benchmark", "title", "protocol", "split"), str) | {"samples": int, "notes": list}
    kinds |= dict.fromkeys(("metrics", "curves", "data", "options", "baselines", "groups", "omitted"), dict)
    for name, kind in kinds.items():
        if not isinstance(report.get(name), kind):
            return f"its {name!r} is {type(report.get(name)).__name__}, not {kind.__name__}"
    for name in ("model", "submission"):
        if not isinstance(report.get(name), dict | None):
            return f"its {name!r} is {type(report[name]).__name__}, not dict"
    limit, trained_on = (report["options"].get(name) for name in ("limit", "trained_on"))
    if not isinstance(limit, int | None):
        return f"its limit is {type(limit).__name__}, not int"
    if trained_on is not None and not (isinstance(trained_on, list) and all(isinstance(x, str) for x in trained_on)):
        return f"its trained_on must be a list of names, got {trained_on!r:.80}"
    if not all(isinstance(row, dict) for part in ("baselines", "groups") for row in report[part].values()):
        return "a row of its metrics is no dict"
    for row in (report["metrics"], *report["baselines"].values(), *report["groups"].values()):
        for name, entry in row.items():
            if not isinstance(entry, dict) or not isinstance(entry.get("value"), int | float):
                return f"its metric {name!r} has no number"
    for name, entry in report["curves"].items():
        lists = [entry.get(key) for key in ("thresholds", "values")] if isinstance(entry, dict) else [None]
        if not all(isinstance(part, list) and part for part in lists) or len(lists[0]) != len(lists[1]):
            return f"its curve {name!r} has no thresholds and values of one length"
        if not all(isinstance(value, int | float) for part in lists for value in part):
            return f"its curve {name!r} holds something that is no number"
    return None


def row_name(report: Mapping[str, Any]) -> str:
    """What a report is about, in a few words, with the options that make it incomparable."""
    source = report.get("model") or report.get("submission") or {}
    name = str(source.get("name") or source.get("file") or "unknown")
    trained_on = report["options"].get("trained_on")
    found = [*marks(report), *(["trained on " + ", ".join(trained_on)] if trained_on else [])]
    return f"{name} [{'; '.join(found)}]" if found else name


def marks(report: Mapping[str, Any]) -> list[str]:
    """What makes a report's figures another thing than those of the plain run."""
    options = report["options"]
    found = ["TTA"] if options.get("tta") else []
    if options.get("image_size") is not None:
        found.append(f"{options['image_size']} px")
    if options.get("fit_steps") is not None:
        found.append(f"{options['fit_steps']} fit steps")
    return found + ([f"first {report['samples']} samples"] if options.get("limit") else [])


def own_data(report: Mapping[str, Any]) -> str | None:
    """Which of the user's own data sets a report is about, by its folder's name.

    None of official data sets, and where the name says no more than the benchmark's: of a folder "photos" or "real".
    """
    name = report["data"].get("root_name")
    if report["benchmark"] not in USER_FOLDERS or not name:
        return None
    words, said = (set(re.findall(r"[^\W_]+", text.lower())) for text in (str(name), report["benchmark"]))
    return None if words <= said else str(name)


def values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Name -> value of a report's metrics."""
    return {name: entry["value"] for name, entry in metrics.items()}


def table(rows: Mapping[str, Mapping[str, float]], columns: Sequence[str] | None = None) -> str:
    """Rows of figures as text, one column a measure that any row has; wide tables are turned on their side.

    Args:
        rows: Name -> (measure -> value).
        columns: Measures; None: all, in the order of `MEASURES`.
    """
    present = {name for metrics in rows.values() for name in metrics}
    columns = [name for name in columns or (*COLUMNS, *sorted(present - set(COLUMNS))) if name in present]
    cells = [["", *(heading(name) for name in columns)]]
    cells += [[row, *(formatted(name, metrics.get(name)) for name in columns)] for row, metrics in rows.items()]
    if len(rows) < 4 and len(columns) > 6:
        cells = [list(line) for line in zip(*cells, strict=True)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = []
    for line in cells:
        first, rest = line[0].ljust(widths[0]), zip(line[1:], widths[1:], strict=True)
        lines.append("  ".join([first, *(cell.rjust(width) for cell, width in rest)]).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def text(report: Mapping[str, Any]) -> str:
    """A report for people: what was measured, the table, parts of the data set, what was left out and why."""
    lines = [f"{report['title']}, {report['split']}: {report['samples']} samples", report["protocol"], ""]
    rows = {row_name(report): values(report["metrics"])}
    rows |= {name: values(metrics) for name, metrics in report["baselines"].items()}
    lines.append(table(rows))
    if report["groups"]:
        wanted = ("mean_2d", "pck_2d_10", "auc_2d", "pa_mpjpe", "mask_iou")
        parts = {f"{n} ({m['samples']['value']})": values(m) for n, m in report["groups"].items() if "samples" in m}
        lines += ["", table(parts, wanted)]
    if report.get("stacks"):
        rows = {f"stack {name}": values(metrics) for name, metrics in report["stacks"].items()}
        lines += ["", table(rows, STACK_COLUMNS)]
    lines += ["", *(f"not measured: {name}, {reason}" for name, reason in report["omitted"].items())]
    lines += [f"note: {note}" for note in report["notes"]]
    return "\n".join(lines).rstrip()


def save_samples(path: Path, ids: Sequence[str], per_sample: Mapping[str, np.ndarray]) -> None:
    """Write one line a sample (CSV): its name and its figures; empty where it has none."""
    import csv
    import io

    names = [name for name in COLUMNS if name in per_sample]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["sample", *names])
    for row, sample in enumerate(ids):
        figures = [per_sample[name][row] for name in names]
        writer.writerow([sample, *("" if np.isnan(figure) else f"{figure:.6g}" for figure in figures)])
    with atomic_file(path) as file:
        file.write(buffer.getvalue().encode())
