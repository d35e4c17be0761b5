"""A pickle reader that cannot run code.

A pickle can call any function it names. `safe_pickle_load` looks every name up in a fixed table of numpy arrays, scipy
sparse matrices and inert stand-ins for chumpy objects, and refuses the rest. MANO's files and data sets' annotations
go through it. The file travels to Hub repositories: it imports numpy, the standard library and flat siblings only.
"""

import io
import math
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from .pickle_operations import UnsafeFileError, check_operations

MAX_PICKLE_BYTES = 512 * 2**20


class _Inert:
    """Attributes from a pickle, and no behaviour of the class the pickle names."""

    fields: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self.fields = {}
        return self

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise UnsafeFileError(f"an object must hold a dict of attributes, got {type(state).__name__}")
        self.fields = state


class SparseMatrix(_Inert):
    """A compressed sparse matrix as it stood in a pickle; `to_dense()` makes an array of it.

    Attributes:
        format: "csc", "csr" or "coo".
        fields: the pickled attributes (data, indices, indptr or row, col; shape).
    """

    format = "csc"

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.fields.get("_shape", self.fields.get("shape"))
        return int(rows), int(columns)

    def to_dense(self, max_elements: int = 2**26) -> np.ndarray:
        """Dense (rows, columns) array of the stored type.

        Raises:
            UnsafeFileError: the stored indices do not fit the shape, or the array would exceed `max_elements`.
        """
        try:
            rows, columns = self.shape
            data = _row_of(self.fields["data"], "biufc")
            row, column = self._coordinates()
            if rows < 0 or columns < 0 or rows * columns > max_elements:
                raise ValueError(f"shape {rows} x {columns} with {data.size} values")
            if len(data) and (min(row.min(), column.min()) < 0 or row.max() >= rows or column.max() >= columns):
                raise ValueError("an index lies outside the matrix")
            dense = np.zeros((rows, columns), data.dtype)
            np.add.at(dense, (row, column), data)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise UnsafeFileError(f"damaged sparse matrix: {error}") from error
        return dense

    def _coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        if self.format == "coo":
            row, column = self.fields.get("coords", (self.fields.get("row"), self.fields.get("col")))
            return _row_of(row), _row_of(column)
        minor, pointer = _row_of(self.fields["indices"]), _row_of(self.fields["indptr"]).astype(np.int64)
        # Within these bounds no difference and no sum of them can wrap.
        if pointer[0] != 0 or (pointer < 0).any() or (pointer > len(minor)).any() or pointer[-1] != len(minor):
            raise ValueError("the index pointer does not match the indices")
        counts = np.diff(pointer)
        if (counts < 0).any():
            raise ValueError("the index pointer does not ascend")
        major = np.repeat(np.arange(len(counts)), counts)
        return (minor, major) if self.format == "csc" else (major, minor)


def _row_of(value: Any, kinds: str = "iu") -> np.ndarray:
    """A stored array (N,) of whole numbers, or of other kinds; TypeError or ValueError if it is none."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"an array is expected, got {type(value).__name__}")
    if value.ndim != 1 or value.dtype.kind not in kinds:
        raise ValueError(f"a row of numbers is expected, got {value.dtype} of shape {value.shape}")
    return value


class _Csr(SparseMatrix):
    format = "csr"


class _Coo(SparseMatrix):
    format = "coo"


class ChumpyStandIn(_Inert):
    """An object of a chumpy class without chumpy: its pickled attributes, and no behaviour.

    `to_array()` understands what MANO and SMPL files hold: `Ch` (an array), and `Select`, `reshape` and `transpose`
    of another object; for any other class the result that chumpy had cached, if there is one.
    """

    def to_array(self) -> np.ndarray:
        """The value chumpy would compute.

        Raises:
            UnsafeFileError: the object is none of those that can be evaluated.
        """
        fields = self.fields
        if isinstance(fields.get("x"), np.ndarray):
            return fields["x"]
        inner = fields.get("a")
        if isinstance(inner, ChumpyStandIn):
            try:
                inner = inner.to_array()
            except RecursionError as error:
                raise UnsafeFileError("damaged chumpy object: it is made of itself, or of too many others") from error
        if isinstance(inner, np.ndarray):
            try:
                if "idxs" in fields:
                    picked = inner.ravel()[np.asarray(fields["idxs"])]
                    return picked.reshape(fields.get("preferred_shape", picked.shape))
                if "newshape" in fields:
                    return inner.reshape(fields["newshape"])
                if "axes" in fields:
                    return inner.transpose(fields["axes"])
            except (ValueError, IndexError, TypeError) as error:
                raise UnsafeFileError(f"damaged chumpy object: {error}") from error
        cached = fields.get("_cache", {})
        if isinstance(cached, dict) and isinstance(cached.get("r"), np.ndarray):
            return cached["r"]
        raise UnsafeFileError(f"a chumpy object with attributes {sorted(map(str, fields))} cannot be evaluated")


class _ObjectMarker:
    """Stands for Python's `object` where protocols 0 and 1 name it as a base class."""

    def __setstate__(self, state: Any) -> None:
        raise UnsafeFileError("a plain object may not carry state")


