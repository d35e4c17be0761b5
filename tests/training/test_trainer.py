"""What our Trainer adds: metrics in millimetres, a stop at losses that are no numbers, layer-wise rates, resumption."""

import numpy as np
import pytest
import torch
from fabricate_datasets.folder import write_folder
from transformers import Trainer, TrainingArguments

from handmim import HandMIMConfig, HandMIMForMeshEstimation
from handmim.training.augmentation import Augmentation
from handmim.training.datasets.crops import HandCrops
from handmim.training.datasets.items import HandItems, collate_hands
from handmim.training.datasets.mixture import Mixture
from handmim.training.datasets.registry import open_dataset
from handmim.training.datasets.synthetic import SyntheticHands
from handmim.training.trainer import HandMIMTrainer, HandMIMTrainingArguments, NonFiniteLossError, last_checkpoint
from handmim.training.validation_errors import hand_errors

SMALL = {
    "hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 1, "feature_layers": [1], "image_size": 32,
    "num_feedback": 1, "feature_channels": [16], "point_channels": [16, 8], "regressor_hidden_size": 32,
    "loss_weights": {"mask": 0.5},
}  # fmt: skip


def make_trainer(folder, data: HandItems, model=None, **changes) -> HandMIMTrainer:
    if model is None:
        torch.manual_seed(0)
        model = HandMIMForMeshEstimation(HandMIMConfig(**SMALL))
    evaluation = changes.pop("eval_dataset", None)
    options = {"per_device_train_batch_size": 4, "max_steps": 2, "learning_rate": 1e-3, "use_cpu": True}
    options |= {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "dataloader_pin_memory": False}
    arguments = HandMIMTrainingArguments(output_dir=str(folder), **options | changes)
    return HandMIMTrainer(
        model=model, args=arguments, train_dataset=data, eval_dataset=evaluation, data_collator=collate_hands
    )


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> HandCrops:
    """Samples on disk, of both sides, with different labels."""
    root = tmp_path_factory.mktemp("data") / "folder"
    write_folder(root)
    return HandCrops(open_dataset("folder", root), 32, augmentation=Augmentation(), labels=["keypoints_2d", "mask"])


class Subsets(HandItems):
    """Samples that carry different subsets of the labels of synthetic hands."""

    SUBSETS = (None, ("keypoints_2d",), ("mask",), ("joints",), ("global_orient", "hand_pose"), ())

    def __init__(self, subsets=SUBSETS, negatives=0.0):
        super().__init__()
        self.subsets = subsets
        labels = ["keypoints_2d", "mask", "joints", "vertices", "global_orient", "hand_pose", "betas"]
        self.hands = SyntheticHands(len(subsets), seed=4, size=32, negatives=negatives, labels=labels)

    def __len__(self):
        return len(self.subsets)

    def visit(self, indices, epochs):
        items = self.hands.visit(indices, epochs)
        for index, item in zip(indices, items, strict=True):
            subset = self.subsets[index]
            if subset is not None:
                item["labels"] = {name: value for name, value in item["labels"].items() if name in subset}
        return items


class TestLabelSubsets:
    def loss_and_gradient(self, rows):
        torch.manual_seed(0)
        model = HandMIMForMeshEstimation(HandMIMConfig(**SMALL)).eval()
        batch = collate_hands(Subsets().__getitems__(rows))
        outputs = model(**batch)
        outputs.loss.backward()
        return outputs, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    def test_mixed_batch(self):
        outputs, gradients = self.loss_and_gradient([0, 1, 2, 3, 4, 5])
        assert {"mask", "joints", "vertices", "betas", "hand_pose", "keypoints_2d"} <= outputs.losses.keys()
        assert torch.isfinite(outputs.loss) and all(torch.isfinite(g).all() for g in gradients.values())

    def test_sample_without_label_contributes_nothing(self):
        (first, gradients), (second, others) = self.loss_and_gradient([0, 1, 2, 5]), self.loss_and_gradient([0, 1, 2])
        torch.testing.assert_close(first.loss, second.loss)
        torch.testing.assert_close(gradients, others, rtol=1e-3, atol=1e-6)

    def test_only_unlabelled(self):
        outputs, gradients = self.loss_and_gradient([5])
        assert outputs.loss == 0 and all(not gradient.any() for gradient in gradients.values())


def test_plain_trainer_takes_our_data(crops, tmp_path):
    """forward with labels returns the loss: transformers' own Trainer trains and evaluates on a mixture."""
    torch.manual_seed(0)
    model = HandMIMForMeshEstimation(HandMIMConfig(**SMALL))
    arguments = HandMIMTrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=4, max_steps=3, use_cpu=True, report_to="none",
        disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    data = Mixture([crops, Subsets()])
    trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data, data_collator=collate_hands)
    assert trainer.train().training_loss > 0
    assert np.isfinite(trainer.evaluate()["eval_loss"])


