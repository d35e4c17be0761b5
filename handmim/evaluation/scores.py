"""What measuring gives: figures, curves, and why something could not be measured. Needs numpy alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Curve:
    """A share of points (or samples) over a threshold.

    Attributes:
        title: What is counted.
        unit: Of the thresholds.
        thresholds, values: As long as each other; values in [0, 1].
        area: Under the curve, over the width of the range, in [0, 1]; by trapezoids unless given.
    """

    title: str
    unit: str
    thresholds: list[float]
    values: list[float]

    area: float = float("nan")

    def __post_init__(self) -> None:
        if np.isnan(self.area):
            x, y = np.array(self.thresholds), np.array(self.values)
            area = ((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0])
            object.__setattr__(self, "area", float(area))  # frozen, but not finished yet


@dataclass(eq=False)
class Scores:
    """Figures of one method on one data set.

    Attributes:
        metrics: Name (see `measures.MEASURES`) -> value.
        curves: Name -> curve.
        per_sample: Name -> (N,) one figure a sample, NaN where it has none.
        omitted: What could not be measured -> why.
        groups: Part of the data set -> its metrics.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    per_sample: dict[str, np.ndarray] = field(default_factory=dict)
    omitted: dict[str, str] = field(default_factory=dict)
    groups: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, other: Scores) -> None:
        """Take over the figures of `other`."""
        for name in ("metrics", "curves", "per_sample", "omitted", "groups"):
            getattr(self, name).update(getattr(other, name))
