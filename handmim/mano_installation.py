"""`handmim mano install`: a checked copy of the user's licensed MANO file, in the user's own cache."""

from pathlib import Path

import numpy as np

from .atomic_files import atomic_file
from .mano_files import (
    MANO_URL,
    PARENTS,
    ManoFileError,
    ManoFileNotFoundError,
    installed_path,
    load_mano_file,
    side_in_name,
)


def install_mano(file: str | Path, side: str | None = None) -> Path:
    """Checks a MANO file and keeps a copy, as plain arrays, in the user's cache.

    Args:
        file: MANO_RIGHT.pkl, MANO_LEFT.pkl or an .npz of the same arrays.
        side: "right" or "left"; None takes it from the file's name.

    Returns:
        Path of the copy, which `HandModel(kind="mano")` finds from then on.

    Raises:
        ManoFileNotFoundError, ManoFileError, UnsafeFileError: nothing is installed.
    """
    file = Path(file).expanduser()
    if not file.is_file():
        raise ManoFileNotFoundError(f"{file} is not there; give the file that you downloaded from {MANO_URL}")
    if side is None:
        side = side_in_name(file)
        if side is None:
            raise ManoFileError(f"the side is not clear from the name {file.name!r}: say which it is, right or left")
    if side not in ("right", "left"):
        raise ValueError(f"side must be 'right' or 'left', got {side!r}")
    arrays = load_mano_file(side, file)
    target = installed_path(side)
    with atomic_file(target) as stream:
        np.savez(stream, **_official(arrays))
    return target


def _official(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """This package's names -> the official ones, so that other programs can read the installed file too."""
    parents = np.array([PARENTS, range(16)], np.int64)
    return {
        "v_template": arrays["template"],
        "shapedirs": arrays["shape_dirs"],
        "posedirs": arrays["pose_dirs"],
        "J_regressor": arrays["joint_regressor"],
        "weights": arrays["skinning_weights"],
        "hands_mean": arrays["hands_mean"],
        "hands_components": arrays["hands_components"],
        "f": arrays["faces"],
        "kintree_table": parents,
        "tip_vertices": arrays["tip_vertices"],
        "shape_sign_corrected": np.array(True),
    }
