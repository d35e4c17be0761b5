"""What a card needs to know about the weights' files: how many numbers of which kind, and whether a report is of them.

Sizes come from the headers alone; torch is not needed for either.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .errors import HandMIMError

# Of batch normalisation: in the file, but nothing that a gradient changes.
STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class CardError(HandMIMError, ValueError):
    """A card that cannot be made: a file of the checkpoint or a note is missing or wrong, a report is of another."""


def weights_facts(folder: Path) -> dict[str, Any]:
    """`parameters`, `size_bytes` and `dtype` (of most weights) of a checkpoint's folder.

    Raises:
        CardError: There are no weights, or they are damaged.
    """
    with _tensors(folder) as (files, tensors):
        learned: Counter[str] = Counter()
        for name, file in tensors.items():
            if not name.endswith(STATISTICS):
                entry = file.get_slice(name)
                learned[entry.get_dtype()] += math.prod(entry.get_shape())
        if not learned:
            raise CardError(f"{files[0]} holds no weights; save the model again")
        dtype = learned.most_common(1)[0][0]
        size = sum(file.stat().st_size for file in files)
        return {"parameters": learned.total(), "size_bytes": size, "dtype": DTYPES.get(dtype, dtype)}


def weights_checksum(folder: Path, dtype: str) -> str | None:
    """`evaluation.report.weights_checksum` of the model that loads from a folder in this dtype, without torch.

    Returns:
        SHA-256 in hexadecimal digits; None for a dtype that no report can be of.

    Raises:
        CardError: There are no weights, or they are damaged.
    """
    if dtype not in DTYPES.values():
        return None
    digest = hashlib.sha256()
    with _tensors(folder) as (files, tensors):
        halves = {name: value for file in files for name, value in _bfloat16_tensors(file).items()}
        for name, file in sorted(tensors.items()):
            stored = file.get_slice(name).get_dtype()
            values = _float32(halves[name]) if name in halves else file.get_tensor(name)
            kind = dtype if stored in DTYPES else str(values.dtype)
            values = _bfloat16(values) if kind == "bfloat16" else values.astype(kind)
            digest.update(f"{name} torch.{kind} {tuple(values.shape)}".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _bfloat16_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file that numpy has no dtype for: their bits as uint16, read when they are used.

    Source: the format of safetensors: eight bytes with the header's length, the header in JSON, the data.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    found = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "BF16" and math.prod(entry["shape"]):
            start, shape = 8 + length + entry["data_offsets"][0], tuple(entry["shape"])
            found[name] = np.memmap(path, "<u2", "r", start, shape or (1,)).reshape(shape)
    return found


def _float32(bits: np.ndarray) -> np.ndarray:
    """bfloat16 is the upper half of float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """Bits of the nearest bfloat16 to finite values, ties to even, as torch rounds."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).reshape(values.shape)


@contextmanager
def _tensors(folder: Path) -> Iterator[tuple[list[Path], dict[str, Any]]]:
    """The files of the weights, and for each tensor's name the open file that has it."""
    from safetensors import SafetensorError, safe_open

    single = folder / "model.safetensors"
    files = [single] if single.is_file() else sorted(folder.glob("model-*-of-*.safetensors"))
    if not files:
        raise CardError(f"{folder} has no model.safetensors; save the model with save_pretrained")
    try:
        with ExitStack() as stack:
            opened = [stack.enter_context(safe_open(file, framework="numpy")) for file in files]
            yield files, {name: file for file in opened for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise CardError(f"the weights in {folder} are damaged ({error}); save the model again") from error