class TestMetrics:
    def test_keypoints_alone_are_measured(self, tmp_path):
        """With a folder of photos and keypoints a run showed losses alone, which say nothing in pixels."""
        data = SyntheticHands(4, seed=1, size=32, negatives=0.0, labels=["keypoints_2d"])
        trainer = make_trainer(tmp_path, data, eval_dataset=data)
        metrics = trainer.evaluate()
        batch = collate_hands(data.__getitems__(range(4)))
        with torch.no_grad():
            points = trainer.model.eval()(
                pixel_values=batch["pixel_values"], intrinsics=batch["intrinsics"]
            ).keypoints_2d
        errors = (points - batch["labels"]["keypoints_2d"]).norm(dim=-1).mean() / 32
        assert metrics["eval_mesh_2d"] == pytest.approx(errors.item(), rel=1e-4) and "eval_mpjpe" not in metrics

    def test_evaluation_is_of_the_average(self, tmp_path):
        data = SyntheticHands(8, seed=1, size=32, negatives=0.3)
        trainer = make_trainer(tmp_path, data, eval_dataset=data, ema_decay=0.9)
        trainer.train()
        own = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        averaged = trainer.evaluate()
        assert all(torch.equal(value, own[name]) for name, value in trainer.model.state_dict().items())
        assert {"eval_pa_mpjpe", "eval_pa_mpvpe", "eval_mpjpe", "eval_loss"} <= averaged.keys()
        trainer.average = None
        assert trainer.evaluate()["eval_pa_mpjpe"] != averaged["eval_pa_mpjpe"]
        model = HandMIMForMeshEstimation(HandMIMConfig(**SMALL)).eval()
        model.load_state_dict(own)
        batch = collate_hands(data.__getitems__(range(8)))
        with torch.no_grad():
            errors = hand_errors(model(**batch), batch["labels"])
        assert trainer.evaluate()["eval_pa_mpjpe"] == pytest.approx(errors[:, 0].nanmean().item(), rel=1e-4)

    def test_best_checkpoint_is_loaded(self, tmp_path):
        data = SyntheticHands(8, seed=1, size=32, negatives=0.0)
        trainer = make_trainer(
            tmp_path, data, eval_dataset=data, max_steps=4, eval_strategy="steps", eval_steps=1, save_strategy="steps",
            save_steps=1, load_best_model_at_end=True, metric_for_best_model="pa_mpjpe", greater_is_better=False,
            learning_rate=0.05, ema_decay=0.5,
        )  # fmt: skip
        trainer.train()
        scores = [line["eval_pa_mpjpe"] for line in trainer.state.log_history if "eval_pa_mpjpe" in line]
        assert trainer.evaluate()["eval_pa_mpjpe"] == pytest.approx(min(scores), rel=1e-5)


class Poisoned(SyntheticHands):
    """One sample whose label makes the loss infinite."""

    def visit(self, indices, epochs):
        items = super().visit(indices, epochs)
        for index, item in zip(indices, items, strict=True):
            if index == 5:
                item["labels"]["keypoints_2d"] = item["labels"]["keypoints_2d"] + float("inf")
        return items


class TestBadLosses:
    def test_run_stops_and_names_the_samples(self, tmp_path):
        data = Poisoned(8, seed=1, size=32, negatives=0.0)
        trainer = make_trainer(
            tmp_path, data, max_steps=20, per_device_train_batch_size=2, save_strategy="steps", save_steps=1, seed=3
        )
        with pytest.raises(NonFiniteLossError, match=r"step \d+: the loss is.*keypoints_2d.*synthetic 1/5") as caught:
            trainer.train()
        step = trainer.state.global_step
        assert 0 < step < 4 and f"checkpoint-{step}" in str(caught.value)
        assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())
        assert last_checkpoint(tmp_path).endswith(f"checkpoint-{step}")

    def test_bad_gradient_stops_too(self, tmp_path):
        trainer = make_trainer(tmp_path, SyntheticHands(8, seed=1, size=32))
        before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        trainer.model.initial.hidden1.weight.register_hook(lambda gradient: gradient * float("nan"))
        with pytest.raises(NonFiniteLossError, match="gradient is not finite.*synthetic 1/.*none was saved yet"):
            trainer.train()
        assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


def test_layer_decay_reaches_the_optimiser(tmp_path):
    for optimiser in ({}, {"timm_optimizer": "adamw"}):
        trainer = make_trainer(tmp_path, SyntheticHands(4, seed=1, size=32), layer_decay=0.5, **optimiser)
        rates = {group["lr"] for group in trainer.create_optimizer().param_groups}
        assert rates == {1e-3, 5e-4, 2.5e-4}


def test_tokens_and_vectors_do_not_decay(tmp_path):
    """transformers' own groups let the class token and position embeddings decay."""
    trainer = make_trainer(tmp_path, SyntheticHands(4, seed=1, size=32), weight_decay=0.1)
    decays = {
        id(p): group["weight_decay"] for group in trainer.create_optimizer().param_groups for p in group["params"]
    }
    for name, parameter in trainer.model.named_parameters():
        exempt = parameter.ndim < 2 or name.endswith(("pos_embed", "cls_token"))
        assert decays[id(parameter)] == (0.0 if exempt else 0.1), name
    assert any(name.endswith("pos_embed") for name, _ in trainer.model.named_parameters())


def test_one_gpu_a_process(tmp_path, monkeypatch):
    """DataParallel would lose running means: without torchrun one GPU is used of several."""
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: vars(self).get("_n_gpu") or 4))
    arguments = HandMIMTrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=8, use_cpu=True)
    assert arguments.n_gpu == 1 and arguments.train_batch_size == 8


def test_half_written_checkpoints_are_passed_over(tmp_path):
    assert last_checkpoint(tmp_path / "none") is None
    for step, text in ((2, "{}"), (10, "{}"), (11, '{"epoch": '), (12, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if text is not None:
            (folder / "trainer_state.json").write_text(text)
    assert last_checkpoint(tmp_path).endswith("checkpoint-10")
