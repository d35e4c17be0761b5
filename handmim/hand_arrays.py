"""Recognises arrays of a hand model in tensors and numbers, whatever they are called and however they are laid out.

MANO's arrays are licensed and must not leave the machine; the open hand's are free, but weights that hold them were
saved wrongly. Three signs are looked at: the name, the shape, and the values compared with the hand models on this
machine.
"""

import itertools
import re
from functools import cache
from typing import Any

import numpy as np

from .hand_model import _empty_mano, _layer_tensors, _open_hand
from .mano_files import ManoFileError, ManoFileNotFoundError, load_mano
from .safe_pickle import UnsafeFileError

# What our layer, smplx and MANO's own files call them.
NAMES = re.compile(
    r"(^|[._])(hand_model|(?i:mano|smplx?|smplh))([._]|$)|v_template|shape_?dirs|pose_?dirs|blend_(base|dirs)"
    r"|(?i:j|joint)_regressor|skinning_(weights|by_joint)|lbs_weights|hands_(mean|components)|kintree_table|tip_vertices"
)
RUN = 24  # consecutive numbers that must agree
WINDOWS = 8  # places of an array whose runs are looked for, in each order of its dimensions
MIN_DISTINCT = 20  # in a run: constant stretches are everywhere
MIN_SIZE = 45
CHUNK = 1 << 22


@cache
def known_arrays() -> dict[str, np.ndarray]:
    """Arrays of the open hand and of the MANO files that are installed, with those our layer derives from them."""
    found = {"open": _open_hand("right")}
    for side in ("right", "left"):
        try:
            found[f"MANO {side}"] = load_mano(side)
        except (ManoFileNotFoundError, ManoFileError, UnsafeFileError):  # none, or none that is sound
            continue
    arrays = {}
    for kind, raw in found.items():
        layer = {name: value.numpy() for name, value in _layer_tensors(raw).items()}
        arrays |= {f"{kind} {name}": np.asarray(value) for name, value in (raw | layer).items()}
    return {name: value for name, value in arrays.items() if value.ndim and value.size >= MIN_SIZE}


@cache
def known_shapes() -> dict[tuple[int, ...], str]:
    """Shapes that only hand models have, dimensions sorted -> the array. MANO's also where it is not installed."""
    arrays = {f"MANO {name}": value for name, value in _empty_mano().items()}
    arrays |= {f"MANO {name}": value.numpy() for name, value in _layer_tensors(_empty_mano()).items()}
    counts = {len(value) for name, value in (arrays | known_arrays()).items() if name.endswith((" template", " faces"))}
    shapes = {}
    for name, value in (known_arrays() | arrays).items():
        if any(size in (count, 3 * count) for size in value.shape for count in counts):
            shapes.setdefault(tuple(sorted(value.shape)), name)
    return shapes


def hand_array_named(name: str) -> bool:
    """Whether a tensor's name is that of a hand model's array."""
    return NAMES.search(name) is not None


def hand_array_shaped(shape: tuple[int, ...]) -> str | None:
    """The hand model's array that has this shape, in any order of the dimensions."""
    return known_shapes().get(tuple(sorted(size for size in shape if size != 1)))


def hand_array_in(values: np.ndarray, tolerance: float = 0.0) -> str | None:
    """The hand model's array that numbers hold.

    Found are a whole array in any order, scaled or mirrored; and a quarter of one or more, consecutive in some order of
    its dimensions, among other numbers, in float32, float16 or bfloat16.

    Args:
        values: Any shape.
        tolerance: Relative error of the numbers; those of a text file were rounded.
    """
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    if flat.size < MIN_SIZE:
        return None
    return _same_numbers(flat) or _common_run(flat, tolerance)


def _same_numbers(flat: np.ndarray) -> str | None:
    same_size = [(name, spread) for name, spread in _spreads().items() if spread.size == flat.size]
    if not same_size:
        return None
    spread = _spread(flat)
    return next((name for name, other in same_size if np.allclose(spread, other, rtol=0, atol=2e-3)), None)


def _spread(flat: np.ndarray) -> np.ndarray:
    """Magnitudes in ascending order, the largest 1: the same after permutation, scaling and mirroring."""
    magnitude = np.sort(np.abs(flat.astype(np.float32)))
    return magnitude / max(float(magnitude[-1]), 1e-30)


@cache
def _spreads() -> dict[str, np.ndarray]:
    spreads = {name: _spread(value.reshape(-1)) for name, value in known_arrays().items()}
    return {name: spread for name, spread in spreads.items() if len(np.unique(spread)) >= MIN_DISTINCT}


@cache
def _runs() -> tuple[np.ndarray, list[str]]:
    """Runs (R, RUN) of all arrays, layouts and precisions, ascending by the first number; and their arrays' names."""
    rows: list[np.ndarray] = []
    names: list[str] = []
    for name, value in known_arrays().items():
        if value.dtype.kind != "f":  # indices: whole arrays only
            continue
        for order in itertools.permutations(range(value.ndim)):
            flat = np.ascontiguousarray(value.transpose(order), np.float32).reshape(-1)
            found = _windows(flat)
            for version in (found, found.astype(np.float16).astype(np.float32), _as_bfloat16(found)):
                rows.append(version)
                names += [name] * len(version)
    table = np.concatenate(rows)
    order = np.argsort(table[:, 0], kind="stable")
    return table[order], [names[index] for index in order]


def _windows(flat: np.ndarray) -> np.ndarray:
    """Up to `WINDOWS` runs (., RUN) of numbers that are mostly different and not zero, spread over an array."""
    if flat.size < RUN:
        return np.zeros((0, RUN), np.float32)
    starts = np.linspace(0, flat.size - RUN, 16 * WINDOWS).astype(int)
    runs = [flat[start : start + RUN] for start in dict.fromkeys(starts.tolist())]
    good = [run for run in runs if np.count_nonzero(run) == RUN and len(np.unique(run)) >= MIN_DISTINCT]
    return np.array(good[:: max(1, len(good) // WINDOWS)], np.float32).reshape(-1, RUN)


def _as_bfloat16(values: np.ndarray) -> np.ndarray:
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def _common_run(flat: np.ndarray, tolerance: float) -> str | None:
    runs, names = _runs()
    for start in range(0, max(flat.size - RUN + 1, 0), CHUNK):
        part = flat[start : start + CHUNK + RUN - 1]
        index = _matching_run(part, runs, tolerance)
        if index is not None:
            return names[index]
    return None


def _matching_run(part: np.ndarray, runs: np.ndarray, tolerance: float) -> int | None:
    """The first of the runs that stands somewhere in a piece of numbers."""
    heads = part[: part.size - RUN + 1]
    slack = np.abs(heads) * np.float32(tolerance)
    first = np.searchsorted(runs[:, 0], heads - slack, "left")
    places = np.flatnonzero(runs[np.minimum(first, len(runs) - 1), 0] <= heads + slack)
    counts = np.searchsorted(runs[:, 0], (heads + slack)[places], "right") - first[places]
    counts = np.maximum(counts, 0)  # numbers beyond the last run
    rows = np.repeat(first[places], counts) + _ramps(counts)
    places = np.repeat(places, counts)
    for step in range(1, RUN):
        wanted = runs[rows, step]
        # a hundredth: what came by way of bfloat16 has eight bits
        same = np.abs(part[places + step] - wanted) <= np.abs(wanted) * 0.01
        places, rows = places[same], rows[same]
    return int(rows[0]) if len(rows) else None


def _ramps(counts: np.ndarray) -> Any:
    """(2, 3) -> (0, 1, 0, 1, 2)."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
