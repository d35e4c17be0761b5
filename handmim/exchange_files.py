"""Files that `handmim exchange` reads and writes: results of HaMeR and WiLoR-mini as .npz, our own as .json.

In a .npz file the names of nested dictionaries are joined by dots: `pred_mano_params.hand_pose`. WiLoR-mini's list of
dictionaries becomes one dictionary of stacked arrays: `is_right` (N,), `wilor_preds.pred_vertices` (N, 1, V, 3).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .atomic_files import atomic_file
from .errors import NPZ_ERRORS, DataError, HandMIMError, InputError
from .hamer_checks import SIDES, array_of, as_mapping, check_camera, float32_of, source_word
from .hamer_format import MAX_ERROR, to_hamer, to_wilor
from .hamer_reading import check_faces, from_hamer, from_wilor
from .hand import Hand
from .training.datasets.files import load_json, load_npz

MAX_JSON_BYTES = 256 * 2**20
MAX_NPZ_BYTES = 256 * 2**20


def read_hands(
    path: Path,
    *,
    image_size: Sequence[float] | None = None,
    focal_length: float | None = None,
    faces: Path | None = None,
) -> tuple[list[Hand], np.ndarray]:
    """The hands of one picture from a .json file of `handmim predict`, or from a .npz file.

    Args:
        path: The file.
        image_size: Width and height of the picture, where a .npz file does not say it.
        focal_length: Pixels, in place of a .npz file's, see `from_hamer`.
        faces: .npy file (F, 3) of the right hand; None: those of the .npz file, or of the user's MANO file.

    Returns:
        The hands, and (2,) width and height of the picture.

    Raises:
        DataError: The file is missing, too large, or holds anything else; the message names it.
        InputError: Another ending.
    """
    if path.suffix == ".json":
        return hands_of_report(load_json(path, MAX_JSON_BYTES), path)
    if path.suffix != ".npz":
        raise InputError(f"{path} must be a .json file of handmim predict or an .npz file")
    triangles = None if faces is None else _load_faces(faces)
    arrays = load_npz(path, MAX_NPZ_BYTES)
    where = str(path) if faces is None else f"{path} with the faces of {faces}"
    try:
        result = nested(arrays)
        convert: Any = from_wilor if isinstance(result, list) else from_hamer
        hands = convert(result, image_size=image_size, focal_length=focal_length, faces=triangles)
    except HandMIMError as error:
        raise DataError(f"{where}: {error}") from error
    sizes = np.array([hand.intrinsics[:2, 2] for hand in hands], np.float64) * 2
    if not len(sizes):
        raise DataError(f"{path} holds no hands")
    if (sizes != sizes[0]).any():
        raise DataError(f"{path} holds hands of pictures of different sizes; a file is for one picture")
    return hands, sizes[0]


def write_hands(path: Path, hands: list[Hand], size: np.ndarray, kind: str, max_error: float = MAX_ERROR) -> None:
    """Write the hands of one picture; the file appears complete or not at all.

    Args:
        path: .npz, for "handmim" .json.
        hands: All of one picture.
        size: (2,) width and height of the picture.
        kind: "hamer", "wilor" or "handmim".
        max_error: See `hamer_camera`.

    Raises:
        InputError: Another ending, or hands that cannot be told in this form.
        OSError: The file cannot be written.
    """
    ending = ".json" if kind == "handmim" else ".npz"
    if path.suffix != ending:
        raise InputError(f"the output must end in {ending} for {kind}, got {path.name!r}")
    if kind == "handmim":
        try:
            data = json.dumps(report_of(hands, size), allow_nan=False).encode()
        except (ValueError, OverflowError) as error:
            raise InputError("the hands hold numbers that are not finite, which JSON cannot tell") from error
        with atomic_file(path) as file:
            file.write(data)
        return
    arrays = flat({"hamer": to_hamer, "wilor": to_wilor}[kind](hands, size, max_error=max_error))
    with atomic_file(path) as file:
        np.savez(file, **arrays)


def _load_faces(path: Path) -> np.ndarray:
    """(F, 3) numbers of an .npy file."""
    if path.stat().st_size > MAX_NPZ_BYTES:
        raise DataError(f"{path} is larger than the {MAX_NPZ_BYTES} bytes that are read")
    try:
        with path.open("rb") as file:  # np.load would open archives too
            faces = np.lib.format.read_array(file, allow_pickle=False)
    except NPZ_ERRORS as error:
        raise DataError(f"{path} is not an .npy file of numbers: {error}") from error
    if faces.dtype.kind not in "fiu" or faces.ndim != 2 or faces.shape[1] != 3:
        raise DataError(f"{path} must hold the faces (F, 3), whole numbers, got {faces.dtype} of shape {faces.shape}")
    return faces


# ---------------------------------------------------------------------------------------------------------------------
# .npz


def flat(result: Mapping[str, Any] | list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """A dictionary of arrays with dotted names, or such dictionaries stacked.

    Raises:
        InputError: Dictionaries whose arrays differ in name or shape, or none at all.
    """
    if isinstance(result, Mapping):
        arrays: dict[str, np.ndarray] = {}
        for name, value in result.items():
            if isinstance(value, Mapping):
                arrays |= {f"{name}.{key}": array for key, array in flat(value).items()}
            else:
                arrays[name] = np.asarray(np.nan if value is None else value)
        return arrays
    if not result:
        raise InputError("there are no hands to write")
    rows = [flat(entry) for entry in result]
    shapes = [{name: array.shape for name, array in row.items()} for row in rows]
    if any(shape != shapes[0] for shape in shapes):
        raise InputError("hands of different hand models cannot share a file; convert them apart")
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any] | list[dict[str, Any]]:
    """Inverse of `flat`: HaMeR's dictionary, or WiLoR-mini's list where the names say so.

    Raises:
        DataError: WiLoR-mini's arrays differ in length.
    """
    tree: dict[str, Any] = {}
    for name, value in arrays.items():
        group, _, key = name.partition(".")
        if key:
            tree.setdefault(group, {})
        if isinstance(tree.get(group), dict) != bool(key):
            raise DataError(f"{group} is both an array and a group of arrays")
        if key:
            tree[group][key] = value
        else:
            tree[group] = value
    if not isinstance(tree.get("wilor_preds"), dict):
        return tree
    lengths = {name: value.shape[:1] for name, value in arrays.items()}
    if len(set(lengths.values())) != 1 or () in lengths.values():
        raise DataError(f"all arrays must have one row for each hand, got {lengths}")
    count = next(iter(lengths.values()))[0]
    return [{name: _row(value, number) for name, value in tree.items()} for number in range(count)]


def _row(value: Any, number: int) -> Any:
    if isinstance(value, dict):
        return {name: array[number] for name, array in value.items()}
    row = value[number]
    if row.dtype.kind == "U":
        return str(row)
    return None if row.ndim == 0 and row.dtype.kind == "f" and np.isnan(row) else row


# ---------------------------------------------------------------------------------------------------------------------
# JSON


def report_of(hands: list[Hand], size: np.ndarray) -> dict[str, Any]:
    """What `handmim predict` writes of a picture; no meshes lie beside it."""
    width, height = (round(float(length)) for length in size)
    rows = [hand.to_dict() for hand in hands]
    files: dict[str, list[str]] = {"meshes": [], "masks": [], "maps": []}
    return {"image": None, "width": width, "height": height, "model": None, **files, "hands": rows}


def hands_of_report(report: Any, path: Path) -> tuple[list[Hand], np.ndarray]:
    """The hands of a JSON file of `handmim predict`, and (2,) width and height of its picture.

    Raises:
        DataError: It is no such file; names the file, the hand and the field.
    """
    if not isinstance(report, dict) or not isinstance(report.get("hands"), list):
        raise DataError(f"{path} is not a .json file of handmim predict: 'hands' is missing")
    size = [report.get(name) for name in ("width", "height")]
    if not all(isinstance(length, int) and 0 < length < 2**31 for length in size):
        raise DataError(f"{path}: width and height must be whole numbers above 0, got {size}")
    hands = []
    for number, row in enumerate(report["hands"]):
        try:
            hands.append(hand_of_row(row))
        except HandMIMError as error:
            raise DataError(f"{path}: hand {number}: {error}") from error
    return hands, np.array(size, np.float64)


def hand_of_row(row: Any) -> Hand:
    """Inverse of `Hand.to_dict`.

    Raises:
        InputError: A field is missing or wrong.
    """
    row = as_mapping(row, "a hand")
    shapes: dict[str, tuple[int | None, ...]] = {"vertices": (None, 3), "joints": (21, 3), "keypoints_2d": (21, 2)}
    shapes |= {"betas": (10,), "global_orient": (3,), "hand_pose": (15, 3), "translation": (3,)}
    shapes |= {"intrinsics": (3, 3), "box": (4,)}
    arrays = {name: float32_of(array_of(row, name, shape), name) for name, shape in shapes.items()}
    check_camera(arrays["intrinsics"], "intrinsics")
    words = {"handedness": SIDES, "hand_model": ("open", "mano")}
    for name, allowed in words.items():
        if row.get(name) not in allowed:
            raise InputError(f"{name} must be {' or '.join(allowed)}, got {row.get(name)!r:.50}")
    score = None if row.get("score") is None else float(array_of(row, "score", ()))
    if score is not None and not 0 <= score <= 1:
        raise InputError(f"score must be in [0, 1], got {score}")
    if row.get("faces") is None:
        raise InputError("faces is missing")
    for name, shape in (("heatmap_keypoints", (21, 2)), ("crop_box", (4,))):  # of networks with heat maps
        if row.get(name) is not None:
            arrays[name] = float32_of(array_of(row, name, shape), name)
    return Hand(
        **arrays,
        faces=check_faces(row["faces"], len(arrays["vertices"])),
        handedness=row["handedness"],
        score=score,
        hand_model=row["hand_model"],
        intrinsics_source=source_word(row.get("intrinsics_source", "given"), "the hand"),
    )
