"""Tests of the HIU-DMTL models."""

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from stub_network import picture
from torch import Tensor

from handmim.configuration_hiu_dmtl import HIUDMTLConfig
from handmim.geometry import project
from handmim.hand_state import ray_rotation
from handmim.modeling_hiu_dmtl import HIUDMTLForHandUnderstanding, HIUDMTLModel, centred_intrinsics
from handmim.synthesis import generate
from handmim.training.datasets.synthetic import normalise
from tests.model_tester import ModelTests

SIZE = 64
SMALL: dict[str, Any] = {
    "image_size": SIZE,
    "hidden_size": 16,
    "num_stacks": 2,
    "encoder_depth": 1,
    "encoder_levels": 2,
    "regressor_channels": (16, 16),
    "regressor_hidden_size": 32,
}
EVERY_LOSS = dict.fromkeys(
    (
        "global_orient",
        "hand_pose",
        "betas",
        "joints",
        "vertices",
        "heatmap_keypoints",
        "self_mask",
        "self_keypoints",
    ),
    1.0,
)
FIELDS = ("heatmaps", "mask", "pof", "vertices", "joints", "keypoints_2d", "global_orient", "hand_pose", "betas")


def synthetic(count: int = 2) -> dict[str, Any]:
    """Pictures of right hands with all labels."""
    batch = generate(5, range(count), size=SIZE, negatives=0.0)
    labels = {name: value for name, value in batch.labels.items() if name != "visibility"}
    labels["mask"] = labels["mask"].float()
    return {"pixel_values": normalise(batch.images), "intrinsics": batch.intrinsics, "labels": labels}


def make(**options: Any) -> HIUDMTLForHandUnderstanding:
    torch.manual_seed(0)
    return HIUDMTLForHandUnderstanding(HIUDMTLConfig(**(SMALL | options)))


class HandUnderstandingTests(ModelTests):
    model_class = HIUDMTLForHandUnderstanding
    output_names = FIELDS
    checkpointed_module = "backbone.blocks.0.encoder.across.0.0.reduce"
    options: dict[str, Any]

    def make_config(self) -> HIUDMTLConfig:
        return HIUDMTLConfig(**(SMALL | self.options))

    def make_inputs(self, config: HIUDMTLConfig) -> dict[str, Any]:
        return synthetic()


class TestPlain(HandUnderstandingTests):
    options: dict[str, Any] = {}


class TestEfficientNetStem(HandUnderstandingTests):
    options: dict[str, Any] = {"stem": "efficientnet"}


class TestEverything(HandUnderstandingTests):
    options: dict[str, Any] = {
        "score_head": True,
        "score_hidden_size": 8,
        "regressor_evidence": True,
        "fit_steps": 1,
        "loss_weights": EVERY_LOSS,
    }


@pytest.mark.parametrize(
    ("tasks", "mesh", "attention"),
    [((), True, True), (("heatmaps",), True, True), (("mask",), False, False), (("heatmaps", "mask"), False, True)]
    + [(("mask", "pof"), True, False), (("heatmaps", "mask", "pof"), False, True)],
)
def test_any_subset_of_tasks_trains_all_its_parameters(tasks: tuple[str, ...], mesh: bool, attention: bool) -> None:
    model = make(tasks=tasks, mesh=mesh, task_attention=attention).train()
    output = model(**synthetic())
    output.loss.backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    if mesh:
        assert not missing
    else:  # the last block's fused features have no reader then
        assert all(name.startswith("backbone.blocks.1.fusion") for name in missing)
    for task in ("heatmaps", "mask", "pof"):
        assert (getattr(output, task) is not None) == (task in tasks)
    assert (output.vertices is not None) == mesh


def test_the_cost_of_1_2_and_4_stacks_is_similar() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    costs = []
    for stacks in (1, 2, 4):
        with torch.device("meta"):
            model = HIUDMTLModel(HIUDMTLConfig(num_stacks=stacks)).eval()
            with FlopCounterMode(display=False) as counter:
                model(torch.zeros(1, 3, 256, 256))
        costs.append(counter.get_total_flops())
    assert max(costs) < 1.15 * min(costs)


