"""The user's licensed MANO files: where they lie, and whether they are sound.

No MANO array is ever part of this package, of a checkpoint or of a test: every user registers and downloads the files.
The file travels to Hub repositories: it imports numpy, the standard library and flat siblings only.
"""

import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .errors import NPZ_ERRORS, HandMIMError
from .safe_pickle import ChumpyStandIn, SparseMatrix, UnsafeFileError, safe_pickle_load

MANO_URL = "https://mano.is.tue.mpg.de"
MAX_MANO_BYTES = 64 * 2**20  # the published files have 4 MB
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
# Fingertips of the published 778-vertex mesh as smplx numbers them: thumb, index, middle, ring, little.
TIP_VERTICES = (744, 320, 443, 554, 671)
DISTAL_JOINTS = (15, 3, 6, 12, 9)  # last joint of the same fingers
# A thumb that lies this far behind the palm, in lengths of the palm, is the other hand's. MANO's and the open hand's
# lie 0.18 and 0.26 before it.
CLEARLY_BEHIND = 0.05


class ManoFileNotFoundError(HandMIMError, FileNotFoundError):
    """No MANO file where the package looks for one; the message says how to get and install it."""


class ManoFileError(HandMIMError, ValueError):
    """A file that is not a MANO hand model: an array is missing, has another shape, or is not finite."""


# ---------------------------------------------------------------------------------------------------------------------
# Where the files lie


