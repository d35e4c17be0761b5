"""Pre-training on bad pictures, bad recipes, losses that are no numbers and full memory: told, named, skipped."""

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from pretraining_miniature import log_lines, noise, tiny_recipe, write_pictures
from transformers import TrainerCallback

from handmim.errors import HandMIMError
from handmim.modeling_pretraining_handmim import HandMIMForPreTraining
from handmim.training import pretraining
from handmim.training.datasets.images import FolderImages
from handmim.training.datasets.sample import DataError
from handmim.training.datasets.view_pairs import ViewPairs
from handmim.training.pretraining import build_network, pretrain
from handmim.training.pretraining_data import check_negatives
from handmim.training.pretraining_trainer import PreTrainer
from handmim.training.recipe import RecipeError
from handmim.training.trainer import NonFiniteLossError, OutOfMemory, last_checkpoint
from handmim.training.views import ViewAugmentation


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def synthetic(**options: Any) -> list[dict[str, Any]]:
    """`data` of a recipe."""
    return [{"name": "synthetic", "length": 12, "size": 40} | options]


class Spoil(TrainerCallback):
    """Makes a weight of the student infinite after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            with torch.no_grad():
                model.student.encoder.blocks[0].mlp.fc1.weight[0, 0] = torch.inf


class TestBadLosses:
    def test_run_stops_and_names_the_pictures(self, pictures, tmp_path, monkeypatch):
        class Spoilt(PreTrainer):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.callback_handler.callbacks.append(Spoil(3))
                # what the checkpoint of that step holds is still good
                self._maybe_log_save_evaluate = lambda *a, **k: (
                    None if self.state.global_step == 3 else super(Spoilt, self)._maybe_log_save_evaluate(*a, **k)
                )

        monkeypatch.setattr(pretraining, "PreTrainer", Spoilt)
        with pytest.raises(
            NonFiniteLossError, match=r"step 4: the loss is nan.*\d \(.*\.(png|jpg|webp)\).*checkpoint-2.*learning_rate"
        ):
            pretrain(tiny_recipe(pictures, max_steps=6, save_steps=1), tmp_path)
        assert last_checkpoint(tmp_path).endswith("checkpoint-2")

    def test_long_batches_go_to_a_file(self, pictures, tmp_path, monkeypatch):
        for number in range(12):
            Image.fromarray(noise(number, 32, 32, 3)).save(tmp_path / f"{number}.png")
        monkeypatch.setattr(pretraining.PreTrainer, "logged_terms", lambda self, outputs: {})
        forward = HandMIMForPreTraining.forward

        def spoilt(self, **inputs: Any) -> Any:
            output = forward(self, **inputs)
            output.loss = output.loss * torch.nan
            return output

        monkeypatch.setattr(HandMIMForPreTraining, "forward", spoilt)
        recipe = tiny_recipe(tmp_path, batch_size=20)
        recipe["data"].append({"name": "folder", "root": str(pictures)})
        with pytest.raises(NonFiniteLossError, match=r"and 4 more, listed in .*bad_batch\.txt.*none was saved yet"):
            pretrain(recipe, tmp_path / "out")
        (listing,) = (tmp_path / "out").glob("*bad_batch.txt")
        assert len(listing.read_text().splitlines()) == 20

    def test_collapse_is_told_once(self, pictures, tmp_path, monkeypatch, caplog):
        terms = PreTrainer.logged_terms
        flat = {"feature_spread": torch.tensor(0.001)}
        monkeypatch.setattr(PreTrainer, "logged_terms", lambda self, outputs: terms(self, outputs) | flat)
        with caplog.at_level(logging.WARNING):
            pretrain(tiny_recipe(pictures), tmp_path)
        assert sum("training has collapsed" in record.getMessage() for record in caplog.records) == 1

    @pytest.mark.parametrize(
        "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("[enforce fail] can't allocate memory")]
    )
    def test_memory(self, pictures, tmp_path, monkeypatch, error):
        def full(self, **inputs: Any) -> Any:
            raise error

        monkeypatch.setattr(HandMIMForPreTraining, "forward", full)
        with pytest.raises(
            OutOfMemory, match="no memory left for 4.*accumulation_steps=2.*checkpointing=true"
        ) as caught:
            pretrain(tiny_recipe(pictures), tmp_path)
        assert isinstance(caught.value, HandMIMError)

    def test_other_errors_pass(self, pictures, tmp_path, monkeypatch):
        def wrong(self, **inputs: Any) -> Any:
            raise RuntimeError("shapes")

        monkeypatch.setattr(HandMIMForPreTraining, "forward", wrong)
        with pytest.raises(RuntimeError, match="^shapes$"):
            pretrain(tiny_recipe(pictures), tmp_path)


class TestBadPictures:
    def test_every_mode_is_seen(self, pictures):
        data = ViewPairs(FolderImages(pictures), ViewAugmentation(size=32), seed=1, broken="fatal")
        views = data.__getitems__(range(10))["pixel_values"].float()
        assert len(data) == 10
        assert (views.flatten(2).mean(-1) > 20).all() and (views.flatten(2).std(-1) > 2).all()

    def test_folders(self, tmp_path):
        with pytest.raises(DataError, match="holds no picture"):
            pretrain(tiny_recipe(tmp_path), tmp_path / "out")
        with pytest.raises(DataError, match="nowhere"):
            pretrain(tiny_recipe(tmp_path / "nowhere"), tmp_path / "out")
        Image.fromarray(noise(0, 40, 40, 3)).save(tmp_path / "one.png")
        with pytest.raises(RecipeError, match="1 pictures.*batch of 4.*batch_size"):
            pretrain(tiny_recipe(tmp_path), tmp_path / "out")

    @pytest.fixture()
    def faulty(self, pictures, tmp_path) -> Path:
        """Cut short, smaller than a patch, no picture at all."""
        shutil.copytree(pictures, tmp_path / "pictures")
        whole = (pictures / "a" / "0.png").read_bytes()
        (tmp_path / "pictures" / "cut.png").write_bytes(whole[: len(whole) // 2])
        Image.fromarray(noise(0, 3, 3, 3)).save(tmp_path / "pictures" / "dot.png")
        (tmp_path / "pictures" / "text.jpg").write_text("no picture")
        return tmp_path / "pictures"

    def test_skipped_and_named(self, faulty, tmp_path, caplog):
        with caplog.at_level(logging.WARNING):
            pretrain(tiny_recipe(faulty, max_steps=6), tmp_path / "out")
        for name in ("cut.png", "dot.png", "text.jpg"):
            assert sum(name in record.getMessage() for record in caplog.records) <= 1
        assert "text.jpg" in caplog.text and "cut.png" in caplog.text
        assert log_lines(tmp_path / "out", 6)[-1]["skipped_images"] >= 2

    def test_fatal(self, faulty, tmp_path):
        with pytest.raises(DataError, match=r"(cut|dot|text)\."):
            pretrain(tiny_recipe(faulty, max_steps=3, broken_images="fatal"), tmp_path / "out")

    def test_nothing_readable(self, tmp_path):
        for number in range(5):
            (tmp_path / f"{number}.png").write_text("no picture")
        with pytest.raises(DataError, match="in a row cannot be read.*png"):
            pretrain(tiny_recipe(tmp_path), tmp_path / "out")


class TestStartOfTheRun:
    @pytest.mark.parametrize(
        "section, change, message",
        [
            ("model", {"heigth": 3}, "model has unknown fields heigth"),
            ("model", {"size": "giant"}, "giant"),
            ("model", {"feature_layers": [2]}, "feature_layers"),
            ("pretraining", {"method": "moco"}, "method must be one of.*moco"),
            ("pretraining", {"pose_wieght": 1}, "pretraining has unknown fields pose_wieght"),
            ("pretraining", {"student_temperature": 0}, "student_temperature"),
            ("training", {"max_stepz": 1}, "max_stepz.*PreTrainingArguments"),
            ("training", {"ema_decay": 0.9}, "ema_decay"),
            ("views", {"flip": True}, "views must be a mapping of.*flip"),
            ("views", {"area": [0, 1]}, "area"),
            ("masks", {"kind": "stripes"}, "stripes"),
            ("data", [], "list of collections"),
            ("data", [{"root": "x"}], "data.0.*name"),
            ("data", [{"name": "synthetic"}], "data.0.*length"),
            ("data", [{"name": "synthetic", "length": 9, "colour": 1}], "data.0.*colour"),
            ("data", synthetic(length="x"), "data.0: .*length must be a whole number of at least 1, got 'x'"),
            ("data", synthetic(length=2.5), "data.0: .*length .* got 2.5"),
            ("data", synthetic(length=True), "data.0: .*length .* got True"),
            ("data", synthetic(seed="abc"), "data.0: .*seed must be a whole number, got 'abc'"),
            ("data", synthetic(size=8), "data.0: .*size must be a whole number of at least 16, got 8"),
            ("data", synthetic(first=-1), "data.0: .*first .* got -1"),
            ("data", synthetic(first=2**62), "data.0: .*at most 2.62"),
            ("data", synthetic(negatives="x"), "data.0: .*negatives must be a number in .0, 1., got 'x'"),
            ("data", synthetic(variety="half"), "data.0: .*variety must be one of full, .*got 'half'"),
            ("data", synthetic(variety=["full"]), "data.0: .*variety must be one of full, .*got .'full'"),
            ("data", synthetic(variety={"things": 2}), "data.0: .*variety: things must be .* got 2"),
            ("data", synthetic(betas=["a"]), "data.0: .*betas must be a list of up to 10 numbers, got .'a'"),
            ("data", synthetic(betas=[float("nan")]), "data.0: .*betas must be 10 finite numbers"),
            ("training", {"learning_rate": 0}, "learning_rate must be above 0"),
            ("training", {"learning_rate": -1.0e-3}, "learning_rate must be finite and not negative, got -0.001"),
            ("training", {"learning_rate": float("nan")}, "learning_rate must be finite and not negative, got nan"),
            ("data", [{"name": "folder"}], "data.0.*--data folder=FOLDER"),
            ("data", [{"name": "imagenet", "root": "x"}], "imagenet"),
            ("data", [{"name": "freihand", "root": "x", "colour": 1}], "data.0.*colour"),
        ],
    )
    def test_wrong_values_are_told(self, tmp_path, section, change, message):
        recipe = tiny_recipe(None)
        recipe[section] = change if isinstance(change, list) else recipe.get(section, {}) | change
        with pytest.raises((RecipeError, DataError), match=message):
            pretrain(recipe, tmp_path)

    def test_one_picture_has_none_to_differ_from(self, tmp_path):
        """Its contrastive loss is 0: the run trained nothing, without a word."""
        with pytest.raises(RecipeError, match="contrastive, which takes at least 2 pictures at once.*got 1: set"):
            pretrain(tiny_recipe(None, "peclr", gradient_accumulation_steps=4), tmp_path)
        config = build_network({"size": "tiny"}, {"method": "peclr"}, 0).config
        check_negatives(config, SimpleNamespace(train_batch_size=1, world_size=2))  # whose pictures are gathered