def test_every_scale_of_efficientnet_is_seen() -> None:
    stem = make(stem="efficientnet").backbone.stem.eval()
    pixels = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        whole = stem(pixels)
        assert whole.shape == (1, SMALL["hidden_size"], SIZE // 4, SIZE // 4)
        for lateral in stem.pyramid.lateral:
            weight = lateral.weight.clone()
            lateral.weight.zero_()
            assert not torch.allclose(stem(pixels), whole)
            lateral.weight.copy_(weight)
    assert torch.equal(stem(pixels), whole)


def test_the_regressor_is_shared_and_every_stack_gives_a_hand() -> None:
    model = make(num_stacks=3).eval()
    output = model(**{name: value for name, value in synthetic().items() if name != "labels"}, return_all=True)
    assert len(output.stacks) == 3
    assert sum("regressor.output.weight" in name for name, _ in model.named_parameters()) == 1
    assert not torch.equal(output.stacks[0]["joints"], output.stacks[2]["joints"])
    assert torch.equal(output.stacks[-1]["joints"], output.joints)


def test_without_a_camera_the_focal_length_is_estimated_about_the_crops_centre() -> None:
    model = make().eval()
    output = model(synthetic()["pixel_values"])
    focal = output.intrinsics[:, 0, 0]
    assert torch.equal(output.intrinsics, centred_intrinsics(focal, SIZE))
    assert torch.allclose(project(output.joints, output.intrinsics), output.keypoints_2d, atol=1e-3)
    assert (focal > 0.5 * SIZE).all()


def test_the_given_camera_is_used() -> None:
    inputs = synthetic()
    output = make().eval()(inputs["pixel_values"], inputs["intrinsics"])
    assert torch.equal(output.intrinsics, inputs["intrinsics"])
    assert torch.allclose(project(output.joints, inputs["intrinsics"]), output.keypoints_2d, atol=1e-2)


def test_the_orientation_is_relative_to_the_ray_through_the_crop() -> None:
    model, aside = make(), torch.tensor([[[100.0, 0, 150], [0, 90, -20], [0, 0, 1]]])
    state = model.mean_state(torch.device("cpu"))[None]
    straight, turned = (model.decode(state, camera, SIZE)["global_orient"] for camera in (None, aside))
    torch.testing.assert_close(turned, ray_rotation(aside, SIZE) @ straight)


@pytest.mark.parametrize("evidence", [False, True])
def test_a_stacks_hand_teaches_neither_the_hand_before_nor_the_maps(evidence: bool) -> None:
    model = make(regressor_evidence=evidence)
    features = tuple(torch.randn(2, 16, 16, 16, requires_grad=True) for _ in range(2))
    maps = {"heatmaps": torch.rand(2, 21, 16, 16), "pof": torch.randn(2, 20, 3, 16, 16)}
    stacks = [{name: value.clone().requires_grad_() for name, value in maps.items()} for _ in features]
    model.estimate_meshes(features, stacks, None, SIZE)
    stacks[1]["joints"].sum().backward()
    assert features[0].grad is None and features[1].grad.abs().sum() > 0
    assert all(stack[name].grad is None for stack in stacks for name in maps)


def drop(labels: dict[str, Tensor], sample: int, *names: str) -> dict[str, Tensor]:
    """Labels with those of one sample missing."""
    labels = {name: value.clone().float() for name, value in labels.items()}
    for name in names:
        labels[name][sample] = torch.nan
    return labels


def test_each_sample_learns_from_the_labels_it_has() -> None:
    model, inputs = make(loss_weights={"shape_prior": 0.0, "pose_prior": 0.0, "focal": 0.0}), synthetic()
    inputs["labels"] = drop(inputs["labels"], 1, *inputs["labels"])
    whole = model.eval()(**inputs)
    alone = model(inputs["pixel_values"][:1], inputs["intrinsics"][:1], {k: v[:1] for k, v in inputs["labels"].items()})
    assert whole.loss.isfinite()
    for name, value in alone.losses.items():
        torch.testing.assert_close(whole.losses[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_equation_1_learns_from_keypoints_inside_the_crop() -> None:
    model, inputs = make(loss_weights={"heatmap_keypoints": 1.0}).eval(), synthetic()
    output = model(**inputs, return_all=True)
    target = inputs["labels"]["keypoints_2d"].clone()
    inside = ((target >= -0.5) & (target <= SIZE - 0.5)).all(-1)
    found = torch.stack([stack["heatmap_keypoints"] for stack in output.stacks])
    distance = (found - target)[:, inside].abs().mean() / (SIZE / 2)
    torch.testing.assert_close(output.losses["heatmap_keypoints"], distance, atol=1e-5, rtol=1e-4)
    inputs["labels"]["keypoints_2d"] = torch.full_like(target, 10.0 * SIZE)
    assert model(**inputs).losses["heatmap_keypoints"] == 0
    assert "heatmap_keypoints" not in make().eval()(**inputs).losses


def test_self_supervision_is_for_unlabelled_samples_only() -> None:
    model, inputs = make(loss_weights={"self_mask": 1.0, "self_keypoints": 1.0}).eval(), synthetic()
    labelled = model(**inputs).losses
    assert labelled["self_mask"] == 0 and labelled["self_keypoints"] == 0
    inputs["labels"] = drop(inputs["labels"], 0, "mask", "keypoints_2d")
    partly = model(**inputs).losses
    assert partly["self_mask"] > 0 and partly["self_keypoints"] > 0


def test_the_front_door_takes_its_checkpoints(tmp_path: Path) -> None:
    from handmim import HandMIM, HandMIMImageProcessor

    make(score_head=True).save_pretrained(tmp_path)
    HandMIMImageProcessor(size=SIZE).save_pretrained(tmp_path)
    model = HandMIM.from_pretrained(tmp_path, detector="whole-image")
    right, left = model(picture(), boxes=[[5, 5, 60, 60], [40, 10, 100, 80]], handedness=["right", "left"])
    assert (right.handedness, left.handedness) == ("right", "left") and 0 < right.score < 1
    assert right.vertices.shape == left.vertices.shape == (1649, 3)
    for hand in (right, left):
        pixels = project(torch.from_numpy(hand.joints), torch.from_numpy(hand.intrinsics).float())
        torch.testing.assert_close(pixels, torch.from_numpy(hand.keypoints_2d), atol=0.05, rtol=1e-4)


def test_nothing_to_learn_from_is_refused() -> None:
    inputs = synthetic()
    with pytest.raises(ValueError, match="self_mask"):
        make()(inputs["pixel_values"], inputs["intrinsics"], {})
    supervised = make(loss_weights={"self_mask": 1.0, "self_keypoints": 1.0})
    assert supervised(inputs["pixel_values"], inputs["intrinsics"], {}).loss > 0


def test_labels_that_do_not_fit_are_told() -> None:
    model, inputs = make(loss_weights={"vertices": 1.0}), synthetic()
    labels = inputs["labels"]
    as_in_a_file = {"mask": labels["mask"].to(torch.uint8) * 255}
    for wrong in (as_in_a_file, {"mask": labels["mask"][:, ::2, ::2]}):
        with pytest.raises(ValueError, match="the label's mask must be .* bool or floats in"):
            model(inputs["pixel_values"], labels=labels | wrong)
    with pytest.raises(ValueError, match="1649 vertices.*, got 778"):
        model(inputs["pixel_values"], labels=labels | {"vertices": labels["vertices"][:, :778]})


@pytest.mark.parametrize("tasks", [("mask",), ()])
def test_without_pose_maps_there_is_no_evidence(tasks: tuple[str, ...]) -> None:
    """Rows of table 4 crashed with the regressor's evidence switched on."""
    output = make(tasks=tasks, regressor_evidence=True)(synthetic()["pixel_values"])
    assert output.vertices.isfinite().all()


def test_the_loss_falls_on_one_batch() -> None:
    torch.manual_seed(0)
    model, inputs = make(loss_weights={"joints": 1.0}).train(), synthetic(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_training_starts_from_the_mean_hand_and_empty_maps() -> None:
    model = make().train()  # in evaluation the untouched running averages do not normalise anything
    output = model(synthetic()["pixel_values"])
    assert output.heatmaps.abs().max() < 0.1 and (output.mask - 0.5).abs().max() < 0.1
    assert output.betas.abs().max() < 0.1
    assert (output.hand_pose - torch.eye(3)).abs().max() < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 60}, "multiple of 16"),
        ({"tasks": ("heatmaps", "depth")}, "depth"),
        ({"tasks": ("mask", "mask")}, "once"),
        ({"loss_weights": {"masks": 1.0}}, "masks"),
        ({"loss_weights": {"mask": -1.0}}, "negative"),
        ({"num_stacks": 0}, "at least 1"),
        ({"tasks": (), "mesh": False}, "mesh=True"),
        ({"score_head": True, "mesh": False}, "score_head needs mesh=True"),
        ({"score_hidden_size": 8}, "score_head=True a width, got 8"),
        ({"mean_camera": (0.0, 0, 0)}, "mean_camera"),
        ({"heatmap_sigma": 0}, "heatmap_sigma must be above 0"),
    ],
)
def test_wrong_configurations_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        HIUDMTLConfig(**(SMALL | options))


@pytest.mark.parametrize(
    ("stem", "levels", "stride"), [("convolutions", 1, 8), ("convolutions", 2, 16), ("efficientnet", 1, 16)]
)
def test_wrong_inputs_are_told(stem: str, levels: int, stride: int) -> None:
    model = make(stem=stem, encoder_levels=levels)
    with pytest.raises(ValueError, match=f"multiples of {stride}"):
        model(torch.zeros(1, 3, SIZE + stride // 2, SIZE + stride // 2))
    with pytest.raises(StrictDataclassError, match=f"a multiple of {stride}"):
        make(stem=stem, encoder_levels=levels, image_size=SIZE + stride // 2)
    with pytest.raises(ValueError, match="square"):
        make()(torch.zeros(1, 3, 64, 128))
