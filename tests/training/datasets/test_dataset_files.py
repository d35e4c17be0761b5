"""Helpers for files and label checks that the readers share."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handmim.mano_files import ManoFileError, UnsafeFileError, read_mano
from handmim.training.datasets import files
from handmim.training.datasets.label_checks import check_counts, check_in_frame, project_points
from handmim.training.datasets.sample import DataError


@pytest.mark.parametrize("name", ["a.jpg", "a/b.jpg", "a\\b.jpg", "./a.jpg", "..a/b..jpg"])
def test_inside_admits_what_lies_below(tmp_path: Path, name: str) -> None:
    path = files.inside(tmp_path, name)
    assert path.resolve().is_relative_to(tmp_path.resolve())
    assert path.name in ("a.jpg", "b.jpg", "b..jpg")


@pytest.mark.parametrize(
    "name", ["", ".", "../a", "a/../../b", "a/../b", "/etc/passwd", "C:\\a", "C:a", "a\0b", "//x/y"]
)
def test_inside_refuses_the_rest(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="labels.json names the file .* which is not below"):
        files.inside(tmp_path, name, "labels.json")


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_inside_follows_links(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "within").mkdir(parents=True)
    (root / "good").symlink_to(root / "within")
    (root / "bad").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    (tmp_path / "link").symlink_to(root)
    assert files.inside(tmp_path / "link", "good/a.jpg") == tmp_path / "link" / "good" / "a.jpg"
    for name in ("bad/a.jpg", f"bad/{root.name}/a.jpg/../../x"):
        with pytest.raises(DataError):
            files.inside(root, name)


def test_required_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a.json is missing: joints; unpack x.zip"):
        files.require(tmp_path / "a.json", "joints; unpack x.zip")
    with pytest.raises(DataError, match="rgb is missing: pictures"):
        files.list_images(tmp_path / "rgb", "pictures")
    for name in ("000.jpg", "002.jpg", "b.png", ".hidden.jpg", "a.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in files.list_images(tmp_path, "")] == ["000.jpg", "002.jpg", "b.png"]
    files.require_numbered(tmp_path, [0, 2], 3, ".jpg", "")
    with pytest.raises(DataError, match=r"001.jpg is missing \(2 such files are\): pictures"):
        files.require_numbered(tmp_path, range(4), 3, ".jpg", "pictures")


def test_parts_are_counted(tmp_path: Path) -> None:
    for name in ("a/rgb/1.png", "b/rgb/1.png", "b/rgb/2.png", "b/rgb/2.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert files.folder_part(tmp_path, "*/rgb", "pictures", 9, ".png").found == 3
    assert files.folder_part(tmp_path, "b/rgb", "pictures").found == 3
    assert files.file_part(tmp_path, "a.json", "labels").found == 0


def test_texts_and_arrays_are_limited(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\n\r\n b \n")
    assert files.load_lines(path) == ["a", "b"]
    path.write_bytes(b"\xff\xfe")
    for load, data in (
        (files.load_lines, b"\xff\xfe"),
        (files.load_json, b"{"),
        (files.load_json, b"[" * 100_000),
        (files.load_pickle, b"cos\nsystem\n."),
        (files.load_npz, b"PK"),
        (partial(files.load_mat, names=["a"]), b"nothing"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match="list.txt"):
            load(path)
        path.write_bytes(b"x" * 100)
        with pytest.raises(DataError, match="list.txt"):
            load(path, max_bytes=10)
    np.savez_compressed(tmp_path / "zeros.npz", a=np.zeros(1_000_000))
    with pytest.raises(DataError, match="unpacks to 8000"):
        files.load_npz(tmp_path / "zeros.npz", max_bytes=1_000_000)
    assert files.load_npz(tmp_path / "zeros.npz")["a"].shape == (1_000_000,)


def test_matlab_arrays(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    path = tmp_path / "labels.mat"
    scipy_io.savemat(path, {"handPara": np.arange(6.0).reshape(2, 3), "text": "x"})
    assert files.load_mat(path, ["handPara"])["handPara"].tolist() == [[0, 1, 2], [3, 4, 5]]
    for name in ("absent", "text"):
        with pytest.raises(DataError, match=f"labels.mat must hold the array of numbers '{name}'"):
            files.load_mat(path, [name])
    scipy_io.savemat(path, {"a": np.zeros((1000, 1000))}, do_compression=True)
    with pytest.raises(DataError, match="unfolds to 8000000"):
        files.load_mat(path, ["a"], max_bytes=100_000)


def test_masks_are_stretched_to_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    pixels = np.zeros((3, 4, 3), np.uint8)
    pixels[1, 2] = (0, 9, 200)
    Image.fromarray(np.kron(pixels, np.ones((3, 3, 1), np.uint8))).save(path)  # 12 x 9
    assert files.read_mask(path).sum() == 9 and files.read_mask(path, channel=1).sum() == 0
    assert files.read_mask(path, above=0, channel=1).sum() == 9
    double = files.read_mask(path, size=(24, 18))
    assert double.shape == (18, 24) and double.sum() == 36 and double[6:12, 12:18].all()
    assert files.image_size(path) == (12, 9)
    path.write_bytes(b"no picture")
    for read in (files.image_size, files.read_image):
        with pytest.raises(DataError, match="mask.png"):
            read(path)


def test_checks_leave_unlabelled_points_alone() -> None:
    points = np.full((2, 21, 2), 50.0)
    points[0] = np.nan
    points[1, :20] = np.nan
    check_in_frame(points, (100, 100), Path("a"), "keypoints_2d", str)
    points[1, 20] = (151, 50)
    with pytest.raises(DataError, match="a: keypoints_2d of sample 1 lies out of its picture of 100 x 100"):
        check_in_frame(points, (100, 100), Path("a"), "keypoints_2d", str)
    assert check_counts({Path("a"): 3, Path("b"): 3}) == 3


def test_projection_agrees_with_the_package() -> None:
    import torch

    from handmim.geometry import project

    rng = np.random.default_rng(0)
    points = rng.normal(size=(5, 7, 3)) + [0, 0, 5]
    intrinsics = np.broadcast_to(np.array([[300.0, 0, 110], [0, 310, 90], [0, 0, 1]]), (5, 3, 3))
    expected = project(torch.from_numpy(points), torch.from_numpy(intrinsics.copy())).numpy()
    np.testing.assert_allclose(project_points(points, intrinsics), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("place", "value", "what"),
    [
        (b"PK\x01\x02\x06", 149, "version"),  # needs a program of the future
        (b"PK\x01\x02\x08", 0x20, "patched"),
        (b"PK\x01\x02\x08", 0x01, "encrypted"),
        (b"PK\x01\x02\x0a", 99, "compression"),
        (b"PK\x03\x04\x37", 0xFF, "Error"),  # in the compressed data
    ],
)
def test_archives_of_other_kinds_are_named(tmp_path: Path, place: bytes, value: int, what: str) -> None:
    path = tmp_path / "arrays.npz"
    np.savez_compressed(path, a=np.zeros(1000))
    data = bytearray(path.read_bytes())
    start = data.index(place[:4]) + place[4]  # the last byte is the distance from the mark
    data[start : start + 1 if value < 0xFF else start + 8] = bytes([value]) * (1 if value < 0xFF else 8)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"arrays\.npz is not an \.npz of plain arrays") as error:
        files.load_npz(path)
    assert what in str(error.value)
    with pytest.raises((ManoFileError, UnsafeFileError), match=r"arrays\.npz"):
        read_mano(path)
