"""Dexter+Object: fingertips in millimetres of the depth camera become joints before the colour camera."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from fabricate_datasets import dexter_object as fabricator
from fabricate_datasets.scenes import Scene, make_scenes

from handmim.errors import DataError
from handmim.training.datasets.check import check_reader
from handmim.training.datasets.dexter_object import DexterObject, parse_line
from handmim.training.datasets.registry import open_dataset

TIPS = list(fabricator.TIPS.values())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Scene]]:
    root = tmp_path_factory.mktemp("dexter")
    return root, fabricator.write(root, make_scenes(2, seed=41, size=(240, 240), side="left"))


def test_tips_stand_where_they_are_seen(written: tuple[Path, list[Scene]]) -> None:
    root, frames = written
    reader = open_dataset("dexter-object", root)
    assert len(reader) == 12 and reader[2].id == "Grasp2/image_0000_color"
    assert {sample.id.split("/")[0] for sample in reader} == set(fabricator.SEQUENCES)
    for number, sample in enumerate(reader):
        frame, labels = frames[number % 2], sample.labels
        labelled = [tip for tip in TIPS if number % 2 or tip != fabricator.TIPS["ring"]]
        assert np.flatnonzero(~np.isnan(labels["joints"]).any(1)).tolist() == labelled
        np.testing.assert_allclose(labels["joints"][labelled], frame.joints[labelled], atol=2e-6)
        np.testing.assert_allclose(labels["keypoints_2d"][labelled], frame.keypoints_2d[labelled], atol=0.02)
        assert sample.handedness == "left" and sample.image.is_file()
        low, high = sample.box[:2], sample.box[2:]
        assert (frame.keypoints_2d >= low).all() and (frame.keypoints_2d <= high).all()  # the wrist as well
    assert check_reader(reader, images=True).ok


def test_frames_without_a_tip_are_left_out(written: tuple[Path, list[Scene]], tmp_path: Path) -> None:
    root = shutil.copytree(written[0], tmp_path / "dexter")
    file = root / "data/Pinch/annotations/Pinch3D.txt"
    nothing, second = fabricator.line(np.full((5, 3), 32001.0)), file.read_text().splitlines()[1]
    file.write_text(f"{nothing}\n{second}\n")
    reader = DexterObject(root)
    assert len(reader) == 11 and "1 frames without a label were left out" in reader.notes
    assert [sample.id for sample in reader if sample.id.startswith("Pinch")] == ["Pinch/image_0001_color"]
    points = fabricator.official(written[1][1])
    points[2, 2] = -5
    file.write_text(f"{nothing}\n{fabricator.line(points)}\n")
    reader = DexterObject(root)
    assert any(note.startswith("1 labels with a depth of 0 or less") for note in reader.notes)
    sample = next(sample for sample in reader if sample.id.startswith("Pinch"))
    assert np.isnan(sample.labels["joints"][12]).all() and not np.isnan(sample.labels["joints"][8]).any()


def test_corrected_labels_on_demand(written: tuple[Path, list[Scene]], tmp_path: Path) -> None:
    root = shutil.copytree(written[0], tmp_path / "dexter")
    with pytest.raises(DataError, match="my_Grasp13D.txt is missing"):
        DexterObject(root, revised=True)
    for sequence in fabricator.SEQUENCES:
        points = [fabricator.official(frame) + [0, 0, 10] for frame in written[1]]
        text = "\n".join(fabricator.line(value) for value in points)
        (root / f"data/{sequence}/annotations/my_{sequence}3D.txt").write_text(text)
    moved = DexterObject(root, revised=True)[1].labels["joints"] - DexterObject(root)[1].labels["joints"]
    np.testing.assert_allclose(moved[4], [0.000161, -0.000079, 0.009998], atol=2e-6)


def test_contents(written: tuple[Path, list[Scene]]) -> None:
    colour, labels, revised = DexterObject.contents(written[0])
    assert (colour.found, colour.expected) == (12, 3014)
    assert (labels.found, labels.expected, labels.required) == (6, 6, True)
    assert (revised.found, revised.required) == (0, False)


def test_wrong_files_are_named(written: tuple[Path, list[Scene]], tmp_path: Path) -> None:
    for text in ("1, 2, 3; 4, 5, 6", "1, 2; " * 5, "1, 2, x; " * 5, "1, 2, nan; " * 5, ""):
        with pytest.raises(DataError, match="here must hold"):
            parse_line(text, "here")
    root = shutil.copytree(written[0], tmp_path / "dexter")
    (root / "data/Rigid/color/image_0001_color.bmp").unlink()
    with pytest.raises(DataError, match="Rigid3D.txt has 2 lines, but .*color has 1 frames"):
        DexterObject(root)
    shutil.rmtree(root / "data/Rigid")
    with pytest.raises(DataError, match="Rigid3D.txt is missing"):
        DexterObject(root)
