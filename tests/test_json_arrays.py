"""JSON arrays against the standard library's reading, hostile files, and the memory that reading takes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handmim import json_arrays
from handmim.errors import DataError
from handmim.json_arrays import read_array, read_arrays, write_array, write_arrays

ITEM = "[[1,2,3],[4,5,6]]"


@pytest.fixture(params=["simdjson", "standard library"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with pysimdjson and as if it were not installed."""
    if request.param == "simdjson":
        pytest.importorskip("simdjson")
    else:
        monkeypatch.setitem(sys.modules, "simdjson", None)
    return request.param


def written(folder: Path, text: str) -> Path:
    path = folder / "labels.json"
    path.write_text(text)
    return path


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("shape", [(), (3,), (1, 5), (7, 3), (2, 2, 2)])
def test_reads_what_the_standard_library_reads(
    shape: tuple[int, ...], indent: int | None, parser: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_arrays, "PIECE_BYTES", 97)  # many pieces, cut everywhere
    values = np.random.default_rng(0).normal(size=(50, *shape)) * 10.0 ** np.random.default_rng(1).integers(-9, 9)
    path = written(tmp_path, json.dumps(values.tolist(), indent=indent))
    np.testing.assert_array_equal(read_array(path, shape, np.float64), values)
    assert read_array(path, shape).dtype == np.float32
    if shape:
        np.testing.assert_array_equal(read_array(path, (None, *shape[1:]), np.float64), values)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=8), st.sampled_from([1, 5, 64]))
def test_every_double_survives(tmp_path_factory: pytest.TempPathFactory, values: list[float], piece: int) -> None:
    path = tmp_path_factory.mktemp("doubles") / "labels.json"
    array = np.array(values, np.float64).reshape(-1, 1)
    write_array(path, array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_arrays, "PIECE_BYTES", piece)
        np.testing.assert_array_equal(read_array(path, (1,), np.float64), array)


