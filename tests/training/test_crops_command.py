"""`handmim crops`: what is written, what is counted, and going on after an interruption."""

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handmim.cli import main
from handmim.hand_boxes import Detection
from handmim.training import crops
from handmim.training.datasets.images import CropImages


class TwoHands:
    """Finds a left hand of 80 px and a right one of `second` px; nothing in dark pictures."""

    name, refine = "two-hands", False

    def __init__(self, second: float = 60, fail_after: int | None = None) -> None:
        self.second, self.left = second, fail_after

    def detect(self, image: np.ndarray) -> list[Detection]:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        if image.mean() < 50:
            return []
        boxes = [(9.5, 19.5, 89.5, 69.5), (99.5, 99.5, 99.5 + self.second, 99.5 + self.second)]
        return [Detection(np.array(box), side, 0.75) for box, side in zip(boxes, ("left", "right"), strict=True)]


@pytest.fixture()
def photos(tmp_path: Path) -> Path:
    """Three photos, one below a folder; a dark one, and a damaged one."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    ramp = np.linspace(100, 200, 200 * 220 * 3).reshape(200, 220, 3).astype(np.uint8)
    for name in ("a.png", "b.jpg", "more/a.png"):
        Image.fromarray(ramp).save(folder / name)
    Image.fromarray(ramp // 8).save(folder / "dark.png")
    (folder / "damaged.jpg").write_bytes((folder / "b.jpg").read_bytes()[:400])
    return folder


@pytest.fixture()
def detector(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the detector that the command takes."""

    def use(found: TwoHands) -> None:
        monkeypatch.setattr(crops, "resolve_detector", lambda choice: found)

    use(TwoHands())
    return use


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_crops_of_a_folder(photos: Path, detector: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["crops", str(photos), "--out", str(out), "--size", "100"]) == 0
    output = capsys.readouterr()
    assert "5 photos: 6 crops; photos skipped: 1 unreadable, 1 no hand, 0 too small" in output.out
    assert "damaged.jpg" in output.err
    records = lines(out / "manifest.jsonl")
    assert [record["source"] for record in records[::2]] == ["photos/a.png", "photos/b.jpg", "photos/more/a.png"]
    assert records[0] == {
        "file": records[0]["file"],
        "source": "photos/a.png",
        "box": [9.5, 19.5, 89.5, 69.5],
        "side": "left",
        "score": 0.75,
        "size": 100,
    }
    assert records[1]["size"] == 90  # 1.5 times 60 px: not enlarged
    for record in records:
        with Image.open(out / record["file"]) as picture:
            assert picture.size == (record["size"],) * 2
    outcomes = {line["source"]: line["outcome"] for line in lines(out / "sources.jsonl")[1:]}
    assert outcomes["photos/dark.png"] == "no hand"
    assert outcomes["photos/damaged.jpg"] == "unreadable"
    assert len(CropImages(out)) == 6
    assert not any(str(tmp_path) in path.read_text() for path in (out / "manifest.jsonl",))


