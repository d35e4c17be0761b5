"""Collections of unlabelled pictures: what is found, what is read, and what is said of pictures that cannot be."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from fabricate_datasets.given import ListReader
from PIL import Image

from handmim.errors import DataError
from handmim.images import LoadedImage
from handmim.synthesis import generate
from handmim.training.datasets import images as module
from handmim.training.datasets.images import (
    CropImages,
    FolderImages,
    JoinedImages,
    ReaderImages,
    SyntheticImages,
    cut_square,
    open_images,
)
from handmim.training.datasets.sample import HandSample
from handmim.training.pretraining_data import build_images


def gradient(width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8; red grows to the right, green downwards."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), x * 0 + 60], -1).astype(np.uint8)


def save(path: Path, width: int = 60, height: int = 40, **options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(gradient(width, height)).save(path, **options)
    return path


def test_folder_tree(tmp_path: Path) -> None:
    save(tmp_path / "b" / "two.PNG")
    save(tmp_path / "a.jpg")
    save(tmp_path / "b" / "c" / "one.webp")
    save(tmp_path / ".hidden" / "no.png")
    (tmp_path / "notes.txt").write_text("no picture")
    images = FolderImages(tmp_path, size=None)
    assert [images.describe(k) for k in range(len(images))] == ["a.jpg", "b/two.PNG", "b/c/one.webp"]
    assert np.array_equal(images[1], gradient(60, 40))
    assert [picture.shape for picture in images] == [(40, 60, 3)] * 3
    with pytest.raises(IndexError):
        images[3]


def test_large_pictures_are_shrunk_and_small_ones_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "large.jpg", 1000, 500, quality=95)
    save(tmp_path / "small.jpg", 30, 20)
    reductions = []
    original = module.load_reduced
    monkeypatch.setattr(module, "load_reduced", lambda path, by: reductions.append(by) or original(path, by))
    images = FolderImages(tmp_path, size=100)
    assert images[0].shape == (50, 100, 3)
    assert reductions == [8]  # decoded at 125 x 63
    assert np.abs(images[0].astype(int) - gradient(100, 50)).max() < 8
    assert images[1].shape == (20, 30, 3)


def test_kinds_of_pictures(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 40 * 40).reshape(40, 40)
    Image.fromarray(grey.astype(np.uint16)).save(tmp_path / "16bit.png")
    Image.fromarray(gradient(40, 40)).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(gradient(40, 40)).convert("L").save(tmp_path / "grey.png")
    Image.fromarray(gradient(40, 40)).convert("RGBA").save(tmp_path / "rgba.png")
    images = FolderImages(tmp_path)
    assert len(images) == 4
    for picture in images:
        assert picture.shape == (40, 40, 3)
        assert picture.dtype == np.uint8
        assert picture.std() > 20  # not silently black


def huge_png(width: int, height: int) -> bytes:
    """The header of a picture that would not fit into memory."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0" * 100)) + chunk(b"IEND", b"")
    )


