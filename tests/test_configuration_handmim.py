"""Tests of the configuration: round trip, sizes, and every way to get it wrong."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassError

from handmim.configuration_handmim import MEAN_GLOBAL_ORIENT, SIZES, HandMIMConfig


@pytest.mark.parametrize("size", sorted(SIZES))
def test_sizes_are_timms(size: str) -> None:
    config = HandMIMConfig.from_size(size)
    expected = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}[size]
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == expected
    assert config.hidden_size // config.num_attention_heads == 64
    assert config.feature_layers[-1] == config.num_hidden_layers


def test_defaults_are_the_papers() -> None:
    config = HandMIMConfig()
    assert config.to_dict() == HandMIMConfig.from_size("small").to_dict()
    assert (config.image_size, config.patch_size, config.num_feedback, config.stem) == (224, 16, 3, "patch")
    assert not (config.heatmap_evidence or config.score_head) and config.orientation_frame == "camera"


def test_from_size_takes_overrides_and_names_a_wrong_size() -> None:
    assert HandMIMConfig.from_size("tiny", regressor_hidden_size=128, stem="residual").regressor_hidden_size == 128
    with pytest.raises(ValueError, match="got 'huge'"):
        HandMIMConfig.from_size("huge")


@pytest.mark.parametrize("size", sorted(SIZES))
def test_round_trip(size: str, tmp_path: Path) -> None:
    """JSON turns tuples into lists and whole floats into integers; both must load."""
    config = HandMIMConfig.from_size(size, mean_camera=(1, 0, 0), loss_weights={"betas": 1}, heatmap_sigma=2)
    config.save_pretrained(tmp_path)
    loaded = HandMIMConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict() | {"feature_layers": list(config.feature_layers)} | {
        name: list(getattr(config, name)) for name in ("feature_channels", "point_channels", "mean_camera")
    }


def test_loss_weights_are_completed() -> None:
    weights = HandMIMConfig(loss_weights={"vertices": 3.0}).loss_weights
    assert weights["vertices"] == 3.0 and weights["joints"] == 1.0
    weights["joints"] = 7.0
    assert HandMIMConfig().loss_weights["joints"] == 1.0  # nothing shared between configurations


def test_what_from_pretrained_is_given_is_completed_and_checked(tmp_path: Path) -> None:
    HandMIMConfig(loss_weights={"vertices": 3.0}, image_size=64).save_pretrained(tmp_path)
    given = {"loss_weights": {"joints": 2.0}, "pretraining_config": {"pose_weight": 0.0}}
    config = HandMIMConfig.from_pretrained(tmp_path, **given)
    assert config.loss_weights == HandMIMConfig(loss_weights={"joints": 2.0}).loss_weights and config.image_size == 64
    assert config.pretraining_config.pose_weight == 0
    for wrong in ({"loss_weights": {"jints": 2.0}}, {"fit_steps": -1}, {"fit_steps": 3}):
        with pytest.raises(StrictDataclassClassValidationError, match=next(iter(wrong))):
            HandMIMConfig.from_pretrained(tmp_path, **wrong)
    _, unused = HandMIMConfig.from_pretrained(tmp_path, unheard_of=1, return_unused_kwargs=True)
    assert unused == {"unheard_of": 1}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stem": "pach"}, "pach"),
        ({"stem": "residual", "patch_size": 8}, "patch_size must be 16"),
        ({"stem": "efficientnet", "patch_size": 8}, "patch_size must be 16 with stem='efficientnet'"),
        ({"image_size": 224.0}, "224.0"),
        ({"image_size": 225}, "got 225"),
        ({"patch_size": 1}, "got 1"),
        ({"hidden_size": 100}, "got 100"),
        ({"feature_layers": (3, 13)}, "13"),
        ({"feature_layers": (0,)}, "0"),
        ({"feature_channels": (256, 256)}, "num_feedback"),
        ({"point_channels": (5,)}, "5"),
        ({"mean_camera": (0.0, 0.0, 0.0)}, "mean_camera"),
        ({"heatmap_evidence": True, "heatmap_level": 3}, "got 3"),
        ({"score_hidden_size": 8}, "score_head=True a width, got 8"),
        ({"score_hidden_size": -1, "score_head": True}, "got -1"),
        ({"loss_weights": {"vertex": 1.0}}, "vertex"),
        ({"loss_weights": {"vertices": -1.0}}, "negative"),
        ({"hand_model": "smplx"}, "smplx"),
        ({"heatmap_sigma": 0}, "heatmap_sigma must be above 0"),
    ],
)
def test_wrong_values_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        HandMIMConfig(**wrong)


def test_from_pretrained_refuses_unknown_names(tmp_path: Path) -> None:
    HandMIMConfig().save_pretrained(tmp_path)
    config, unused = HandMIMConfig.from_pretrained(tmp_path, num_feedbak=2, return_unused_kwargs=True)
    assert unused == {"num_feedbak": 2} and config.num_feedback == 3


def test_mean_orientation_is_a_rotation_with_the_back_of_the_hand_to_the_camera() -> None:
    rows = MEAN_GLOBAL_ORIENT
    for i in range(3):
        for j in range(3):
            assert sum(rows[i][k] * rows[j][k] for k in range(3)) == (i == j)
    (a, b, c), (d, e, f), (g, h, i) = rows
    assert a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g) == 1
    fingers = [-row[0] for row in rows]  # where -x goes
    back = [row[1] for row in rows]  # where +y goes
    assert fingers == [0, -1, 0] and back == [0, 0, -1]  # up in the picture; towards the camera