def cache_dir() -> Path:
    """The user's cache: `HANDMIM_CACHE`, else `XDG_CACHE_HOME`/handmim, else ~/.cache/handmim."""
    if os.environ.get("HANDMIM_CACHE"):
        return Path(os.environ["HANDMIM_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "handmim"


def installed_path(side: str) -> Path:
    """Where `install_mano` keeps the checked copy of a side's file."""
    return cache_dir() / "mano" / f"MANO_{side.upper()}.npz"


def find_mano(side: str, path: str | Path | None = None) -> Path:
    """The file to read: `path` (file or folder) alone if given, else `HANDMIM_MANO_DIR`, else the user's cache.

    Folders are searched for MANO_<SIDE>.npz and MANO_<SIDE>.pkl, directly and in a sub-folder `mano` (as smplx).
    For a file whose name says the other side, the one beside it of the wanted side is taken, if it is there.

    Raises:
        ManoFileNotFoundError: there is none; the message lists the places and says what to do.
    """
    if path is not None:
        places = [Path(path).expanduser()]
    else:
        folder = os.environ.get("HANDMIM_MANO_DIR")
        places = [Path(folder).expanduser()] if folder else []
        places.append(cache_dir())
    for place in places:
        if place.is_file():
            return place if side_in_name(place) in (side, None) else _beside(place, side) or place
        for folder in (place, place / "mano"):
            for ending in ("npz", "pkl"):
                file = folder / f"MANO_{side.upper()}.{ending}"
                if file.is_file():
                    return file
    raise ManoFileNotFoundError(
        f"The MANO model of the {side} hand was not found. Looked in: {', '.join(map(str, places))}.\n"
        f"MANO is licensed and cannot be shipped: register at {MANO_URL}, accept the licence, download "
        f"'Models & Code', unpack it, and type\n"
        f"    handmim mano install MANO_{side.upper()}.pkl\n"
        "or set HANDMIM_MANO_DIR to the folder that holds the file, or pass its path. "
        'HandModel(kind="open") and its checkpoints need no licensed file.'
    )


def side_in_name(file: Path) -> str | None:
    """The side that a file's name says; None where it says none or both."""
    sides = [side for side in ("right", "left") if side in file.stem.lower()]
    return sides[0] if len(sides) == 1 else None


def _beside(file: Path, side: str) -> Path | None:
    """The other hand's file in the folder of one: of the same name but for the side, and of either kind."""
    other = "left" if side == "right" else "right"
    for spelt in (str.upper, str.lower, str.capitalize):  # MANO_LEFT, mano_left, Left
        named = file.with_name(file.name.replace(spelt(other), spelt(side)))
        for candidate in (named, named.with_suffix(".pkl"), named.with_suffix(".npz")):
            if named.name != file.name and candidate.is_file():
                return candidate
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def load_mano(side: str, path: str | Path | None = None) -> dict[str, np.ndarray]:
    """Arrays of the MANO hand of one side, checked.

    Args:
        side: "right" or "left".
        path: file or folder; see `find_mano`.

    Returns:
        template (V, 3) m, shape_dirs (V, 3, 10), pose_dirs (V, 3, 135), joint_regressor (16, V),
        skinning_weights (V, 16), hands_mean (45,) rad, hands_components (45, 45): float32;
        faces (F, 3), tip_vertices (5,): int64. The left hand's shape-sign fault is corrected.

    Raises:
        ManoFileNotFoundError, UnsafeFileError
        ManoFileError: It is no hand model, or the other hand's.
    """
    return load_mano_file(side, find_mano(side, path))


def load_mano_file(side: str, file: Path) -> dict[str, np.ndarray]:
    """As `load_mano`, of exactly this file."""
    arrays = read_mano(file)
    _check_side(arrays, side, file)
    if side == "left" and not arrays.pop("corrected", False):
        arrays["shape_dirs"] = _corrected_left(arrays, _companion(file))
    arrays.pop("corrected", None)
    return arrays


def read_mano(file: str | Path) -> dict[str, Any]:
    """Arrays of a .pkl or .npz file in the official layout or in `install_mano`'s, as they stand in the file."""
    file = Path(file)
    if file.suffix == ".pkl":
        raw = safe_pickle_load(file, MAX_MANO_BYTES)
    elif file.suffix == ".npz":
        raw = _read_npz(file)
    else:
        raise ManoFileError(f"a MANO file must end in .pkl or .npz, got {file}")
    if not isinstance(raw, dict):
        raise ManoFileError(f"{file} must hold a dict of arrays, got {type(raw).__name__}")
    try:
        return _checked(raw)
    except (ManoFileError, UnsafeFileError) as error:
        raise ManoFileError(f"{file} is not a MANO hand model: {error}") from error


def _check_side(arrays: dict[str, Any], side: str, file: Path) -> None:
    """Raises ManoFileError if the template is clearly the other hand's, which would give mirrored hands."""
    depth = thumb_depth(arrays["template"], arrays["joint_regressor"])
    if (depth if side == "right" else -depth) < -CLEARLY_BEHIND:
        mirrored = "; the package mirrors it for left hands" if side == "right" else ""
        raise ManoFileError(
            f"{file} holds a {'left' if side == 'right' else 'right'} hand, and the {side} one is needed: give "
            f"MANO_{side.upper()}.pkl or its folder, or type handmim mano install MANO_{side.upper()}.pkl{mirrored}"
        )


def thumb_depth(template: np.ndarray, joint_regressor: np.ndarray) -> float:
    """How far the thumb lies before the palm, in lengths of the palm: above 0 for right hands, below 0 for left ones.

    The palm is the plane through the wrist and the roots of index and little finger. The cross product of the two
    fingers, from the wrist, points out of a right hand's palm and out of the back of a left one. 0 without a palm.

    Args:
        template: (V, 3). joint_regressor: (16, V), to MANO's skeleton.
    """
    wrist, index, middle, little = (joint_regressor @ template)[[0, 1, 4, 7]]
    thumb = (joint_regressor @ template)[13:16].mean(0)
    normal = np.cross(index - wrist, little - wrist)
    scale = np.linalg.norm(normal) * np.linalg.norm(middle - wrist)
    return float(normal @ (thumb - wrist) / scale) if scale > 0 else 0.0


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    """Arrays of an .npz file without pickles; sizes are checked before memory is asked for."""
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_MANO_BYTES:
                raise UnsafeFileError(f"{file} unpacks to more than {MAX_MANO_BYTES} bytes")
            for info in archive.infolist():
                with archive.open(info) as member:
                    _check_npy_header(member, info.file_size)
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{file}: {error}") from error
    except NPZ_ERRORS as error:
        raise UnsafeFileError(f"{file} is not an .npz of plain arrays: {error}") from error


def _check_npy_header(member: Any, size: int) -> None:
    """numpy allocates what a header claims before it reads: refuse claims that the member cannot hold."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    if dtype.hasobject:
        raise UnsafeFileError("it holds pickled objects; pass the .pkl file instead")
    if math.prod(shape) * dtype.itemsize != size - member.tell():
        raise UnsafeFileError(f"it claims an array of shape {shape}, which does not match its size")


def _checked(raw: dict[str, Any]) -> dict[str, Any]:
    """Official names -> this package's, after checks of shape, finiteness, range and kinematic tree."""
    template = _array(raw, "v_template", (None, 3))
    vertices = len(template)
    shape_dirs = _array(raw, "shapedirs", (vertices, 3, None))
    if shape_dirs.shape[2] < 10:
        raise ManoFileError(f"shapedirs must have 10 shape directions, got {shape_dirs.shape[2]}")
    arrays = {
        "template": template,
        "shape_dirs": np.ascontiguousarray(shape_dirs[..., :10]),
        "pose_dirs": _array(raw, "posedirs", (vertices, 3, 135)),
        "joint_regressor": _array(raw, "J_regressor", (16, vertices)),
        "skinning_weights": _array(raw, "weights", (vertices, 16)),
        "hands_mean": _array(raw, "hands_mean", (45,)),
        "hands_components": _array(raw, "hands_components", (45, 45)),
        "faces": _indices(raw, "f", (None, 3), vertices),
    }
    sums = arrays["skinning_weights"].sum(1)
    if np.abs(sums - 1).max() > 1e-2:
        raise ManoFileError(f"the weights of every vertex must sum to 1, got sums from {sums.min()} to {sums.max()}")
    parents = _array(raw, "kintree_table", (2, 16))[0, 1:]
    if not np.array_equal(parents, PARENTS[1:]):
        raise ManoFileError(f"kintree_table must give the parents {PARENTS[1:]}, got {parents.tolist()}")
    if "tip_vertices" in raw:
        arrays["tip_vertices"] = _indices(raw, "tip_vertices", (5,), vertices)
    else:
        arrays["tip_vertices"] = find_tips(template, arrays["joint_regressor"], arrays["skinning_weights"])
    arrays["corrected"] = bool(np.asarray(raw.get("shape_sign_corrected", False)).any())
    return arrays


def _array(raw: dict[str, Any], name: str, shape: tuple[int | None, ...], dtype: Any = np.float32) -> np.ndarray:
    """`raw[name]` as a finite array of the given shape (None: any size)."""
    if name not in raw:
        raise ManoFileError(f"{name} is missing")
    value = raw[name]
    if isinstance(value, SparseMatrix):
        value = value.to_dense()
    elif isinstance(value, ChumpyStandIn):
        value = value.to_array()
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise ManoFileError(f"{name} must be an array of numbers, got {type(value).__name__}")
    if value.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, value.shape, strict=True)):
        raise ManoFileError(f"{name} must have shape {shape} (None: any), got {value.shape}")
    # kintree_table marks the root's parent by 2**32 - 1; float32 holds that without becoming infinite
    value = np.ascontiguousarray(value, dtype=dtype)
    if not np.isfinite(value).all():
        raise ManoFileError(f"{name} has values that are not finite")
    return value