def test_several_arrays_in_one_file(parser: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joints, vertices = np.random.default_rng(0).normal(size=(9, 21, 3)), np.ones((9, 40, 3))
    path = tmp_path / "pred.json"
    write_arrays(path, [joints, vertices, vertices[:0]])
    assert json.loads(path.read_text()) == [joints.tolist(), vertices.tolist(), []]
    for piece in (50, 5000, 2**20):
        monkeypatch.setattr(json_arrays, "PIECE_BYTES", piece)
        read = read_arrays(path, [(21, 3), (None, 3), (778, 3)])
        for got, expected in zip(read, (joints, vertices, np.empty((0, 778, 3))), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_writing_rounds_when_asked_and_refuses_what_json_lacks(tmp_path: Path) -> None:
    path = tmp_path / "array.json"
    write_array(path, np.array([[0.1234567891234]]), decimals=9)
    assert path.read_text() == "[[0.123456789]]"
    with pytest.raises(DataError, match="item 1 .* not finite"):
        write_array(path, np.array([[0.0], [np.nan]]))
    assert path.read_text() == "[[0.123456789]]"  # the old file is still there, and no other
    assert list(tmp_path.iterdir()) == [path]


HOSTILE = {
    "cut off between items": (f"[{ITEM},{ITEM}", "middle"),
    "cut off in an item": (f"[{ITEM},[[1,2,3],[4", "middle: item 1 "),
    "empty": ("", "end of the file"),
    "an object": ("{}", "'{'"),
    "a number": ("3", "'3'"),
    "trailing text": (f"[{ITEM}] 1", "'1'"),
    "trailing bracket": (f"[{ITEM}]]", "']'"),
    "ragged": (f"[{ITEM},[[1,2],[3,4,5,6]],{ITEM}]", r"item 1 must be 2x3 plain numbers, got '\[\[1,2\]"),
    "short item": (f"[{ITEM},{ITEM},[[1,2,3]]]", "item 2 must be 2x3"),
    "too deep": (f"[{ITEM},[{ITEM}]]", "item 1 must be 2x3"),
    "not a number": (f"[{ITEM},[[1,2,3],[4,NaN,6]]]", "item 1 .* got 'NaN"),
    "infinity": (f"[{ITEM},[[1,2,3],[4,-Infinity,6]]]", "item 1 .* got 'Infinity"),
    "null": (f"[[[1,2,3],[null,5,6]],{ITEM}]", "item 0 .* got 'null"),
    "a string": (f'[{ITEM},[["1",2,3],[4,5,6]]]', 'item 1 .* got \'"1"'),
    "an object inside": (f'[{ITEM},{{"a":[1]}}]', "item 1 .* got '{"),
    "two numbers without a comma": (f"[{ITEM},[[1,2 2,3],[4,5,6]]]", "item 1 must be"),
    "leading zero": (f"[{ITEM},[[1,02,3],[4,5,6]]]", "item 1 must be"),
    "missing number": (f"[{ITEM},[[1,,3],[4,5,6]]]", "item 1 must be"),
    "missing comma": (f"[{ITEM}{ITEM}]", "item 0 must be"),
    "comma at the end": (f"[{ITEM},]", "item 1 must be"),
    "beyond float64": (f"[{ITEM},[[1,2,3],[4,1e999,6]]]", "item 1 "),
    "beyond float32": (f"[{ITEM},[[1,2,3],[4,1e99,6]]]", "item 1 has a number too large for float32"),
    "brackets only": ("[" * 100_000, "item 0 "),
    "nested deeply": ("[" * 100_000 + "]" * 100_000, "item 0 "),
    "much space": ("[[[1,2,3],[4,5," + " " * 3_000_000 + "6]]]", "item 0 "),
    "not text": ("[\x00\xff\xfe", "item 0 "),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_named(case: str, parser: str, tmp_path: Path) -> None:
    text, said = HOSTILE[case]
    path = written(tmp_path, text)
    with pytest.raises(DataError, match=said) as caught:
        read_array(path, (2, 3))
    assert "labels.json" in str(caught.value) and len(str(caught.value)) < 300


def test_wrong_numbers_of_arrays(tmp_path: Path) -> None:
    path = written(tmp_path, f"[[{ITEM}],[{ITEM}]]")
    with pytest.raises(DataError, match="3 arrays"):
        read_arrays(path, [(2, 3)] * 3)
    with pytest.raises(DataError, match="no more than 1 arrays"):
        read_arrays(path, [(2, 3)])
    with pytest.raises(DataError, match="array 1, item 0 must be 4x3"):
        read_arrays(path, [(2, 3), (4, 3)])


def test_missing_and_large_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing"):
        read_array(tmp_path / "none.json", (3,))
    path = written(tmp_path, "[[1,2,3]]")
    with pytest.raises(DataError, match="9 bytes, more than the 8"):
        read_array(path, (3,), max_bytes=8)


def test_whole_numbers_beyond_64_bits_are_numbers(parser: str, tmp_path: Path) -> None:
    path = written(tmp_path, "[[123456789012345678901234567890, 1]]")
    assert read_array(path, (2,), np.float64).tolist() == [[123456789012345678901234567890.0, 1.0]]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_near_the_size_of_the_result(tmp_path: Path) -> None:
    """19 MB of text become 3 MB; the standard library's way would take a hundred."""
    path = tmp_path / "vertices.json"
    write_array(path, np.random.default_rng(0).normal(size=(300, 778, 3)))
    program = f"""
import sys
sys.argv[0] = "handmim"
import re
import numpy as np
from handmim.json_arrays import read_array, write_array
write_array({str(tmp_path / "warm.json")!r}, np.ones((4, 3)))
read_array({str(tmp_path / "warm.json")!r}, (3,))
def peak():  # getrusage's would be that of the process which started this one, if it was larger
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
before = peak()
array = read_array({str(path)!r}, (778, 3))
print((peak() - before) / 1024 - array.nbytes / 2**20)
"""
    extra = float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
    assert extra < 25