def test_broken_pictures_are_named(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.jpg", 200, 200).read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("this is no picture")
    (tmp_path / "huge.png").write_bytes(huge_png(50_000, 50_000))
    save(tmp_path / "tiny.png", 12, 300)
    (tmp_path / "folder.jpg").mkdir()
    images = FolderImages(tmp_path)
    results = images.read_many(range(len(images)))
    broken = {images.describe(index): error for index, error in enumerate(results) if isinstance(error, DataError)}
    messages = {name: str(error) for name, error in broken.items()}
    assert set(messages) == {"truncated.jpg", "empty.png", "text.jpg", "huge.png", "tiny.png"}
    for name, message in messages.items():
        assert name in message
    assert "too small" in messages["tiny.png"]
    (tmp_path / "whole.jpg").unlink()
    gone = next(index for index in range(len(images)) if images.describe(index) == "whole.jpg")
    with pytest.raises(DataError, match="whole.jpg"):
        images[gone]


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no picture"):
        FolderImages(tmp_path)
    with pytest.raises(DataError, match="missing"):
        FolderImages(tmp_path / "nowhere")


@pytest.mark.parametrize("size", [None, 32])
def test_square_crops(size: int | None) -> None:
    picture = LoadedImage(gradient(120, 90))
    crop = cut_square(picture, np.array([29.5, 19.5, 69.5, 49.5]), size, 1.5)
    # 60 px around (49.5, 34.5): from 19.5 to 79.5, and from 4.5 to 64.5
    side = size or 60
    assert crop.shape == (side, side, 3)
    expected = gradient(120, 90)[5:65, 20:80]
    if size:
        expected = np.asarray(Image.fromarray(expected).resize((side, side), Image.Resampling.BILINEAR))
    assert np.abs(crop.astype(int) - expected).max() <= 1


def test_crops_beyond_the_picture_are_filled() -> None:
    crop = cut_square(LoadedImage(gradient(100, 100)), np.array([-20.5, 39.5, 19.5, 79.5]), None, 1.0)
    assert crop.shape == (40, 40, 3)
    assert (crop[:, :20] == module.OUTSIDE).all()
    assert np.array_equal(crop[:, 20:], gradient(100, 100)[40:80, :20])


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((10, 10, 12, 12), "too small"),
        ((500, 500, 600, 600), "outside"),
        ((50, 50, 20, 80), "x0 < x1"),
        ((float("nan"), 0, 20, 80), "x0 < x1"),
    ],
)
def test_unfit_boxes(box: tuple[float, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        cut_square(LoadedImage(gradient(100, 100)), np.array(box), 64, 1.2)


def test_reader_crops(tmp_path: Path) -> None:
    photo = save(tmp_path / "photo.png", 400, 300)
    large = save(tmp_path / "large.jpg", 1600, 1200, quality=95)
    points = np.full((21, 2), np.nan, np.float32)
    points[:2] = (100, 100), (200, 150)
    samples = [
        HandSample("box", photo, "right", np.array([99.5, 99.5, 199.5, 199.5])),
        HandSample("left", photo, "left", np.array([99.5, 99.5, 199.5, 199.5])),
        HandSample("points", photo, None, labels={"keypoints_2d": points}),
        HandSample("nothing", photo),
        HandSample("reduced", large, "right", np.array([399.5, 399.5, 799.5, 799.5])),
        HandSample("gone", tmp_path / "gone.png", "right", np.array([0, 0, 100, 100])),
    ]
    images = ReaderImages(ListReader(samples, tmp_path), size=100, box_scale=1.0)
    assert np.abs(images[0].astype(int) - gradient(400, 300)[100:200, 100:200]).max() <= 1
    assert np.array_equal(images[1], images[0])
    assert images[2].shape == (100, 100, 3)
    assert images[3].shape == (75, 100, 3)
    # the same share of the picture, decoded at a quarter
    assert np.abs(images[4].astype(int) - gradient(400, 300)[100:200, 100:200]).max() < 6
    with pytest.raises(DataError, match="sample gone of list.*does not exist"):
        images[5]
    mirrored = ReaderImages(ListReader(samples, tmp_path), size=100, box_scale=1.0, mirror_left=True)
    assert np.array_equal(mirrored[1], images[1][:, ::-1])
    assert np.array_equal(mirrored[0], images[0])


def manifest(folder: Path, *records: object) -> Path:
    (folder / "manifest.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return folder


def test_crops_with_a_manifest(tmp_path: Path) -> None:
    save(tmp_path / "x" / "1.png", 50, 50)
    save(tmp_path / "x" / "2.png", 50, 50)
    save(tmp_path / "unlisted.png")
    manifest(tmp_path, {"file": "x/1.png", "side": "left"}, {"file": "x/2.png", "side": None})
    images = open_images("crops", tmp_path)
    assert [images.describe(k) for k in range(len(images))] == ["x/1.png", "x/2.png"]
    mirrored = CropImages(tmp_path, mirror_left=True)
    assert np.array_equal(mirrored[0], images[0][:, ::-1])
    assert np.array_equal(mirrored[1], images[1])


@pytest.mark.parametrize(
    ("record", "message"),
    [({"file": "../secret.png"}, "not below"), ({"file": 3}, "line 1"), ([], "object"), ({}, "file must be")],
)
def test_unfit_manifests(tmp_path: Path, record: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        CropImages(manifest(tmp_path, record))
    with pytest.raises(DataError, match="lists no crop"):
        CropImages(manifest(tmp_path))
    (tmp_path / "manifest.jsonl").unlink()
    with pytest.raises(DataError, match="missing"):
        CropImages(tmp_path)


def test_joined_and_synthetic(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 50, 50)
    synthetic = SyntheticImages(5, seed=2, size=32)
    joined = JoinedImages([synthetic, FolderImages(tmp_path), SyntheticImages(2, seed=3, size=32)])
    assert len(joined) == 8
    pictures = joined.read_many([7, 5, 1])
    assert [picture.shape for picture in pictures] == [(32, 32, 3), (50, 50, 3), (32, 32, 3)]
    assert np.array_equal(pictures[2], synthetic[1])
    assert np.array_equal(joined[7], SyntheticImages(1, seed=3, size=32, first=1)[0])
    assert joined.describe(5) == "a.png"
    with pytest.raises(IndexError):
        joined[8]


def test_rendered_pictures_vary_as_asked_for() -> None:
    """`variety` and `betas` were no fields of a recipe, though the README tells of them."""
    options = {"variety": {"base": "plain", "things": 0.5}, "betas": [2, -1.5], "negatives": 0.0}
    images = build_images([{"name": "synthetic", "length": 2, "seed": 4, "size": 32, **options}])
    betas = torch.tensor([2, -1.5] + 8 * [0.0])
    expected = generate(4, range(2), size=32, **options | {"betas": betas}).images.numpy()
    assert np.array_equal(np.stack(list(images)), expected)


def test_thin_pictures_are_too_small_once_shrunk(tmp_path: Path) -> None:
    """Their lesser side was looked at before they were shrunk: 256 x 2 px were trained on."""
    save(tmp_path / "thin.png", 3000, 20)
    save(tmp_path / "wide.png", 3000, 200)
    thin, wide = FolderImages(tmp_path).read_many([0, 1])
    assert isinstance(thin, DataError)
    assert "thin.png is too small: 256 x 2 px with its longer side at most 256" in str(thin)
    assert wide.shape == (17, 256, 3)
    assert FolderImages(tmp_path, size=None)[0].shape == (20, 3000, 3)


def test_open_images_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'photos'"):
        open_images("photos", tmp_path)
    with pytest.raises(DataError, match="root"):
        open_images("folder")
    save(tmp_path / "a.png")
    assert len(open_images("folder", tmp_path, size=128)) == 1
    assert len(open_images("synthetic", length=3, size=32)) == 3
