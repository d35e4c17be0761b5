"""What a run learns from is the same when it goes on, wherever its folders are."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fabricate_datasets.folder import write_folder
from PIL import Image
from pretraining_miniature import tiny_recipe

from handmim.errors import DataError
from handmim.training.datasets.crops import HandCrops
from handmim.training.datasets.folder import LabelledFolder
from handmim.training.datasets.hand_scenes import HandScenes, Photo
from handmim.training.datasets.images import CropImages, FolderImages, JoinedImages, ReaderImages, SyntheticImages
from handmim.training.datasets.mixture import Mixture
from handmim.training.datasets.synthetic import SyntheticHands
from handmim.training.datasets.view_pairs import ViewPairs
from handmim.training.pretraining import pretrain
from handmim.training.recipe import RecipeError
from handmim.training.run_data import (
    DATA_FILE,
    SPREAD,
    Source,
    check_same_data,
    describe_run,
    keep_data,
    sources_of,
    spread,
)

ARGUMENTS = SimpleNamespace(seed=3, data_seed=None)


@pytest.fixture()
def pictures(tmp_path: Path) -> Path:
    """Ten pictures in two folders."""
    root = tmp_path / "pictures"
    for number in range(10):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 40, 3), 20 * number, np.uint8)).save(path)
    return root


def records(dataset: Any) -> list[dict[str, Any]]:
    return describe_run(dataset, ARGUMENTS)["data"]


def test_moved_pictures_are_the_same(pictures: Path, tmp_path: Path) -> None:
    before = records(FolderImages(pictures))
    assert [(record["name"], record["length"]) for record in before] == [("folder", 10)]
    shutil.copytree(pictures, tmp_path / "moved")
    assert records(FolderImages(tmp_path / "moved")) == before
    (tmp_path / "moved" / "a" / "4.png").rename(tmp_path / "moved" / "a" / "5.png")
    assert records(FolderImages(tmp_path / "moved")) != before


def test_the_data_of_every_kind_of_run_are_found(pictures: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "labelled")
    reader = LabelledFolder(tmp_path / "labelled")
    (pictures / "manifest.jsonl").write_text('{"file": "a/0.png"}\n{"file": "b/1.png"}\n')
    images = JoinedImages([CropImages(pictures), ReaderImages(reader), SyntheticImages(4)])
    photos = [Photo(path) for path in sorted(pictures.rglob("*.png"))]
    hands = Mixture([HandCrops(reader, 32), SyntheticHands(4, seed=0, size=32)])
    expected = {
        "pre-training": (ViewPairs(images, seed=0), [("crops", 2), ("folder", len(reader))]),
        "fine-tuning": (hands, [("folder", len(reader))]),
        "detector": (HandScenes(8, seed=0, size=48, photos=[photos]), [("photos.0", 10)]),
    }
    for dataset, found in expected.values():
        assert [(source.name, source.length) for source in sources_of(dataset)] == found
        assert all(len(record["samples"]) == 16 for record in records(dataset))


def test_a_broken_sample_does_not_end_a_run_that_passes_over_it() -> None:
    def name_of(index: int) -> str:
        if index == 1:
            raise DataError("its file of vertices is missing")
        return str(index)

    assert Source("folder", 3, name_of, range(3)).record()["length"] == 3


@pytest.mark.parametrize("length", [1, 2, SPREAD, 130_240])
def test_samples_are_looked_at_from_the_first_to_the_last(length: int) -> None:
    found = spread(length)
    assert (found[0], found[-1]) == (0, length - 1)
    assert len(found) == len(set(found)) == min(length, SPREAD)


def test_what_differs_is_said(tmp_path: Path) -> None:
    hands = {"name": "freihand", "length": 5, "samples": "a" * 16}
    begun = {"seed": 3, "data_seed": None, "data": [hands]}
    check_same_data(begun, tmp_path)  # of a run that was begun before there was such a file
    keep_data(begun, tmp_path)
    check_same_data(begun, tmp_path)
    for changes, told in (
        ({"seed": 4}, "training.seed 3, and it is 4 now: set it back"),
        ({"data_seed": 1}, "training.data_seed None, and it is 1"),
        ({"data": [hands | {"length": 6}]}, "freihand had 5 samples, and has 6. Give those"),
        ({"data": [hands | {"samples": "b"}]}, "freihand has as many samples, 5, but of other names"),
        ({"data": [hands | {"name": "ge"}]}, "ge was freihand"),
        ({"data": [hands, hands]}, "there were 1 data sets, and are 2"),
    ):
        with pytest.raises(RecipeError, match=told):
            check_same_data(begun | changes, tmp_path)
    for damaged in ("", "[]", "{"):
        (tmp_path / DATA_FILE).write_text(damaged)
        check_same_data(begun, tmp_path)
    for strange in ({"data": 3}, {"data": [4]}, {}):
        (tmp_path / DATA_FILE).write_text(json.dumps({"seed": 3} | strange))
        with pytest.raises(RecipeError, match="other pictures"):
            check_same_data(begun, tmp_path)


def test_a_run_goes_on_with_its_own_pictures_and_seed(pictures: Path, tmp_path: Path) -> None:
    """Other pictures and another seed were accepted without a word."""
    recipe = tiny_recipe(pictures, seed=5, save_steps=1)
    pretrain(recipe, tmp_path / "run", max_steps=1)
    moved = tmp_path / "moved"
    pictures.rename(moved)
    recipe["data"][0]["root"] = str(moved)
    (moved / "b" / "1.png").rename(moved / "b" / "more.png")
    with pytest.raises(RecipeError, match="run holds checkpoints of a run with other pictures: folder has as many"):
        pretrain(recipe, tmp_path / "run", max_steps=2)
    (moved / "b" / "more.png").rename(moved / "b" / "1.png")
    with pytest.raises(RecipeError, match=r"training\.seed 5, and it is 6 now"):
        pretrain(recipe, tmp_path / "run", max_steps=2, seed=6)
    (tmp_path / "run" / "data.json").rename(tmp_path / "kept.json")  # as of a run that was begun before
    pretrain(recipe, tmp_path / "run", max_steps=2)
    assert (tmp_path / "run" / "data.json").read_bytes() == (tmp_path / "kept.json").read_bytes()
