"""The restricted unpickler: what data sets hold is read, everything that could act is refused and does not act."""

import copyreg
import importlib
import io
import os
import pickle
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from fabricate_mano import fake_chumpy

from handmim.errors import HandMIMError
from handmim.safe_pickle import ChumpyStandIn, SparseMatrix, UnsafeFileError, safe_pickle_load


def load(tmp_path: Path, data: bytes, **options: Any) -> Any:
    file = tmp_path / "data.pkl"
    file.write_bytes(data)
    return safe_pickle_load(file, **options)


# ---------------------------------------------------------------------------------------------------------------------
# Admitted


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["<f8", ">f4", "<u4", "|i1", "|b1", "<c16", "<f2", "<U5", "|S3"])
def test_arrays(tmp_path: Path, protocol: int, kind: str) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(kind)
    for array in (values, np.asfortranarray(values), values[:, ::2], values[:0], values[0, 0, 0]):
        data = pickle.dumps(array, protocol)
        got, expected = load(tmp_path, data), pickle.loads(data)  # numpy itself makes some orders native
        np.testing.assert_array_equal(got, array)
        assert got.dtype == expected.dtype and type(got) is type(expected)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_and_shared_containers(tmp_path: Path, protocol: int) -> None:
    array = np.arange(3.0)
    value = {"a": [1, -(2**70), 2.5, None, True, "text", b"bytes"], "b": (array, [array, (array,)]), "n": np.float32(3)}
    value["again"] = value["b"]
    value["self"] = value["a"]
    got = load(tmp_path, pickle.dumps(value, protocol))
    assert got["a"] == value["a"] and got["self"] is got["a"] and got["again"] is got["b"]
    assert type(got["b"][0]) is type(got["b"][1][1][0]) is np.ndarray and got["n"] == 3
    np.testing.assert_array_equal(got["b"][1][1][0], array)


def test_python2_pickle(tmp_path: Path) -> None:
    # {'a': numpy.array([1., -2.])} as Python 2 and numpy 1 wrote it, protocol 0: byte strings with escapes
    text = (
        b"(dp0\nS'a'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\ntp6\nRp7\n"
        b"(I1\n(I2\ntp8\ncnumpy\ndtype\np9\n(S'f8'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'<'\np13\nNNNI-1\nI-1\nI0\ntp14\nb"
        b"I00\nS'\\x00\\x00\\x00\\x00\\x00\\x00\\xf0?\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\xc0'\np15\ntp16\nbs."
    )
    np.testing.assert_array_equal(load(tmp_path, text)["a"], [1.0, -2.0])


@pytest.mark.parametrize("kind", ["csc", "csr", "coo"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("old", [False, True])
def test_sparse_matrices(tmp_path: Path, kind: str, protocol: int, old: bool) -> None:
    dense = np.random.default_rng(0).normal(size=(5, 7)) * (np.random.default_rng(1).random((5, 7)) < 0.4)
    matrix = getattr(scipy.sparse, f"{kind}_matrix")(dense)
    data = pickle.dumps(matrix, protocol)
    if old and protocol == 0:  # as scipy before 1.8 named its modules
        data = data.replace(f"scipy.sparse._{kind}\n".encode(), f"scipy.sparse.{kind}\n".encode())
    got = load(tmp_path, data)
    assert isinstance(got, SparseMatrix) and got.shape == (5, 7)
    np.testing.assert_array_equal(got.to_dense(), dense)


@pytest.mark.parametrize(
    "change",
    [
        {"_shape": (10**9, 10**9)},
        {"_shape": (2, 2)},
        {"indices": np.array([0, -1])},
        {"indptr": np.array([0, 5])},
        {"indptr": np.array([0, 2**32 - 1, 4], np.uint32)},
        {"data": None},
        {"_shape": None},
    ],
)
def test_damaged_sparse_matrix(tmp_path: Path, change: dict[str, Any]) -> None:
    matrix = scipy.sparse.csc_matrix(np.eye(4))
    matrix.__dict__.update(change)
    got = load(tmp_path, pickle.dumps(matrix))
    with pytest.raises(UnsafeFileError):
        got.to_dense()


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_chumpy_objects(tmp_path: Path, protocol: int) -> None:
    values = np.arange(12.0).reshape(3, 4)
    with fake_chumpy() as (ch, select):
        objects = {
            "ch": ch(x=values),
            "select": select(a=ch(x=values), idxs=np.array([1, 3, 5, 7]), preferred_shape=(2, 2)),
            "transpose": select(a=ch(x=values), axes=(1, 0)),
            "reshape": select(a=ch(x=values), newshape=(2, 6)),
            "cached": select(b=1, _cache={"r": values}),
            "unknown": select(b=1),
            "outside": select(a=ch(x=values), idxs=np.array([99])),
        }
        data = pickle.dumps(objects, protocol)
    got = load(tmp_path, data)
    assert all(type(value) is ChumpyStandIn for value in got.values())
    expected = {"ch": values, "select": [[1, 3], [5, 7]], "transpose": values.T, "cached": values}
    expected["reshape"] = values.reshape(2, 6)
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name].to_array(), array)
    for name in ("unknown", "outside"):
        with pytest.raises(UnsafeFileError):
            got[name].to_array()