def _indices(raw: dict[str, Any], name: str, shape: tuple[int | None, ...], limit: int) -> np.ndarray:
    value = _array(raw, name, shape, np.float64)
    if value.size == 0 or value.min() < 0 or value.max() >= limit or (value != np.floor(value)).any():
        raise ManoFileError(f"{name} must hold vertex numbers from 0 to {limit - 1}")
    return value.astype(np.int64)


def find_tips(template: np.ndarray, joint_regressor: np.ndarray, skinning_weights: np.ndarray) -> np.ndarray:
    """Fingertip vertices (5,), thumb to little: smplx's for MANO's mesh, else the farthest along each distal bone.

    The published files name no tips. On another mesh a tip is the vertex, of those that follow the finger's last
    joint, that lies farthest in the direction from the joint before it to that joint.
    """
    if len(template) == 778:
        return np.array(TIP_VERTICES, np.int64)
    joints = joint_regressor @ template
    tips = []
    for joint in DISTAL_JOINTS:
        along = (template - joints[joint]) @ (joints[joint] - joints[joint - 1])
        own = skinning_weights.argmax(1) == joint
        tips.append(np.where(own, along, -np.inf).argmax() if own.any() else along.argmax())
    return np.array(tips, np.int64)


# ---------------------------------------------------------------------------------------------------------------------
# The left hand's fault


def _companion(left: Path) -> Path | None:
    """The right hand's file beside the left one, or the installed one."""
    installed = installed_path("right")
    return _beside(left, "right") or (installed if installed.is_file() else None)


def _corrected_left(left: dict[str, Any], right_file: Path | None) -> np.ndarray:
    """Shape directions (V, 3, 10) of the left hand with the published file's fault undone.

    MANO_LEFT.pkl's template is the right hand's mirrored in x, but its shape directions are the right hand's
    unmirrored, so equal betas give different hands (https://github.com/vchoutas/smplx/issues/48). Their x components
    then change sign. The fault is recognised against the right hand's file (beside the left one, or installed): the x
    components lie nearer to the right hand's than to their negative. Without that file the left one is taken for the
    published one, which has the fault; `install_mano` marks its copies as corrected.
    """
    dirs = left["shape_dirs"]
    flipped = dirs * np.array([-1, 1, 1], dirs.dtype)[:, None]
    if right_file is not None:
        try:
            right = read_mano(right_file)["shape_dirs"]
        except ValueError:  # a broken right file is no reason to refuse the left one
            return flipped
        if right.shape == dirs.shape:
            same = np.abs(dirs[:, 0] - right[:, 0]).sum()
            mirrored = np.abs(dirs[:, 0] + right[:, 0]).sum()
            return flipped if same < mirrored else dirs
    return flipped