def test_small_hands_are_left_out(
    photos: Path, detector: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector(TwoHands(second=20))
    assert main(["crops", str(photos / "a.png"), "--out", str(tmp_path / "out")]) == 0
    assert "1 photos: 1 crops (1 hands too small)" in capsys.readouterr().out
    assert main(["crops", str(photos / "a.png"), "--out", str(tmp_path / "none"), "--min-side", "100"]) == 1
    assert "0 unreadable, 0 no hand, 1 too small" in capsys.readouterr().out
    assert (tmp_path / "none" / "manifest.jsonl").read_text() == ""


def test_an_interrupted_run_goes_on(
    photos: Path, detector: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["crops", str(photos), "--out"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    expected = contents(tmp_path / "whole")
    out = tmp_path / "out"
    detector(TwoHands(fail_after=2))
    assert main([*command, str(out)]) == 130
    assert len(lines(out / "manifest.jsonl")) == 4  # complete as far as it goes
    # A kill is worse: half a line, a crop without a line, no manifest.
    with (out / "sources.jsonl").open("a") as file:
        file.write('{"source": "photos/more/a.png", "outc')
    (out / "manifest.jsonl").unlink()
    detector(TwoHands())
    capsys.readouterr()
    assert main([*command, str(out)]) == 0
    assert "were done before" in capsys.readouterr().out
    assert contents(out) == expected
    assert main([*command, str(out)]) == 0  # and nothing is left to do but to look at the damaged one again
    assert "1 photos: 0 crops; photos skipped: 1 unreadable" in capsys.readouterr().out
    assert contents(out) == expected


class Terminates(TwoHands):
    """The process is told to end while the third photo is looked at."""

    def detect(self, image: np.ndarray) -> list[Detection]:
        self.seen = getattr(self, "seen", 0) + 1
        if self.seen == 3:
            signal.raise_signal(signal.SIGTERM)
        return super().detect(image)


def test_a_terminated_run_leaves_a_manifest(photos: Path, detector: Any, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    detector(Terminates())
    with pytest.raises(SystemExit) as ended:
        main(["crops", str(photos), "--out", str(tmp_path / "out")])
    assert ended.value.code == 143
    assert len(lines(tmp_path / "out" / "manifest.jsonl")) == 4
    assert signal.getsignal(signal.SIGTERM) is before


def test_crops_below_the_photos_are_not_photos(
    photos: Path, detector: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run again, it cropped its own crops."""
    for out in ("hands", "hands", "other"):
        assert main(["crops", str(photos), "--out", str(photos / out)]) == 0
        assert len(lines(photos / out / "manifest.jsonl")) == 6
    capsys.readouterr()
    assert main(["crops", str(photos), "--out", str(photos)]) == 1
    assert "is the folder of the photos; give another" in capsys.readouterr().err
    assert main(["crops", str(photos / "hands"), "--out", str(tmp_path / "out")]) == 1
    assert "hands holds crops (sources.jsonl)" in capsys.readouterr().err


def test_a_list_of_sources_of_someone_else_makes_no_folder_of_crops(photos: Path) -> None:
    (photos / "more" / "sources.jsonl").write_text('{"source": "camera"}\n')
    assert "photos/more/a.png" in crops.list_photos([str(photos)], photos / "out")


def test_another_photo_of_the_same_name_is_refused(
    photos: Path, detector: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The photos of a second folder of the same last name were passed over as done."""
    out, other = tmp_path / "out", tmp_path / "day2" / "photos"
    shutil.copytree(photos, other)  # with its times, then without
    for again in (photos, other):
        assert main(["crops", str(again), "--out", str(out)]) == 0
        for photo in other.rglob("*.*"):
            photo.touch()
    assert len(lines(out / "manifest.jsonl")) == 6
    (other / "b.jpg").write_bytes((other / "b.jpg").read_bytes()[:-2] + b"  ")  # another of the same size
    capsys.readouterr()
    before = contents(out)
    assert main(["crops", str(other), "--out", str(out)]) == 1
    assert "would both be called photos/b.jpg; give the folder above both" in capsys.readouterr().err
    assert contents(out) == before


def test_a_journal_without_stamps_is_read(photos: Path, detector: Any, tmp_path: Path) -> None:
    command = ["crops", str(photos), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    journal = tmp_path / "out" / "sources.jsonl"
    records = [{name: value for name, value in line.items() if name != "photo"} for line in lines(journal)]
    journal.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    Image.new("RGB", (300, 300), "white").save(photos / "a.png")
    assert main(command) == 0
    assert len(lines(tmp_path / "out" / "manifest.jsonl")) == 6


def test_a_photo_that_was_mended_is_looked_at_again(photos: Path, detector: Any, tmp_path: Path) -> None:
    """It was passed over as unreadable for ever."""
    command = ["crops", str(photos), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    (photos / "damaged.jpg").write_bytes((photos / "b.jpg").read_bytes())
    for _ in range(2):
        assert main(command) == 0
        sources = [record["source"] for record in lines(tmp_path / "out" / "manifest.jsonl")]
        assert sources.count("photos/damaged.jpg") == 2 and len(sources) == 8
    assert len(lines(tmp_path / "out" / "sources.jsonl")) == 1 + 5 + 1  # settings, photos, and the mended one again


def test_other_settings_need_another_folder(
    photos: Path, detector: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["crops", str(photos / "a.png"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert main([*command, "--size", "64"]) == 1
    assert "another --out" in capsys.readouterr().err


def test_given_boxes(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = tmp_path / "boxes.jsonl"
    hand = {"source": "photos/b.jpg", "box": [20, 20, 119, 99], "side": "right"}
    boxes.write_text(f"{json.dumps(hand)}\n")
    out = tmp_path / "out"
    assert main(["crops", str(photos), "--out", str(out), "--boxes", str(boxes)]) == 0
    (record,) = lines(out / "manifest.jsonl")
    assert (record["source"], record["box"], record["side"]) == ("photos/b.jpg", hand["box"], "right")
    assert record["score"] == 1
    assert "3 no hand" in capsys.readouterr().out
    scores = [hand | {"score": score} for score in (math.nan, -0.1, 1.5, True, "0.5", [])]
    shapes = [{"source": "x", "box": [5, 5, 1, 1]}, {"source": 1, "box": []}, {"box": [0, 0, 9, 9]}, [1]]
    for wrong in (*scores, *shapes):
        boxes.write_text(f"{json.dumps(hand)}\n{json.dumps(wrong)}\n")
        assert main(["crops", str(photos), "--out", str(tmp_path / "other"), "--boxes", str(boxes)]) == 1
        assert "line 2" in capsys.readouterr().err


def test_a_given_score_of_0_stays_0(photos: Path, tmp_path: Path) -> None:
    """It became 1."""
    hands = [{"source": "a.png", "box": [20, 20, 119, 99], "score": score} for score in (0, 0.25, None)]
    (tmp_path / "boxes.jsonl").write_text("".join(f"{json.dumps(hand)}\n" for hand in hands))
    command = ["crops", str(photos / "a.png"), "--out", str(tmp_path / "out"), "--boxes", str(tmp_path / "boxes.jsonl")]
    assert main(command) == 0
    assert [record["score"] for record in lines(tmp_path / "out" / "manifest.jsonl")] == [0, 0.25, 1]


def test_other_boxes_need_another_folder(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The photos were done before, so that a file that was edited changed nothing."""
    boxes = tmp_path / "boxes.jsonl"
    command = ["crops", str(photos), "--out", str(tmp_path / "out"), "--boxes", str(boxes)]
    for edge, code in ((99, 0), (99, 0), (89, 1)):
        boxes.write_text(json.dumps({"source": "photos/b.jpg", "box": [20, 20, edge, 99]}))
        assert main(command) == code
    assert "give the same options and boxes or another --out" in capsys.readouterr().err


def test_a_folder_begun_before_boxes_were_a_setting_goes_on(photos: Path, detector: Any, tmp_path: Path) -> None:
    command = ["crops", str(photos), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    settings = {"detector": "two-hands", "size": 256, "box_scale": 1.5, "min_side": 32}
    assert lines(tmp_path / "out" / "sources.jsonl")[0] == {"settings": settings}


def test_boxes_without_a_photo_are_named(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = tmp_path / "boxes.jsonl"
    sources = ["photos/b.jpg", "b.jpg", "c.jpg", "d.jpg", "d.jpg", "e.jpg"]
    boxes.write_text("".join(f"{json.dumps({'source': name, 'box': [20, 20, 119, 99]})}\n" for name in sources))
    assert main(["crops", str(photos), "--out", str(tmp_path / "out"), "--boxes", str(boxes)]) == 0
    assert "4 sources of --boxes match no photo: b.jpg, c.jpg, d.jpg, ... (photos" in capsys.readouterr().out


def test_whole_pictures_without_a_detector(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["crops", str(photos / "a.png"), "--out", str(out), "--detector", "whole-image"]) == 0
    (record,) = lines(out / "manifest.jsonl")
    assert record["size"] == 220  # the picture itself, no margin around it
    assert record["side"] is None


def test_wrong_arguments(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out"), "--detector", "whole-image"]
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([str(tmp_path / "nowhere")], "nowhere does not exist"),
        ([str(tmp_path / "empty")], "no photo"),
        ([str(photos / "a.png"), str(photos / "more" / "a.png")], "both be called a.png"),
        ([str(photos), "--size", "4"], "--size"),
        ([str(photos), "--box-scale", "0"], "--box-scale"),
    ):
        assert main(["crops", *arguments, *out]) == 1
        assert message in capsys.readouterr().err