# ---------------------------------------------------------------------------------------------------------------------
# Refused


class Reduce:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments, state) if state is not None else (function, arguments)

    def __reduce__(self) -> tuple:
        return self.parts


def named(module: str, name: str, *arguments: bytes) -> bytes:
    """A pickle (protocol 0) that calls module.name with string arguments."""
    return b"c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(b"S%r\n" % a.decode() for a in arguments) + b"tR."


def hostile(canary: Path) -> dict[str, bytes]:
    """Pickles that create the file `canary` when an ordinary unpickler reads them, or would do other harm."""
    touch = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w')"
    system = Reduce(os.system, touch)
    dumps = {
        "os.system": system,
        "eval": Reduce(eval, code),
        "exec": Reduce(exec, code),
        "open": Reduce(open, str(canary), "w"),
        "Popen": Reduce(subprocess.Popen, ["touch", str(canary)]),
        "import": Reduce(importlib.import_module, "antigravity"),
        "getattr": Reduce(getattr, Reduce(importlib.import_module, "os"), "system"),
        "nested": {"a": [({"b": (1, [system])},)]},
        "as a key": {system: 1},
        "in an object's state": Reduce(copyreg._reconstructor, Path, object, None, state={"x": system}),
        "copyreg": Reduce(copyreg._reconstructor, io.StringIO, object, None),
        "copyreg.add_extension": Reduce(copyreg.add_extension, "os", "system", 240),
        "numpy.load": Reduce(np.load, str(canary)),
        "numpy.fromfile": Reduce(np.fromfile, str(canary)),
        "numpy.save": Reduce(np.save, str(canary), 1),
        "numpy.vectorize": Reduce(np.vectorize, os.system),
        "object array": np.array([system], object),
        "inner pickle": Reduce(pickle.loads, pickle.dumps(system)),
        "rmtree": Reduce(shutil.rmtree, str(canary)),
        "attribute path": Reduce(np.ndarray.tofile, np.zeros(1), str(canary)),
        "int": Reduce(int, "9" * 10),
    }
    data = {f"{name} {p}": pickle.dumps(value, p) for name, value in dumps.items() for p in (0, 2, 4)}
    data |= {
        "runstring": named("numpy.testing._private.utils", "runstring", code.encode(), b"x"),
        "f2py": named("numpy.f2py", "compile", b"x"),
        "f2py.os": named("numpy.f2py", "os.system", touch.encode()),
        "numpy.os": named("numpy.lib.npyio", "os.system", touch.encode()),
        "dotted": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        "instance": f"(S'{touch}'\nios\nsystem\n.".encode(),
        "object": b"(cos\nsystem\n" + f"S'{touch}'\no.".encode(),
        "extension": b"\x80\x02\x82\xf0.",
        "persistent": b"Pos.system\n.",
        "persistent 2": b"\x80\x02K\x01Q.",
        "out-of-band": b"\x80\x05\x97.",
        "memo": b"\x80\x02K\x01r" + struct.pack("<I", 2**32 - 1) + b".",
        "memo text": b"I1\np99999999999\n.",
        "long string": b"\x80\x04\x8e" + struct.pack("<Q", 2**50) + b"abc.",
        "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**50) + b".",
        "cut off": pickle.dumps([1, 2, 3])[:-1],
        "empty": b"",
        "no pickle": b"\xff\xd8\xff\xe0 a photo",
        "no stack": b"R.",
        "deep": b"]" * 100_000 + b"a" * 99_999 + b".",
        "chumpy called": named("chumpy.ch", "os.system", touch.encode())[:-1] + b"I1\nb.",
    }
    array = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    double = b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R"
    huge = b"\x8a\x05\x00\x00\x00\x00\x40"
    data |= {
        "huge array": array + b"(K\x01" + huge + b"\x85" + double + b"\x89U\x08abcdefghtb.",
        "negative array": array + b"(K\x01J\xff\xff\xff\xff\x85" + double + b"\x89U\x00tb.",
        "huge reconstruct": b"\x80\x02cnumpy\nndarray\n" + huge + b"\x85R.",
        "object type": array + b"(K\x01K\x01\x85cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R\x89U\x08abcdefghtb.",
        "no type": array + b"(K\x01K\x01\x85N\x89U\x08abcdefghtb.",
        "structured type": array + b"(K\x01K\x01\x85cnumpy\ndtype\nU\x05f4,f4\x85R\x89U\x08abcdefghtb.",
        "type with fields": double + b"(K\x03U\x01|NU\x01aNK\x08K\x01K\x3ftb.",
        "state on a function": b"\x80\x02ccopy_reg\n_reconstructor\n}U\x01aK\x01sb.",
        "state on a class": b"\x80\x02cscipy.sparse.csc\ncsc_matrix\n}U\x01aK\x01sb.",
        "rebuilt array class": b"\x80\x02ccopy_reg\n_reconstructor\ncnumpy\nndarray\nc__builtin__\nobject\nN\x87R.",
        "encode": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
    }
    return data


