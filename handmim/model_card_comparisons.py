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
    """Whether a file says that it is one; what cannot be read is left to whoever reads reports."""
    try:
        return path.stat().st_size <= MAX_BYTES and _format(json.loads(path.read_bytes())) == FORMAT
    except (OSError, ValueError, RecursionError):
        return False


def load_comparison(path: Path) -> dict[str, Any]:
    """Read a comparison.

    Raises:
        CardError: Something in it is missing or of another kind.
    """
    comparison = json.loads(path.read_bytes())
    kinds = {"benchmark": str, "data": dict, "methods": dict, "notes": list}
    for name, kind in kinds.items():
        if not isinstance(comparison.get(name), kind):
            raise CardError(f"{path}: its {name!r} must be {kind.__name__}; write it with tests/benchmarks again")
    for name, method in comparison["methods"].items():
        metrics = method.get("metrics") if isinstance(method, dict) else None
        if not isinstance(metrics, dict) or not all(map(_is_number, metrics.values())):
            raise CardError(f"{path}: the metrics of {name!r} must be numbers; write it with tests/benchmarks again")
    return comparison


def belongs_to(comparison: Mapping[str, Any], report: Mapping[str, Any]) -> bool:
    """Whether both are about the same samples."""
    same = comparison["data"].get("checksum")
    return (
        comparison["benchmark"] == report["benchmark"] and same is not None and same == report["data"].get("checksum")
    )


def _format(content: Any) -> Any:
    return content.get("format") if isinstance(content, dict) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
