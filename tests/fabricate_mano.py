"""Fabricated hand models in MANO's file layout: random numbers of the right shapes, no MANO data.

`write_pickle` can name chumpy's classes without chumpy (as the published files do), in any protocol; a file without
chumpy names is read by smplx too.
"""

import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

PARENTS = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14]


def fabricate(num_vertices: int = 778, num_faces: int = 1538, seed: int = 0, side: str = "right") -> dict[str, Any]:
    """A MANO-layout dict with plausible sizes: joints laid out like a hand along -x, vertices scattered around them.

    The left hand is the right one mirrored, but for its shape directions, which have the published file's fault.
    """
    rng = np.random.default_rng(seed)
    joints = np.zeros((16, 3))
    spread = {1: 0.02, 4: 0.0, 7: -0.04, 10: -0.02, 13: 0.03}
    for root, z in spread.items():
        start = 0.03 if root == 13 else 0.09
        for k in range(3):
            # the palm looks along -y, and the thumb lies before it
            joints[root + k] = [-start - 0.03 * k, -0.005 * k - 0.02 * (root == 13), z * (1 + 0.3 * k)]
    owner = np.concatenate([np.arange(16), rng.integers(0, 16, num_vertices - 16)])
    template = joints[owner] + rng.normal(0, 0.006, (num_vertices, 3))
    weights = rng.dirichlet(np.full(16, 0.05), num_vertices) * 0.3
    weights[np.arange(num_vertices), owner] += 0.7
    regressor = np.zeros((16, num_vertices))
    for j in range(16):
        near = np.flatnonzero(owner == j)[:12]
        regressor[j, near] = rng.dirichlet(np.ones(len(near)))
    components, _ = np.linalg.qr(rng.normal(size=(45, 45)))
    model = {
        "v_template": template,
        "shapedirs": rng.normal(0, 0.002, (num_vertices, 3, 10)),
        "posedirs": rng.normal(0, 0.001, (num_vertices, 3, 135)),
        "J_regressor": scipy.sparse.csc_matrix(regressor),
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.array([PARENTS, range(16)], np.int64).astype(np.uint32),
        "f": rng.integers(0, num_vertices, (num_faces, 3)).astype(np.uint32),
        "hands_mean": rng.normal(0, 0.2, 45),
        "hands_components": components,
        "J": regressor @ template,
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }
    return mirrored(model) if side == "left" else model


def mirrored(model: dict[str, Any]) -> dict[str, Any]:
    """The left hand of a right one, with the shape directions left as they are: the published file's fault."""
    sign = np.array([-1.0, 1, 1])
    element = np.tile(np.outer(sign, sign).reshape(-1), 15)
    axis_angle = np.tile([1.0, -1, -1], 15)
    return {
        **model,
        "v_template": model["v_template"] * sign,
        "posedirs": model["posedirs"] * sign[:, None] * element,
        "f": model["f"][:, ::-1].copy(),
        "hands_mean": model["hands_mean"] * axis_angle,
        "hands_components": model["hands_components"] * axis_angle,
        "J": model["J"] * sign,
    }


def write_pickle(path: Path, model: dict[str, Any], chumpy: bool = False, protocol: int = 2) -> Path:
    """Writes the model as MANO_RIGHT.pkl is written; with `chumpy`, blend shapes become chumpy objects."""
    if not chumpy:
        path.write_bytes(pickle.dumps(model, protocol))
        return path
    with fake_chumpy() as (ch, select):
        model = dict(model)
        model["v_template"] = ch(x=model["v_template"])
        dirs = model["shapedirs"]
        wide = np.concatenate([dirs, dirs], -1)  # as Select of the first ten of more directions
        index = np.arange(wide.size).reshape(wide.shape)[..., :10]
        model["shapedirs"] = select(a=ch(x=wide), idxs=index.ravel(), preferred_shape=index.shape)
        model["posedirs"] = ch(x=model["posedirs"])
        path.write_bytes(pickle.dumps(model, protocol))
    return path


def write_npz(path: Path, model: dict[str, Any]) -> Path:
    """Writes the model as an .npz of plain arrays, which smplx reads as well."""
    dense = {k: v.toarray() if scipy.sparse.issparse(v) else v for k, v in model.items()}
    np.savez(path, **dense)
    return path


@contextmanager
def fake_chumpy() -> Iterator[tuple[type, type]]:
    """Classes that pickle under the names chumpy.ch.Ch and chumpy.reordering.Select, for as long as the block runs."""

    def init(self: Any, **fields: Any) -> None:
        self.__dict__.update(fields)

    names = {"chumpy": [], "chumpy.ch": ["Ch"], "chumpy.reordering": ["Select"]}
    before = {name: sys.modules.get(name) for name in names}
    classes = {}
    for name, members in names.items():
        module = types.ModuleType(name)
        for member in members:
            classes[member] = type(member, (), {"__init__": init, "__module__": name})
            setattr(module, member, classes[member])
        sys.modules[name] = module
    try:
        yield classes["Ch"], classes["Select"]
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
