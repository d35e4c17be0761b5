"""Submission files: their official form, conversions, and what is refused."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from handmim.errors import DataError
from handmim.evaluation.official import FREIHAND, HO3D_V2, HO3D_V3
from handmim.evaluation.submission import (
    from_official,
    load_submission,
    to_official,
    validate_submission,
    write_submission,
)


@pytest.fixture()
def hands() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(4, 21, 3)).round(9), random.normal(size=(4, 30, 3)).round(9)


def test_written_files_have_the_official_form(hands: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    archive = write_submission(tmp_path / "new/out", *hands, FREIHAND)
    assert sorted(p.name for p in archive.parent.iterdir()) == ["pred.json", "pred.zip"]
    joints, vertices = json.loads((archive.parent / "pred.json").read_text())
    assert joints == hands[0].tolist() and vertices == hands[1].tolist()
    with zipfile.ZipFile(archive) as file:
        assert file.namelist() == ["pred.json"]
        assert file.read("pred.json") == (archive.parent / "pred.json").read_bytes()
    for path in (archive, archive.parent / "pred.json"):
        validate_submission(path, FREIHAND, 4)
        for read, expected in zip(load_submission(path, FREIHAND, 4), hands, strict=True):
            np.testing.assert_array_equal(read, expected)


def test_single_precision_survives_to_a_nanometre(tmp_path: Path) -> None:
    joints = np.random.default_rng(0).normal(0.7, 0.1, (2, 21, 3)).astype(np.float32)
    archive = write_submission(tmp_path, joints, joints, FREIHAND)
    np.testing.assert_array_equal(load_submission(archive, FREIHAND, 2)[0].astype(np.float32), joints)


def test_frames_and_orders(hands: tuple[np.ndarray, np.ndarray]) -> None:
    joints, vertices = to_official(*hands, FREIHAND)
    np.testing.assert_array_equal(joints, hands[0])
    np.testing.assert_array_equal(vertices, hands[1])
    for protocol in (HO3D_V2, HO3D_V3):
        joints, vertices = to_official(*hands, protocol)
        # HO3D: wrist, index 1-3, middle 1-3, little 1-3, ring 1-3, thumb 1-3, tips from thumb to little; OpenGL
        flip = np.array([1, -1, -1])
        for official, ours in ((0, 0), (1, 5), (4, 9), (7, 17), (10, 13), (13, 1), (16, 4), (17, 8), (20, 20)):
            np.testing.assert_array_equal(joints[:, official], hands[0][:, ours] * flip)
        np.testing.assert_array_equal(vertices, hands[1] * flip)
        back = from_official(joints, vertices, protocol)
        np.testing.assert_array_equal(back[0], hands[0])
        np.testing.assert_array_equal(back[1], hands[1])
        assert to_official(hands[0], None, protocol)[1] is None


BAD_TEXT = {
    "must hold joints of 4 samples for FreiHAND, got 3": ([3, 21], [4, 30]),
    "must hold vertices of 4 samples for FreiHAND, got 5": ([4, 21], [5, 30]),
    "array 0, item 0 must be 21x3": ([4, 20], [4, 30]),
    "array 1, item 0 must be": ([4, 21], [4, 0]),
}


@pytest.mark.parametrize("said", BAD_TEXT)
def test_wrong_counts_are_named(said: str, tmp_path: Path) -> None:
    path = tmp_path / "pred.json"
    path.write_text(json.dumps([np.zeros((*size, 3)).tolist() for size in BAD_TEXT[said]]))
    with pytest.raises(DataError, match=said) as caught:
        load_submission(path, FREIHAND, 4)
    assert "pred.json" in str(caught.value)


def test_mixed_meshes_and_nan_name_the_sample(hands: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "pred.json"
    joints, vertices = (array.tolist() for array in hands)
    path.write_text(json.dumps([joints, [*vertices[:2], vertices[2][:29], vertices[3]]]))
    with pytest.raises(DataError, match="array 1, item 2 must be 30x3"):
        load_submission(path, FREIHAND, 4)
    joints[3][7][1] = float("nan")
    path.write_text(json.dumps([joints, vertices]))
    with pytest.raises(DataError, match="array 0, item 3 must be 21x3 plain numbers, got 'NaN"):
        load_submission(path, FREIHAND, 4)
    with pytest.raises(DataError, match="got 4.*every sample|3960 samples"):
        load_submission(write_submission(tmp_path, *hands, FREIHAND), FREIHAND)


def test_arrays_that_cannot_be_written(hands: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    joints, vertices = hands
    for bad in ((joints[:, :20], vertices), (joints, vertices[:3]), (joints, vertices[:, :0]), (joints, None)):
        with pytest.raises(DataError, match="must be of shape"):
            write_submission(tmp_path, *bad, FREIHAND)
    with pytest.raises(DataError, match="item 0 .* not finite"):
        write_submission(tmp_path, joints * np.nan, vertices, FREIHAND)
    assert not list(tmp_path.iterdir())


def test_hostile_archives(
    hands: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_submission(tmp_path / "good", *hands, FREIHAND)
    text = (tmp_path / "good/pred.json").read_text()

    def packed(**names: str) -> Path:
        path = tmp_path / "bad.zip"
        with zipfile.ZipFile(path, "w") as file:
            for name, content in names.items():
                file.writestr(name.replace("__", "../"), content)
        return path

    escaping = packed(**{"____outside.json": text})  # read under our own name, below our own folder
    assert len(load_submission(escaping, FREIHAND, 4)[0]) == 4
    assert not list(tmp_path.parent.glob("outside*"))
    with pytest.raises(DataError, match="nothing else"):
        validate_submission(packed(**{"pred.json": text, "notes.txt": "x"}), FREIHAND, 4)
    with pytest.raises(DataError, match="one JSON file, pred.json, got 2"):
        load_submission(packed(**{"a.json": text, "b.json": text}), FREIHAND, 4)
    broken = bytearray(archive.read_bytes())
    broken[60:90] = bytes(30)
    archive.write_bytes(broken)
    with pytest.raises(DataError, match="not a readable zip"):
        load_submission(archive, FREIHAND, 4)
    monkeypatch.setattr("handmim.evaluation.submission.MAX_BYTES", 100)
    with pytest.raises(DataError, match="unpacks to"):
        load_submission(packed(**{"pred.json": text}), FREIHAND, 4)
    with pytest.raises(DataError, match="missing"):
        load_submission(tmp_path / "none.json", FREIHAND, 4)


@pytest.mark.parametrize("name", ["__MACOSX/._pred.json", "._pred.json", "__MACOSX/pred.json"])
def test_what_macos_adds_to_a_zip_is_passed_over(
    name: str, hands: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    archive = write_submission(tmp_path, *hands, FREIHAND)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(name, b"\0\5\x16\7")
    np.testing.assert_array_equal(load_submission(archive, FREIHAND, 4)[0], hands[0])