class _ArrayMarker(_ObjectMarker):
    """Stands for `numpy.ndarray`, which pickles name but need not call."""


class _Budget:
    """Bytes of array one file may unfold to; one stored string can be the data of many arrays."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise UnsafeFileError("the arrays are far larger than the file")


class _Dtype:
    """A numpy type of numbers, booleans or strings; its state may set the byte order and nothing else."""

    def __init__(self, code: Any, budget: _Budget) -> None:
        if isinstance(code, bytes):
            code = code.decode("latin1")
        if not isinstance(code, str) or len(code) > 12:
            raise UnsafeFileError(f"a numpy type must be named by a short string, got {type(code).__name__}")
        try:
            self.dtype = np.dtype(code)
        except (TypeError, ValueError, SyntaxError) as error:
            raise UnsafeFileError(f"unknown numpy type {code!r}") from error
        if self.dtype.kind not in "biufcSU":
            raise UnsafeFileError(f"numpy type {code!r} is not one of numbers, booleans or strings")
        self.budget = budget

    def __setstate__(self, state: Any) -> None:
        # Structured and sub-array types could misdeclare their memory: refuse whatever is not a plain byte order.
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise UnsafeFileError("structured numpy types are not admitted")
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "=", "|"):
            raise UnsafeFileError("the byte order of a numpy type must be one of < > = |")
        if order != "|":
            self.dtype = self.dtype.newbyteorder(order)

    def checked(self, data: Any, shape: Any) -> tuple[bytes, tuple[int, ...]]:
        """Data and shape of an array of this type.

        Raises:
            UnsafeFileError: the data are not exactly the bytes that the shape needs.
        """
        data = data.encode("latin1") if isinstance(data, str) else data  # Python 2 wrote bytes as str
        if not isinstance(data, bytes | bytearray):
            raise UnsafeFileError(f"array data must be bytes, got {type(data).__name__}")
        shape = (shape,) if isinstance(shape, int) else shape
        if not isinstance(shape, tuple) or len(shape) > 32 or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise UnsafeFileError("an array's shape must be a tuple of sizes")
        if math.prod(shape) * self.dtype.itemsize != len(data):
            raise UnsafeFileError(f"an array of {len(data)} bytes does not have shape {shape!r:.80} of {self.dtype}")
        self.budget.take(len(data))
        return bytes(data), shape


class _Array(np.ndarray):
    """The arrays of a pickle while it is read: numpy's own `__setstate__` would trust the file."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Dtype):
            raise UnsafeFileError("an array must carry version, shape, type, order and data")
        _, shape, dtype, fortran, data = state
        data, shape = dtype.checked(data, shape)
        super().__setstate__((1, shape, dtype.dtype, bool(fortran), data))