HOSTILE = sorted(hostile(Path("canary")))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_and_do_nothing(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    with pytest.raises(UnsafeFileError) as error:
        load(tmp_path, hostile(canary)[name])
    assert "data.pkl" in str(error.value) and isinstance(error.value, HandMIMError)
    assert not canary.exists()


def test_the_canary_can_sing(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(hostile(canary)["os.system 2"])
    assert canary.exists()


def test_names_are_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(UnsafeFileError, match=r"posix.system|nt.system"):
        load(tmp_path, pickle.dumps(Reduce(os.system, "true")))


def test_one_string_for_many_arrays_is_bounded(tmp_path: Path) -> None:
    text = b"T" + struct.pack("<i", 8000) + b"\0" * 8000 + b"q\x000"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    array += b"(K\x01M\xe8\x03\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R\x89h\x00tb"
    bomb = b"\x80\x02" + text + b"(" + array * 60 + b"l."
    assert len(load(tmp_path, bomb)) == 60
    with pytest.raises(UnsafeFileError, match="far larger"):
        load(tmp_path, bomb, max_bytes=50_000)


def test_one_string_for_many_bytes_is_bounded(tmp_path: Path) -> None:
    text = b"X" + struct.pack("<i", 8000) + b"a" * 8000 + b"q\x000X\x06\x00\x00\x00latin1q\x010"
    bomb = b"\x80\x02" + text + b"(" + b"c_codecs\nencode\nh\x00h\x01\x86R" * 60 + b"l."
    assert len(load(tmp_path, bomb)) == 60
    with pytest.raises(UnsafeFileError, match="far larger"):
        load(tmp_path, bomb, max_bytes=50_000)


def test_size_limit(tmp_path: Path) -> None:
    data = pickle.dumps(b"x" * 1000)
    assert load(tmp_path, data, max_bytes=len(data)) == b"x" * 1000
    with pytest.raises(UnsafeFileError, match="more than the 1000"):
        load(tmp_path, data, max_bytes=1000)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        safe_pickle_load(tmp_path / "absent.pkl")


# ---------------------------------------------------------------------------------------------------------------------
# Few bytes that ask for much time or memory, or for memory that is not theirs


def shared_lists(depth: int) -> bytes:
    """Operations that push a list of 16 times the same list, and so on downwards."""
    levels = b"](K\x01K\x01e"
    for level in range(depth):
        levels += b"q" + bytes([level]) + b"0](" + (b"h" + bytes([level])) * 16 + b"e"
    return levels


@pytest.mark.parametrize("key", [b")" + b"\x85" * 100_000, b")" + b"2\x86" * 60, b")q\x00" + b"h\x00\x86q\x00" * 60])
@pytest.mark.parametrize("use", [b"}%bNs", b"}(%bNu", b"(%bNd"])
def test_nested_keys_are_refused_before_they_are_hashed(tmp_path: Path, key: bytes, use: bytes) -> None:
    with pytest.raises(UnsafeFileError, match="keys of a dict must be .* got something of the kind tuple"):
        load(tmp_path, b"\x80\x04" + use % key + b".")


@pytest.mark.parametrize("value", [{1, 2}, frozenset({1}), {"a": [set()]}])
def test_sets_are_refused(tmp_path: Path, value: Any) -> None:
    for protocol in range(6):  # before protocol 4, sets are made by a function
        with pytest.raises(UnsafeFileError, match="not admitted|not an array type"):
            load(tmp_path, pickle.dumps(value, protocol))


def tower(levels: int) -> bytes:
    """Operations that push frozenset({A, (A,)}), where A is the same one level below."""
    pushed = b"(K\x01\x91\x94"
    for level in range(levels):
        below = b"h" + bytes([level])
        pushed += b"0(" + below * 2 + b"\x85\x91\x94"
    return pushed


def test_equal_towers_of_sets_are_not_compared(tmp_path: Path) -> None:
    with pytest.raises(UnsafeFileError, match="FROZENSET, which is not admitted"):
        load(tmp_path, b"\x80\x04}(" + tower(40) + b"N" + tower(40) + b"Nu.")


@pytest.mark.parametrize("key", [1.5, None, b"a", True, (1,), 2**60, -(2**60), 2**61 - 1, "a" * 5000])
def test_other_keys_are_refused(tmp_path: Path, key: Any) -> None:
    for protocol in range(6):
        data = pickle.dumps({"outer": {key: 1}}, protocol)
        if key is True and protocol < 2:
            assert load(tmp_path, data) == {"outer": {True: 1}}  # the text of a whole number
            continue
        with pytest.raises(UnsafeFileError, match="keys of a dict must be"):
            load(tmp_path, data)


def test_strings_and_small_whole_numbers_may_be_keys(tmp_path: Path) -> None:
    value = {"a": 1, "\u00e9": 2, "": 3, 0: 4, -1: 5, 300: 6, 2**31: 7, 2**60 - 1: 8, -(2**60) + 1: 9, "a" * 4000: 10}
    value["again"] = {key: (key,) for key in value}
    for protocol in range(6):
        assert load(tmp_path, pickle.dumps(value, protocol)) == value


def test_many_whole_numbers_are_refused(tmp_path: Path) -> None:
    value = dict.fromkeys(range(2**16))
    assert load(tmp_path, pickle.dumps(value)) == value
    with pytest.raises(UnsafeFileError, match="more than 65536 keys of dicts are whole numbers"):
        load(tmp_path, pickle.dumps([value, {1: None}]))


def test_whole_numbers_that_hash_alike_are_refused(tmp_path: Path) -> None:
    value = {k * (2**61 - 1): None for k in range(1, 300)}
    with pytest.raises(UnsafeFileError, match="got a whole number of"):
        load(tmp_path, pickle.dumps(value))


def test_long_whole_numbers_are_refused(tmp_path: Path) -> None:
    assert load(tmp_path, pickle.dumps(-(2**2000))) == -(2**2000)
    with pytest.raises(UnsafeFileError, match="whole number of"):
        load(tmp_path, pickle.dumps(1 << 2**20))


def test_lists_that_unfold_are_refused(tmp_path: Path) -> None:
    assert np.asarray(load(tmp_path, b"\x80\x02" + shared_lists(1) + b".")).shape == (16, 2)
    with pytest.raises(UnsafeFileError, match="far more than the file"):
        load(tmp_path, b"\x80\x02" + shared_lists(8) + b".")
    array = np.zeros(10_000)
    with pytest.raises(UnsafeFileError, match="far more than the file"):
        load(tmp_path, pickle.dumps({"points": [array] * 1000}))


def test_lists_that_hold_themselves_are_refused(tmp_path: Path) -> None:
    value: list[Any] = [1.0]
    value.append({"again": value})
    with pytest.raises(UnsafeFileError, match="holds itself"):
        load(tmp_path, pickle.dumps(value))


def sparse(**fields: Any) -> SparseMatrix:
    matrix = SparseMatrix()
    whole = {"_shape": (5, 3), "data": np.ones(3), "indices": np.arange(3), "indptr": np.array([0, 1, 2, 3])}
    matrix.fields = whole | fields
    return matrix


@pytest.mark.parametrize(
    "fields",
    [
        {"indptr": np.array([0, 2**62, -(2**63), -(2**62), 3])},  # differences and their sum wrap to what they must be
        {"indptr": np.array([0.0, 1.0, 2.0, 3.0])},
        {"indptr": np.array([0, 2, 1, 3])},
        {"indptr": np.array(3)},
        {"indices": [0, 1, 2]},
        {"_shape": (float("inf"), 3)},
        {"_shape": None},
        {"data": np.zeros(3, "U9")},
        {"data": np.zeros((3, 1))},
    ],
)
def test_damaged_sparse_matrices_are_refused(fields: dict[str, Any]) -> None:
    assert sparse().to_dense().trace() == 3
    with pytest.raises(UnsafeFileError, match="damaged sparse matrix"):
        sparse(**fields).to_dense()


def test_chumpy_objects_made_of_themselves_are_refused() -> None:
    loop = ChumpyStandIn()
    loop.fields = {"a": loop, "idxs": np.arange(3)}
    with pytest.raises(UnsafeFileError, match="made of itself"):
        loop.to_array()


def test_a_byte_order_is_named_by_its_kind(tmp_path: Path) -> None:
    order = b"\x80\x02cnumpy\ndtype\n(X\x02\x00\x00\x00f4tR(K\x03" + shared_lists(7) + b"NNNtb."
    with pytest.raises(UnsafeFileError, match="byte order"):
        load(tmp_path, order)
