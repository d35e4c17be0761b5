"""Submission files of FreiHAND and HO3D: `pred.json` with joints and vertices of every sample, and the zip around it.

`pred.json` is `[joints, vertices]`: a list of (21, 3) and a list of (V, 3) metres, in the benchmark's joint order and
camera frame. This package's order is FreiHAND's and its frame OpenCV's: `to_official` and `from_official` convert.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ..atomic_files import atomic_file
from ..errors import DataError
from ..json_arrays import MAX_BYTES, read_arrays, write_arrays
from .official import Protocol

PREDICTION_FILE, ARCHIVE_FILE = "pred.json", "pred.zip"
# Digits after the point: nanometres, far below what float32 predictions carry at arm's length.
DECIMALS = 9
OPENGL = np.array([1.0, -1.0, -1.0])


def to_official(
    joints: np.ndarray, vertices: np.ndarray | None, protocol: Protocol
) -> tuple[np.ndarray, np.ndarray | None]:
    """From this package's joint order and frame to those of a benchmark's files.

    Args:
        joints: (N, 21, 3) metres, OpenCV camera frame.
        vertices: (N, V, 3) metres, same frame, or None.
        protocol: Of the benchmark.

    Returns:
        Both as float64.
    """
    frame = OPENGL if protocol.opengl else 1.0
    joints = np.asarray(joints, np.float64)[:, list(protocol.joint_order)] * frame
    return joints, None if vertices is None else np.asarray(vertices, np.float64) * frame


def from_official(
    joints: np.ndarray, vertices: np.ndarray | None, protocol: Protocol
) -> tuple[np.ndarray, np.ndarray | None]:
    """The inverse of `to_official`."""
    frame = OPENGL if protocol.opengl else 1.0
    joints = np.asarray(joints, np.float64)[:, np.argsort(protocol.joint_order)] * frame
    return joints, None if vertices is None else np.asarray(vertices, np.float64) * frame


def load_submission(path: str | Path, protocol: Protocol, samples: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read and check a submission.

    Args:
        path: `pred.json`, or a zip that holds it; what macOS adds to zips is passed over.
        protocol: Of the benchmark.
        samples: How many hands there must be; default: the official split's.

    Returns:
        (N, 21, 3) joints and (N, V, 3) vertices, float64 metres, official order and frame.

    Raises:
        DataError: Another form, a wrong number of samples, or vertex counts that differ; names file and sample.
    """
    path, samples = Path(path), protocol.samples if samples is None else samples
    if not path.is_file():
        raise DataError(f"{path}, a submission file, is missing")
    if zipfile.is_zipfile(path):
        with tempfile.TemporaryDirectory() as folder:
            joints, vertices = read_arrays(_extract(path, Path(folder)), [(21, 3), (None, 3)])
    else:
        joints, vertices = read_arrays(path, [(21, 3), (None, 3)])
    for what, array in (("joints", joints), ("vertices", vertices)):
        if len(array) != samples:
            raise DataError(
                f"{path} must hold {what} of {samples} samples for {protocol.title}, got {len(array)}: predict every"
                " sample of the evaluation list, in its order"
            )
    return joints, vertices


def validate_submission(path: str | Path, protocol: Protocol, samples: int | None = None) -> None:
    """Raise DataError unless `load_submission` can read the file; zips must hold nothing but `pred.json`."""
    path = Path(path)
    load_submission(path, protocol, samples)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if archive.namelist() != [PREDICTION_FILE]:
                raise DataError(f"{path} must hold {PREDICTION_FILE} and nothing else, got {archive.namelist()[:5]}")


def write_submission(folder: str | Path, joints: np.ndarray, vertices: np.ndarray, protocol: Protocol) -> Path:
    """Write `pred.json` and `pred.zip`, the file to upload.

    Args:
        folder: Made if it does not exist.
        joints: (N, 21, 3) metres, official order and frame (`to_official`).
        vertices: (N, V, 3) metres. With another number than 778 the scripts leave the mesh errors out.
        protocol: Of the benchmark; N is not checked, so that a part can be written, too.

    Returns:
        The zip.

    Raises:
        DataError: Wrong shapes or numbers that are not finite; names the sample.
    """
    joints, vertices = np.asarray(joints), np.asarray(vertices)
    if joints.ndim != 3 or joints.shape[1:] != (21, 3):
        raise DataError(f"joints of a {protocol.title} submission must be of shape (N, 21, 3), got {joints.shape}")
    if vertices.ndim != 3 or vertices.shape[::2] != (len(joints), 3) or not vertices.shape[1]:
        raise DataError(
            f"vertices of a {protocol.title} submission must be of shape ({len(joints)}, V, 3), got {vertices.shape}"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_arrays(folder / PREDICTION_FILE, [joints, vertices], DECIMALS)
    with atomic_file(folder / ARCHIVE_FILE) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / PREDICTION_FILE, PREDICTION_FILE)
    return folder / ARCHIVE_FILE


def _extract(path: Path, folder: Path) -> Path:
    """The archive's one JSON file, unpacked under a name of our own: names in an archive are not to be trusted."""
    target = folder / PREDICTION_FILE
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if _is_json(entry.filename)]
            if len(entries) != 1:
                raise DataError(f"{path} must hold one JSON file, {PREDICTION_FILE}, got {len(entries)}")
            if entries[0].file_size > MAX_BYTES:
                raise DataError(f"{path}: {PREDICTION_FILE} unpacks to {entries[0].file_size} bytes, too many")
            with archive.open(entries[0]) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 2**20)  # no more than the size the entry states, or zipfile raises
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"{path} is not a readable zip: {error}") from error
    return target


def _is_json(name: str) -> bool:
    """Whether it may be the predictions: macOS puts files of its own beside each, such as __MACOSX/._pred.json."""
    parts = name.split("/")
    return name.endswith(".json") and parts[0] != "__MACOSX" and not parts[-1].startswith("._")
