"""Figures of other methods beside a report's: MediaPipe, or the model without what a benchmark gives it.

`tests/benchmarks/real_photos.py` writes them; they count only on the very samples of a report, told by their checksum.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .model_card_weights import CardError

FORMAT = "handmim comparison 1"
MAX_BYTES = 5_000_000


def is_comparison(path: Path) -> bool:
    """Whether a file says that it is one."""
    return has_format(path, FORMAT)


def has_format(path: Path, name: str) -> bool:
    """Whether a JSON file says that it is of a format; what cannot be read is left to whoever reads reports."""
    try:
        content = json.loads(path.read_bytes()) if path.stat().st_size <= MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == name


def check_kinds(path: Path, content: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """Raises a CardError, which names the file, unless every entry is there and of its kind."""
    for name, kind in kinds.items():
        if not isinstance(content.get(name), kind):
            raise CardError(f"{path}: its {name!r} must be {kind.__name__}; write it with tests/benchmarks again")


def load_comparison(path: Path) -> dict[str, Any]:
    """Read a comparison.

    Raises:
        CardError: Something in it is missing or of another kind.
    """
    comparison = json.loads(path.read_bytes())
    check_kinds(path, comparison, {"benchmark": str, "data": dict, "methods": dict, "notes": list})
    for name, method in comparison["methods"].items():
        metrics = method.get("metrics") if isinstance(method, dict) else None
        if not isinstance(metrics, dict) or not all(map(is_number, metrics.values())):
            raise CardError(f"{path}: the metrics of {name!r} must be numbers; write it with tests/benchmarks again")
    return comparison


def belongs_to(comparison: Mapping[str, Any], report: Mapping[str, Any]) -> bool:
    """Whether both are about the same samples."""
    same = comparison["data"].get("checksum")
    return (
        comparison["benchmark"] == report["benchmark"] and same is not None and same == report["data"].get("checksum")
    )


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)
