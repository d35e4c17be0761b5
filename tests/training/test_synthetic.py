"""The synthetic data set gives the same sample in any order and batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stub_network import TINY
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from handmim import HandMIMConfig, HandMIMForMeshEstimation
from handmim.errors import ImageError
from handmim.synthesis.backgrounds import BANK_SIDE
from handmim.synthesis.photos import photo_tiles
from handmim.training.datasets.items import collate_hands
from handmim.training.datasets.mixture import Mixture
from handmim.training.datasets.synthetic import SyntheticHands, render_on_device, sources


def test_samples_do_not_depend_on_the_batch():
    data = SyntheticHands(10, seed=1, size=64)
    batched = data.__getitems__([3, 7])[1]
    single = data[7]
    assert batched["sample_id"] == single["sample_id"] == "synthetic 1/7"
    assert torch.equal(batched["pixel_values"], single["pixel_values"])
    assert torch.equal(batched["labels"]["joints"].nan_to_num(9), single["labels"]["joints"].nan_to_num(9))


def test_held_out_range_continues_the_seed():
    whole, tail = SyntheticHands(10, seed=1, size=64), SyntheticHands(4, seed=1, size=64, first=6)
    assert torch.equal(whole[7]["pixel_values"], tail[1]["pixel_values"])


def test_loader_serves_batches():
    data = SyntheticHands(5, seed=1, size=64, negatives=0.0)
    batches = list(DataLoader(data, batch_size=4, collate_fn=collate_hands))
    assert [len(batch["pixel_values"]) for batch in batches] == [4, 1]
    pixels = batches[0]["pixel_values"]
    assert pixels.shape == (4, 3, 64, 64) and -1 <= pixels.min() < pixels.max() <= 1
    assert torch.isfinite(batches[0]["labels"]["joints"]).all()


def test_transformers_trainer_takes_them_with_its_defaults(tmp_path: Path):
    """It drops the name of a sample, which `forward` does not take, before the collator sees it."""
    model = HandMIMForMeshEstimation(HandMIMConfig(**TINY))
    arguments = TrainingArguments(str(tmp_path), max_steps=2, use_cpu=True, report_to="none", disable_tqdm=True)
    data = SyntheticHands(8, seed=1, size=model.config.image_size)
    trainer = Trainer(model=model, args=arguments, train_dataset=data, data_collator=collate_hands)
    assert np.isfinite(trainer.train().training_loss)
    cameraless = [{name: value for name, value in data[row].items() if name != "intrinsics"} for row in range(2)]
    assert "intrinsics" not in collate_hands(cameraless)


def test_epochs_can_bring_new_samples():
    same, new = (SyntheticHands(4, seed=1, size=32, new_each_epoch=new) for new in (False, True))
    first = same[1]["pixel_values"]
    for data in (same, new):
        data.set_epoch(1)
    assert torch.equal(same[1]["pixel_values"], first)
    assert torch.equal(new[1]["pixel_values"], SyntheticHands(8, seed=1, size=32)[5]["pixel_values"])


def test_labels_are_chosen():
    item = SyntheticHands(1, seed=1, size=32, labels=["mask", "joints"])[0]
    assert set(item["labels"]) == {"mask", "joints", "hand"} and item["labels"]["mask"].dtype == torch.bool


def test_what_is_rendered_on_the_device_is_what_workers_render():
    options = {"seed": 1, "size": 32, "new_each_epoch": True, "labels": ["joints", "mask"]}
    here, there = SyntheticHands(6, **options), SyntheticHands(6, **options, render="device", source="data.0")
    for data in (here, there):
        data.set_epoch(2)
    worker, named = (collate_hands(data.__getitems__([4, 1, 3])) for data in (here, there))
    assert named == {"sample_ids": worker["sample_ids"], "unrendered": {"data.0": [16, 13, 15]}}
    drawn = render_on_device(named, sources(there), "cpu")
    assert drawn.keys() == worker.keys() and drawn["labels"].keys() == worker["labels"].keys()
    for name in ("pixel_values", "intrinsics"):
        assert torch.equal(drawn[name], worker[name]) and not drawn[name].is_inference()
    for name, value in worker["labels"].items():
        assert torch.equal(drawn["labels"][name].nan_to_num(9), value.nan_to_num(9))
        assert not drawn["labels"][name].is_inference()


def test_rendered_hands_join_stored_ones_behind_them():
    stored = SyntheticHands(3, seed=2, size=32, labels=["joints", "keypoints_2d"], negatives=0.0)
    drawn = SyntheticHands(3, seed=1, size=32, labels=["joints", "mask"], render="device", source="b", negatives=0.0)
    mixture = Mixture([stored, drawn])
    batch = collate_hands(mixture.__getitems__([5, 0, 3, 1]))
    assert [name.split("/")[0][-1] for name in batch["sample_ids"]] == ["2", "2", "1", "1"]
    whole = render_on_device(batch, sources(mixture), "cpu")
    assert whole["pixel_values"].shape == (4, 3, 32, 32) and whole["intrinsics"].shape == (4, 3, 3)
    known = {name: (~value.isnan()).reshape(4, -1).all(1).tolist() for name, value in whole["labels"].items()}
    assert known == {
        "joints": [True] * 4, "hand": [True] * 4, "keypoints_2d": [True, True, False, False],
        "mask": [False, False, True, True],
    }  # fmt: skip
    number = int(batch["sample_ids"][2].split("/")[1])
    assert torch.equal(
        whole["pixel_values"][2], SyntheticHands(3, seed=1, size=32, negatives=0.0)[number]["pixel_values"]
    )


def test_names_of_what_is_rendered_on_the_device_differ():
    same = [SyntheticHands(3, seed=seed, size=32, render="device") for seed in (1, 2)]
    with pytest.raises(ValueError, match="'synthetic'"):
        sources(Mixture(same))
    assert sources(SyntheticHands(3, seed=1, size=32)) == {}


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="0"):
        SyntheticHands(0, seed=1, size=64)
    with pytest.raises(ValueError, match="'gpu'"):
        SyntheticHands(1, seed=1, size=64, render="gpu")
    for wrong in ({"length": 2.5}, {"length": "x"}, {"seed": "abc"}, {"size": 8}, {"first": -1}):
        ((name, value),) = wrong.items()
        with pytest.raises(ValueError, match=f"{name} must be a whole number.*got {value!r}"):
            SyntheticHands(**{"length": 1, "seed": 1, "size": 64} | wrong)
    with pytest.raises(ValueError, match="negatives must be a number in"):
        SyntheticHands(1, seed=1, size=64, negatives=1.5)
    with pytest.raises(IndexError, match="5"):
        SyntheticHands(5, seed=1, size=64)[5]


def test_photos_are_shown_behind_hands(tmp_path: Path):
    with pytest.raises(ImageError, match="holds no image"):
        SyntheticHands(4, seed=1, size=32, background_photos=tmp_path)
    Image.fromarray(np.full((40, 60, 3), (0, 250, 0), np.uint8)).save(tmp_path / "green.png")
    plain, green = (SyntheticHands(24, seed=1, size=32, background_photos=folder) for folder in (None, tmp_path))
    before, after = ([data[i] for i in range(24)] for data in (plain, green))
    changed = [not torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(before, after, strict=True)]
    assert 6 <= sum(changed) <= 20  # about half of them
    shown = torch.stack([item["pixel_values"] for item, new in zip(after, changed, strict=True) if new])
    assert (shown[:, 1] - shown[:, 0]).mean() > 0.3  # green more than red
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a["labels"]["joints"].nan_to_num(9), b["labels"]["joints"].nan_to_num(9))


def test_tiles_of_photos_are_square_parts_and_always_the_same(tmp_path: Path):
    (tmp_path / "inner").mkdir()
    for number, shape in enumerate([(30, 50, 3), (300, 200, 3)]):
        pixels = np.random.default_rng(number).integers(0, 255, shape, np.uint8)
        Image.fromarray(pixels).save(tmp_path / ("a.png", "inner/b.png")[number])
    tiles = photo_tiles(tmp_path, tiles=3)
    assert tiles.shape == (6, BANK_SIDE, BANK_SIDE, 3) and tiles.dtype == torch.uint8
    assert torch.equal(tiles, photo_tiles(tmp_path, tiles=3))
    assert not torch.equal(tiles[0], tiles[1])
