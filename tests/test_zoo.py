"""The zoo's configurations build what its table states, and both are what the classes and recipes give."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoImageProcessor

from conversion.build_hub_configs import OUT, build_on_meta, count, definitions, described, write_configs
from handmim import HandMIM
from handmim.checkpoints import ASSETS
from handmim.cli import main
from handmim.commands import zoo_table
from handmim.errors import ModelError
from handmim.training.recipe import recipe_names
from handmim.zoo import find, near_names, zoo

REPOSITORY = Path(__file__).parents[1]
HINT = "run python conversion/build_hub_configs.py"
NAMES = sorted(path.name for path in OUT.iterdir())


def test_every_checkpoint_of_the_papers_is_there() -> None:
    pretrain = {f"handmim-{size}-pretrain" for size in ("tiny", "small", "base", "large")}
    mesh = {f"handmim-{size}-{data}" for size in ("small", "base", "large") for data in ("freihand", "ho3d")}
    stacks = {f"hiu-dmtl-{stacks}stack" for stacks in (1, 2, 4, 8)}
    free = {"handmim-tiny-open", "handmim-small-open", "hiu-dmtl-tiny-open", "hand-detector-tiny-open"}
    assert set(NAMES) == set(zoo()) == pretrain | mesh | stacks | free


def test_rebuilding_gives_the_same_files(tmp_path: Path) -> None:
    write_configs(tmp_path)
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.json")]
    assert set(files) == {path.relative_to(OUT) for path in OUT.rglob("*") if path.is_file()}
    for path in files:
        assert (tmp_path / path).read_bytes() == (OUT / path).read_bytes(), f"{path}: {HINT}"


@pytest.mark.parametrize("name", [path.parent.name for path in ASSETS.glob("*/model.safetensors")])
def test_the_processor_is_that_of_the_released_checkpoint(name: str) -> None:
    """The detector's was that of an earlier stage, and lost its second look."""
    ours, released = (json.loads((root / name / "preprocessor_config.json").read_text()) for root in (OUT, ASSETS))
    assert {key: released[key] for key in ours} == ours and not set(released) - set(ours) - {"processor_class"}


def test_the_table_says_what_the_definitions_say() -> None:
    """The counts are in the next test."""
    assert [definition.name for definition in definitions()] == list(zoo()), HINT
    for definition in definitions():
        stated = dataclasses.asdict(find(definition.name))
        assert described(definition).items() <= stated.items(), HINT


@pytest.mark.parametrize("name", NAMES)
def test_the_files_build_what_the_table_states(name: str) -> None:
    entry = find(name)
    config = AutoConfig.from_pretrained(OUT / name)
    assert config.architectures == [entry.architecture]
    assert count(entry.architecture, config) == (entry.parameters, entry.flops)
    assert entry.hand_model in (None, getattr(config, "hand_model", None))
    assert AutoImageProcessor.from_pretrained(OUT / name).size["height"] == config.image_size == entry.image_size
    assert entry.recipe is None or entry.recipe in recipe_names()


def test_counts_are_those_of_a_plain_count() -> None:
    """ViT-S/16 has 4.6 billion multiply-adds; the parameters of one model are counted on real memory."""
    attention = 12 * 197 * (4 * 384**2 + 2 * 197 * 384 + 8 * 384**2)
    assert find("handmim-small-pretrain").flops == 2 * (attention + 196 * 768 * 384)
    entry = find("handmim-tiny-open")
    config = json.loads((OUT / entry.name / "config.json").read_text())
    embedded = json.loads((REPOSITORY / "handmim/assets/handmim-tiny-open/config.json").read_text())
    shape = ("hidden_size", "num_hidden_layers", "image_size", "stem", "feature_channels", "heatmap_evidence")
    assert {name: config[name] for name in shape} == {name: embedded[name] for name in shape}
    from handmim import HandMIMForMeshEstimation

    model = HandMIMForMeshEstimation.from_pretrained(REPOSITORY / "handmim/assets/handmim-tiny-open")
    assert sum(value.numel() for value in model.parameters()) == entry.parameters


def test_meta_models_take_no_memory() -> None:
    last = definitions()[-1]
    assert all(
        value.device == torch.device("meta") for value in build_on_meta(last.architecture, last.config).parameters()
    )


def test_names_are_found_and_near_ones_listed() -> None:
    assert find("somebody/handmim-base-ho3d").name == "handmim-base-ho3d"
    assert near_names("HandMIM-base-FreiHand")[0] == "handmim-base-freihand"
    with pytest.raises(ModelError, match="did you mean handmim-small-freihand"):
        find("handmim-smal-freihand")
    with pytest.raises(ModelError, match="hiu-dmtl-8stack"):
        find("resnet")


def test_loading_an_unknown_name_lists_near_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="near names: handmim-base-freihand"):
        HandMIM.from_pretrained("handmim-base-freehand", local_files_only=True)


def test_info_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert zoo_table() in printed
    line = next(line for line in printed.splitlines() if line.startswith("handmim-tiny-open"))
    assert (
        f"{find('handmim-tiny-open').parameters / 1e6:.1f} M" in line
        and "in the wheel" in line
        and "Apache-2.0" in line
    )
