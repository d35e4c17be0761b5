"""Predictions in the frame of the picture; runs that were stopped go on and give the same bits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_reader import SyntheticReader, write_manifest
from PIL import Image
from stub_network import StubNetwork

from handmim import HandMIMImageProcessor
from handmim.errors import DataError, ModelError
from handmim.evaluation.predictions import Predictions, Predictor, evaluated_box, predict, run_folder
from handmim.evaluation.real_photos import RealPhotos
from handmim.geometry import project
from handmim.training.datasets.boxes import keypoint_box
from handmim.training.datasets.sample import HandSample
from handmim.tta import View

COUNT = 10


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> SyntheticReader:
    return SyntheticReader(tmp_path_factory.mktemp("data"), count=COUNT)


def predictor(views: tuple[View, ...] = (), **options: object) -> Predictor:
    return Predictor(StubNetwork(), HandMIMImageProcessor(size=64), views, **options)


def run(reader: object, work: Predictor, folder: Path | None = None, **options: object) -> Predictions:
    defaults = {"count": len(reader), "batch_size": 2, "chunk": 3, "workers": 2, "progress": False}
    return predict(reader, work, folder=folder, **(defaults | options))


def same(a: Predictions, b: Predictions) -> bool:
    names = ("keypoints_2d", "joints", "vertices", "intrinsics")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def test_equal_to_the_front_door(tmp_path: Path) -> None:
    """Left and right hands, own cameras: as `HandMIM` answers with the same boxes and sides."""
    from handmim import HandMeshPipeline, HandMIM

    reader = RealPhotos(write_manifest(tmp_path))
    network, processor = StubNetwork(), HandMIMImageProcessor(size=64)
    pipeline = HandMeshPipeline(model=network, image_processor=processor, device="cpu", detector="none")
    result = run(reader, Predictor(network, processor))
    for row, sample in enumerate(reader):
        (hand,) = HandMIM(pipeline)(sample.image, sample.box, sample.handedness, sample.intrinsics)
        np.testing.assert_allclose(result.vertices[row], hand.vertices, atol=1e-6)
        np.testing.assert_allclose(result.keypoints_2d[row], hand.keypoints_2d, atol=1e-3)
        projected = project(torch.from_numpy(hand.joints), torch.from_numpy(result.intrinsics[row]))
        np.testing.assert_allclose(result.keypoints_2d[row], projected, atol=1e-2)


def test_an_interrupted_run_continues(reader: SyntheticReader, tmp_path: Path) -> None:
    whole = run(reader, predictor())
    (tmp_path / "b").mkdir()
    work, original = predictor(), Predictor.__call__
    calls = []

    class Stops(Predictor):
        def __call__(self, crops: list) -> dict:
            calls.append(len(crops))
            if len(calls) == 6:  # in the third chunk (two batches each)
                raise KeyboardInterrupt
            return original(self, crops)

    with pytest.raises(KeyboardInterrupt):
        run(reader, Stops(work.model, work.processor), tmp_path / "b")
    assert sorted(file.name for file in (tmp_path / "b").iterdir()) == [
        "0000000-0000003.npz",
        "0000003-0000006.npz",
    ]
    (tmp_path / "b" / ".0000006-0000009.npz.x.tmp").write_bytes(b"half")  # what a kill leaves
    work.model.batches.clear()
    assert same(run(reader, work, tmp_path / "b"), whole)
    assert sum(work.model.batches) == COUNT - 6
    work.model.batches.clear()
    assert same(run(reader, work, tmp_path / "b"), whole) and not work.model.batches
    assert same(run(reader, work, None), whole)


@pytest.mark.parametrize("damage", ["empty", "cut", "bits", "pickle", "shape", "name", "nan", "double"])
def test_a_damaged_chunk_is_made_again(
    reader: SyntheticReader, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture
) -> None:
    whole = run(reader, predictor(), tmp_path)
    path = tmp_path / "0000003-0000006.npz"
    data = path.read_bytes()
    with np.load(path) as file:
        arrays = dict(file)
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "bits":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes(byte ^ 255 for byte in data[middle : middle + 8]) + data[middle + 8 :])
    else:
        joints = arrays["joints"]
        changed = {
            "pickle": np.array([{}, {}, {}], object),
            "shape": joints[:2],
            "nan": np.full_like(joints, np.nan),
            "double": joints.astype(np.float64),
        }
        arrays = {"vertices": arrays["vertices"]} if damage == "name" else arrays | {"joints": changed[damage]}
        np.savez(path, **arrays)
    again = predictor()
    assert same(run(reader, again, tmp_path), whole)
    assert sum(again.model.batches) == 3 and "0000003-0000006.npz is damaged" in capsys.readouterr().err
    assert path.read_bytes() == data


def test_folders_of_runs(tmp_path: Path) -> None:
    first = run_folder(tmp_path, {"model": {"weights": "a"}, "tta": None})
    assert first == run_folder(tmp_path, {"tta": None, "model": {"weights": "a"}})
    others = [run_folder(tmp_path, {"model": {"weights": w}, "tta": t}) for w, t in (("b", None), ("a", [1]))]
    assert len({first, *others}) == 3 and (first / "run.json").is_file()


def test_boxes(tmp_path: Path) -> None:
    """As in training; a hand of which no label tells the place fills its picture, so that the crop is all of that."""
    points = np.random.default_rng(0).uniform(10, 50, (21, 2)).astype(np.float32)
    sample = HandSample("x", tmp_path / "x.png", labels={"keypoints_2d": points})
    np.testing.assert_array_equal(evaluated_box(sample), keypoint_box(points))
    mask = np.zeros((30, 40), bool)
    mask[5:15, 10:30] = True
    Image.fromarray(mask).save(sample.image)
    assert evaluated_box(replace(sample, labels={}, load_mask=lambda: mask)).tolist() == [9.5, 4.5, 29.5, 14.5]
    for labels in ({}, {"keypoints_2d": np.full((21, 2), np.nan)}):
        nowhere = replace(sample, labels=labels)
        assert evaluated_box(nowhere).tolist() == [-0.5, -0.5, 39.5, 29.5]
        np.testing.assert_allclose(evaluated_box(nowhere, 1.25), [3.5, 2.5, 35.5, 26.5])
    with pytest.raises(DataError, match="sample x: a box must be"):
        evaluated_box(replace(sample, box=np.array([3.0, 0, 1, 9])))
    with pytest.raises(DataError, match="y.png is missing"):
        evaluated_box(replace(nowhere, image=tmp_path / "y.png"))


def test_samples_that_cannot_be_used_are_named(reader: SyntheticReader, tmp_path: Path) -> None:
    class Broken(SyntheticReader):
        def __getitem__(self, index: int) -> HandSample:
            sample = super().__getitem__(index)
            box = np.array([900.0, 900, 950, 950]) if index == 4 else None
            return HandSample(sample.id, sample.image, "right", box, labels=sample.labels)

    with pytest.raises(DataError, match="sample hand 4: box .* lies outside"):
        run(Broken(tmp_path, count=COUNT), predictor())
    (reader.root / "3.png").rename(tmp_path / "kept.png")
    try:
        with pytest.raises(DataError, match="sample hand 3: .*3.png"):
            run(reader, predictor())
    finally:
        (tmp_path / "kept.png").rename(reader.root / "3.png")


def test_a_network_that_gives_nan(reader: SyntheticReader) -> None:
    class Broken(StubNetwork):
        def forward(self, pixel_values: torch.Tensor, intrinsics: torch.Tensor) -> dict:
            answer = super().forward(pixel_values, intrinsics)
            return answer | {"joints": answer["joints"] * torch.tensor([[1.0], [float("nan")]])[:, None]}

    with pytest.raises(ModelError, match="joints for sample hand 1 are not finite"):
        run(reader, Predictor(Broken(), HandMIMImageProcessor(size=64)))


def test_an_unknown_side_is_found(reader: SyntheticReader, tmp_path: Path) -> None:
    class Sideless(SyntheticReader):
        def __getitem__(self, index: int) -> HandSample:
            sample = super().__getitem__(index)
            return HandSample(sample.id, sample.image, None, sample.box, sample.intrinsics, sample.labels)

    class Left(SyntheticReader):
        def __getitem__(self, index: int) -> HandSample:
            sample = super().__getitem__(index)
            return HandSample(sample.id, sample.image, "left", sample.box, sample.intrinsics, sample.labels)

    brightest = {}

    def right(pixels: torch.Tensor) -> torch.Tensor:
        """Likes crops that are brighter on the right: of a crop and its mirror image always one."""
        across = torch.linspace(-1, 1, pixels.shape[-1])
        return (pixels[:, 0] * across).mean((1, 2))

    work = Predictor(StubNetwork(right=right), HandMIMImageProcessor(size=64))
    for kind in (SyntheticReader, Left, Sideless):
        brightest[kind] = run(kind(tmp_path, count=COUNT), work)
    plain, left, found = (brightest[kind].joints for kind in (SyntheticReader, Left, Sideless))
    # Not to the bit: other batches.
    chosen = [np.allclose(f, p, atol=1e-5) for f, p in zip(found, plain, strict=True)]
    expected = np.where(np.array(chosen)[:, None, None], plain, left)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert 0 < sum(chosen) < COUNT


# ---------------------------------------------------------------------------------------------------------------------
# Test-time augmentation, see test_tta.py


def test_a_plain_view_changes_nothing(reader: SyntheticReader) -> None:
    plain, viewed = run(reader, predictor()), run(reader, predictor((View(),)))
    np.testing.assert_allclose(viewed.joints, plain.joints, atol=2e-4)
    np.testing.assert_allclose(viewed.keypoints_2d, plain.keypoints_2d, atol=0.05)
    np.testing.assert_array_equal(viewed.intrinsics, plain.intrinsics)


def test_quarter_turns_agree(reader: SyntheticReader) -> None:
    """The stub turns with the picture, so a turned view must come back to the same hand, of left hands as well."""
    views = tuple(View(angle) for angle in (0, 90, 180, 270))
    plain, turned = run(reader, predictor()), run(reader, predictor(views))
    np.testing.assert_allclose(turned.joints, plain.joints, atol=3e-4)
    np.testing.assert_allclose(turned.keypoints_2d, plain.keypoints_2d, atol=0.1)
