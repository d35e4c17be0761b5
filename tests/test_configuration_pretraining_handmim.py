"""Tests of the pre-training configuration: methods, round trip, and every way to get it wrong."""

import math
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError

from handmim.configuration_handmim import HandMIMConfig
from handmim.configuration_pretraining_handmim import METHODS, HandMIMPreTrainingConfig


def test_defaults_are_the_papers() -> None:
    config = HandMIMPreTrainingConfig()
    assert (config.pose_weight, config.patch_weight, config.reconstruction_weight) == (1, 1, 1)
    assert config.projection_size == 256 and config.num_prototypes == 0 and config.align_points
    assert config.to_dict() == HandMIMPreTrainingConfig.from_method("handmim").to_dict()


def test_what_each_method_needs() -> None:
    needs = {name: HandMIMPreTrainingConfig.from_method(name) for name in METHODS}
    assert [name for name, config in needs.items() if not config.uses_teacher] == ["peclr", "mae"]
    assert [name for name, config in needs.items() if not config.uses_projection] == ["mae"]
    assert [name for name, config in needs.items() if not config.reconstruction_weight] == [
        "handmim_without_reconstruction",
        "ibot",
        "peclr",
    ]
    assert needs["ibot"].output_size == 8192 and needs["handmim"].output_size == 256


def test_from_method_names_a_wrong_method() -> None:
    with pytest.raises(ValueError, match="got 'dino'"):
        HandMIMPreTrainingConfig.from_method("dino")


@pytest.mark.parametrize("method", METHODS)
def test_round_trip_inside_the_models_config(method: str, tmp_path: Path) -> None:
    options = HandMIMPreTrainingConfig.from_method(method, student_temperature=1, decoder_channels=(8, 8, 4, 4))
    HandMIMConfig(pretraining_config=options).save_pretrained(tmp_path)
    loaded = HandMIMConfig.from_pretrained(tmp_path).pretraining_config
    assert isinstance(loaded, HandMIMPreTrainingConfig)
    assert loaded.to_dict() == options.to_dict() | {"decoder_channels": [8, 8, 4, 4]}
    assert set(loaded.to_dict()) - {"transformers_version"} == set(HandMIMPreTrainingConfig.__annotations__)


def test_a_mesh_model_needs_none() -> None:
    assert HandMIMConfig().pretraining_config is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pose_weight": -1.0}, "-1.0"),
        ({"pose_weight": 0, "patch_weight": 0, "reconstruction_weight": 0}, "not all 0"),
        ({"mask_student": False}, "mask_student must be True"),
        ({"projection_layers": 0}, "got 0"),
        ({"projection_size": 255}, "got 255"),
        ({"num_prototypes": 8192}, "got 8192"),
        ({"class_loss": "contrastive", "align_points": False, "num_prototypes": 16}, "contrastive"),
        ({"class_loss": "contrastive"}, "patch_weight must be 0 .* got 1.0"),
        ({"class_loss": "clustering"}, "clustering"),
        ({"student_temperature": 0.0}, "student_temperature"),
        ({"center_momentum": 1.5}, "got 1.5"),
        ({"center_momentum": math.nan}, "center_momentum .* got nan"),
        ({"pose_weight": math.nan}, "must be finite.* got .nan"),
        ({"patch_weight": math.nan, "pose_weight": 0}, "must be finite.* got .0, nan"),
        ({"reconstruction_weight": math.inf}, "must be finite.* inf"),
        ({"projection_hidden_size": 0}, "projection_hidden_size must be at least 1, got 0"),
        ({"projection_size": 0}, "projection_size must be at least 1, got 0"),
        ({"num_prototypes": -1, "align_points": False}, "num_prototypes must be at least 0, got -1"),
        ({"decoder_channels": [0, 0, 0, 0]}, r"decoder_channels must be at least 1 each, got \(0, 0, 0, 0\)"),
        ({"student_temperature": math.nan}, "student_temperature must be positive and finite, got nan"),
        ({"teacher_temperature": math.inf}, "teacher_temperature must be positive and finite, got inf"),
        ({"temperature_warmup_epochs": -3}, "temperature_warmup_epochs must be .* got -3"),
        ({"temperature_warmup_epochs": math.nan}, "temperature_warmup_epochs must be .* got nan"),
    ],
)
def test_wrong_values_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        HandMIMPreTrainingConfig(**wrong)
