"""`handmim check-data` and `handmim data`."""

from pathlib import Path

import pytest
from fabricate_datasets.folder import write_folder, write_lines
from PIL import Image

from handmim.cli import main
from handmim.training.datasets.data_commands import lacks
from handmim.training.datasets.registry import READERS
from handmim.training.datasets.sample import Part


def test_a_good_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_folder(tmp_path / "data")
    assert main(["check-data", str(tmp_path / "data"), "--images"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "no errors, no warnings"


def test_faults_are_printed_with_line_and_field(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    lines = write_folder(tmp_path / "data", "train")
    lines[2]["joints"] = lines[2]["joints"][:20]
    lines[1]["handedness"] = None
    write_lines(tmp_path / "data/train.jsonl", lines)
    assert main(["check-data", str(tmp_path / "data"), "--split", "train"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("error: train.jsonl line 3, joints: must be 21 x 3 numbers, got 20 x 3")
    assert out[1].startswith("warning: train.jsonl line 2, handedness: is missing") and out[-1] == "1 error, 1 warning"
    assert main(["check-data", str(tmp_path / "data")]) == 1  # there is no labels.jsonl
    assert "labels.jsonl is missing" in capsys.readouterr().err


def test_info_lists_parts_labels_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_folder(tmp_path / "data")
    sheet = tmp_path / "sheet.png"
    assert main(["data", "info", "folder", str(tmp_path / "data"), "--sheet", str(sheet)]) == 0
    out = capsys.readouterr().out
    assert "split train cannot" not in out and "found 1 of 1" in out and "missing 0 of 1 (optional)" in out
    assert "split labels: 4 samples, hand model mano; betas (25%), box (50%)" in out
    assert Image.open(sheet).width == 4 * 224
    assert main(["data", "info", "folder", str(tmp_path / "data"), "--split", "val"]) == 1
    assert "split val cannot be read" in capsys.readouterr().out
    assert main(["data", "info", "folder", str(tmp_path)]) == 1
    assert "MISSING 0 of 1" in capsys.readouterr().out


def test_wrong_names_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for arguments in (["nothing", str(tmp_path)], ["folder", str(tmp_path / "no")], ["folder", ".", "--split", "x"]):
        assert main(["data", "info", *arguments]) == 1
        assert capsys.readouterr().err.startswith("handmim: error: ")


def test_a_hand_model_is_for_labels_that_need_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for command in (["data", "info", "stb"], ["check-data", "--dataset", "stb"]):
        assert main([*command, str(tmp_path), "--hand-model-path", "x"]) == 1
        assert "of no use for stb" in "".join(capsys.readouterr())


def test_list_names_every_data_set(capsys: pytest.CaptureFixture) -> None:
    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name} " in out for name in READERS)


@pytest.mark.parametrize(
    ("found", "expected", "missing"), [(0, None, True), (3, None, False), (2, 3, True), (4, 3, False)]
)
def test_a_part_is_missing_below_its_number(found: int, expected: int | None, missing: bool) -> None:
    assert lacks(Part("x", "y", found, expected)) == missing