class _Call:
    """An admitted function. It has no attributes a pickle's state could overwrite."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise UnsafeFileError("a function may not carry state")


def _empty_array(kind: Any, shape: Any = (0,), code: Any = None) -> _Array:
    if kind is not _ArrayMarker:
        raise UnsafeFileError("only plain numpy arrays are admitted")
    return np.zeros(0, np.uint8).view(_Array)


def _scalar(dtype: Any, data: Any = b"") -> Any:
    return _from_buffer(dtype=dtype, data=data, shape=(), order="C").view(np.ndarray)[()]


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    if not isinstance(dtype, _Dtype) or order not in ("C", "F"):
        raise UnsafeFileError("an array must carry data, type, shape and order")
    data, shape = dtype.checked(data, shape)
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order).copy(order).view(_Array)


def _new_object(cls: Any, base: Any, state: Any = None) -> Any:
    if not (isinstance(cls, type) and issubclass(cls, _Inert) and base is _ObjectMarker):
        raise UnsafeFileError("only sparse matrices and chumpy objects may be rebuilt")
    return cls()


def _latin1_bytes(budget: _Budget, text: Any, encoding: Any = "") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise UnsafeFileError("only latin-1 strings may become bytes")
    budget.take(len(text))  # one stored string can be encoded many times
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


_SPARSE = {"csc": SparseMatrix, "csr": _Csr, "coo": _Coo}


class _Unpickler(pickle.Unpickler):
    """Looks every name up in a fixed table; nothing is ever imported."""

    def __init__(self, file: io.BytesIO, budget: _Budget) -> None:
        super().__init__(file, encoding="latin1")
        array, scalar, buffer = _Call(_empty_array), _Call(_scalar), _Call(_from_buffer)
        self._table: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): _ArrayMarker,
            ("numpy", "dtype"): _Call(lambda code, align=False, copy=False: _Dtype(code, budget)),
            ("copy_reg", "_reconstructor"): _Call(_new_object),
            ("copyreg", "_reconstructor"): _Call(_new_object),
            ("__builtin__", "object"): _ObjectMarker,
            ("builtins", "object"): _ObjectMarker,
            ("_codecs", "encode"): _Call(partial(_latin1_bytes, budget)),
            ("__builtin__", "bytes"): _Call(_no_bytes),
            ("builtins", "bytes"): _Call(_no_bytes),
        }
        for core in ("numpy.core", "numpy._core"):  # numpy 1 and 2
            self._table[f"{core}.multiarray", "_reconstruct"] = array
            self._table[f"{core}.multiarray", "scalar"] = scalar
            self._table[f"{core}.numeric", "_frombuffer"] = buffer
        for name, cls in _SPARSE.items():  # scipy before and after 1.8
            for module in (f"scipy.sparse.{name}", f"scipy.sparse._{name}"):
                self._table[module, f"{name}_matrix"] = cls
                self._table[module, f"{name}_array"] = cls

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._table:
            return self._table[module, name]
        if module == "chumpy" or module.startswith("chumpy."):
            return ChumpyStandIn
        raise UnsafeFileError(f"the pickle names {module}.{name}, which is not an array type; it has not been called")

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafeFileError("the pickle refers to objects outside itself")


def safe_pickle_load(path: str | Path, max_bytes: int = MAX_PICKLE_BYTES) -> Any:
    """Reads a pickle of plain Python values, numpy arrays, scipy sparse matrices and chumpy objects.

    Args:
        path: file written by Python 2 or 3, numpy 1 or 2, any protocol.
        max_bytes: largest file to read.

    Returns:
        The object; arrays as numpy arrays, sparse matrices as `SparseMatrix`, chumpy objects as `ChumpyStandIn`.

    Raises:
        UnsafeFileError: the file is too large, damaged, or names anything else. Nothing in it has been run.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > max_bytes:
        raise UnsafeFileError(f"{path} has {size} bytes, more than the {max_bytes} that are read")
    data = path.read_bytes()
    try:
        check_operations(data)
        value = _Unpickler(io.BytesIO(data), _Budget(4 * max_bytes)).load()
        _check_unfolded(value, _MIN_UNFOLDED + _UNFOLDED_PER_BYTE * len(data), {})
        return _plain(value, {})
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle can raise almost anything, MemoryError and RecursionError included
        raise UnsafeFileError(f"{path} is not a readable pickle: {type(error).__name__}: {error}") from error


# Numbers that lists may come to where they are copied, for each byte of their file, and for any file.
_UNFOLDED_PER_BYTE, _MIN_UNFOLDED = 16, 4096


def _check_unfolded(value: Any, limit: int, sizes: dict[int, int | None]) -> int:
    """How many numbers a value is once what it holds several times is copied, as numpy does that makes an array of it.

    Args:
        value: Of a pickle, whose parts may be in several places.
        limit: The most that may come of it.
        sizes: What is known of lists, tuples and dicts by their identity; None while one is looked at.

    Raises:
        UnsafeFileError: It would be more, or without end.
    """
    if isinstance(value, np.ndarray):
        return 1 + value.size
    if not isinstance(value, list | dict | tuple | _Inert):
        return 1
    if id(value) in sizes:
        size = sizes[id(value)]
        if size is None:
            raise UnsafeFileError("a list or dict holds itself")
        return size
    whole = isinstance(value, _Inert)  # is never copied, and may refer to what it is a part of
    sizes[id(value)] = 1 if whole else None
    parts = value.fields if whole else value
    size = 1
    for part in parts.values() if isinstance(parts, dict) else parts:
        size += _check_unfolded(part, limit, sizes)
        if size > limit:
            raise UnsafeFileError("its lists hold the same parts over and over: far more than the file")
    if not whole:
        sizes[id(value)] = size
    return sizes[id(value)]


def _plain(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    """`value` with the reader's own array class replaced by numpy's; lists and dicts are changed in place.

    `done` maps the identity of what has been seen to (itself, its replacement); holding the first keeps ids unique.
    """
    if isinstance(value, _Array):
        return value.view(np.ndarray)
    if not isinstance(value, list | dict | tuple | _Inert):
        return value
    if id(value) in done:
        return done[id(value)][1]
    done[id(value)] = (value, value)
    if isinstance(value, list):
        value[:] = [_plain(item, done) for item in value]
    elif isinstance(value, dict):
        for key in value:
            value[key] = _plain(value[key], done)
    elif isinstance(value, tuple):
        done[id(value)] = (value, tuple(_plain(item, done) for item in value))
    else:
        _plain(value.fields, done)
    return done[id(value)][1]
