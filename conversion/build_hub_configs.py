"""Writes `hub_configs/<checkpoint>/` and the table of the zoo from the configuration classes and the recipes.

    python conversion/build_hub_configs.py [--out FOLDER] [--table FILE]

A fine-tuned checkpoint's configuration is its recipe's `model` section on top of its pre-trained backbone's, so that
neither a default nor a recipe changes without the files that say so; a test rebuilds them. Parameters and FLOPs are
counted on the meta device: nothing is computed.
"""

import argparse
import copy
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig, PreTrainedModel

import handmim
from handmim.configuration_hand_detector import HandDetectorConfig
from handmim.configuration_handmim import HandMIMConfig
from handmim.configuration_hiu_dmtl import HIUDMTLConfig
from handmim.configuration_pretraining_handmim import HandMIMPreTrainingConfig
from handmim.image_processing_hand_detector import HandDetectorImageProcessor
from handmim.image_processing_handmim import HandMIMImageProcessor
from handmim.training.detector import START_LAYERS
from handmim.training.recipe import load_recipe, recipe_names
from handmim.training.starting_points import HIU_DMTL, OPTIONS, STARTS
from handmim.zoo import TABLE, ZooEntry

REPOSITORY = Path(__file__).resolve().parents[1]
OUT = REPOSITORY / "hub_configs"
ASSETS = REPOSITORY / "handmim" / "assets"
# Checkpoints that have been published. None yet: add the name when `handmim publish` has put it there.
ON_THE_HUB: frozenset[str] = frozenset()
# FreiHAND, HO-3D and YouTube3DHands, from which these weights learn, are given for research only; MANO likewise.
RESEARCH, FREE = "CC-BY-NC-4.0", "Apache-2.0"
PROCESSOR_FIELDS = (
    "box_scale", "coarse_size", "do_normalize", "do_rescale", "image_mean", "image_processor_type", "image_std",
    "max_hands", "min_score", "overlap", "rescale_factor", "side_certainty", "size",
)  # fmt: skip
DETECTOR = "HandDetectorForObjectDetection"


@dataclass(frozen=True)
class Definition:
    """One checkpoint before anything is counted: class, configuration, licence and the recipe's name."""

    name: str
    architecture: str
    config: PreTrainedConfig
    licence: str
    recipe: str


def definitions() -> list[Definition]:
    """All checkpoints of the zoo."""
    found = []
    for size in ("tiny", "small", "base", "large"):
        name = f"handmim-{size}-pretrain"
        recipe = f"pretrain-handmim-{size}"
        found.append(Definition(name, "HandMIMModel", pretraining_config(size), RESEARCH, recipe))
    for size in ("small", "base", "large"):
        for data, table in (("freihand", "table1"), ("ho3d", "table2")):
            recipe = f"{table}-handmim-{size}"
            config = recipe_config(recipe, pretraining_config(size))
            found.append(Definition(f"handmim-{size}-{data}", "HandMIMForMeshEstimation", config, RESEARCH, recipe))
    name = "handmim-tiny-open"
    config = recipe_config(name, recipe_config(f"{name}-first"))
    found.append(Definition(name, "HandMIMForMeshEstimation", config, FREE, name))
    name = "handmim-small-open"
    found.append(Definition(name, "HandMIMForMeshEstimation", recipe_config(name), FREE, name))
    for stacks in (1, 2, 4, 8):
        name = f"hiu-dmtl-{stacks}stack"
        found.append(Definition(name, "HIUDMTLForHandUnderstanding", recipe_config(name), RESEARCH, name))
    name = "hiu-dmtl-tiny-open"
    found.append(Definition(name, "HIUDMTLForHandUnderstanding", recipe_config(name), FREE, name))
    name = "hand-detector-tiny-open"
    section = load_recipe(name)["detector"]
    fields = {key: value for key, value in section.items() if key not in ("checkpoint", *START_LAYERS)}
    found.append(Definition(name, DETECTOR, HandDetectorConfig(**fields), FREE, name))
    return found


def pretraining_config(size: str) -> HandMIMConfig:
    """The backbone that pre-training by the paper's method releases."""
    recipe = load_recipe(f"pretrain-handmim-{size}")
    fields = {key: value for key, value in recipe["model"].items() if key not in ("size", "timm", "drop_path_rate")}
    options = dict(recipe["pretraining"])
    method = HandMIMPreTrainingConfig.from_method(options.pop("method", "handmim"), **options)
    return HandMIMConfig.from_size(recipe["model"]["size"], pretraining_config=method, **fields)


def recipe_config(name: str, pretrained: HandMIMConfig | None = None) -> PreTrainedConfig:
    """The configuration that a fine-tuning recipe gives, on top of the pre-trained network where it starts from one."""
    section = {key: value for key, value in load_recipe(name)["model"].items() if value is not None}
    fields = {key: value for key, value in section.items() if key not in (*STARTS, *OPTIONS)}
    if section.get("family") == HIU_DMTL:
        return HIUDMTLConfig(**fields)
    if "size" in section:
        return HandMIMConfig.from_size(section["size"], **fields)
    config = copy.deepcopy(pretrained)
    if "loss_weights" in fields:  # a recipe names those that it changes
        fields["loss_weights"] = config.loss_weights | fields["loss_weights"]
    return type(config)(**(config_fields(config) | fields))


def config_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields that the package's own class declares, as JSON has them; those of every configuration say nothing."""
    values = json.loads(config.to_json_string(use_diff=False))
    return {name: values[name] for name in type(config).__annotations__ if name in values and values[name] is not None}


def config_json(definition: Definition) -> dict[str, Any]:
    """The contents of config.json."""
    head = {"architectures": [definition.architecture], "model_type": definition.config.model_type}
    return head | dict(sorted(config_fields(definition.config).items()))


def processor_json(definition: Definition) -> dict[str, Any]:
    """The contents of preprocessor_config.json."""
    kind = HandDetectorImageProcessor if definition.architecture == DETECTOR else HandMIMImageProcessor
    release = load_recipe(definition.recipe).get("release") or {}
    options = {name: value for name, value in release.items() if name in PROCESSOR_FIELDS}
    values = json.loads(kind(size=definition.config.image_size, **options).to_json_string())
    return {name: values[name] for name in PROCESSOR_FIELDS if name in values}


def build_on_meta(architecture: str, config: PreTrainedConfig) -> PreTrainedModel:
    """The network without any memory, in evaluation mode."""
    with torch.device("meta"):
        return getattr(handmim, architecture)(copy.deepcopy(config)).eval()


def count(architecture: str, config: PreTrainedConfig) -> tuple[int, int]:
    """Parameters of a model, and FLOPs of one crop; `zoo.ZooEntry` says what is in them."""
    parameters = sum(value.numel() for value in build_on_meta(architecture, config).parameters())
    config = copy.deepcopy(config)
    config.hand_model = "open"  # MANO's file is not needed to count what comes before it
    model = build_on_meta(architecture, config)
    counter = FlopCounterMode(display=False, depth=8)
    # Unlike those on "meta", fake tensors have a device, which autocast asks for. Attention in its plain products:
    # the counter of torch 2.11 does not know the fused kernel of the CPU, and counts nothing for it.
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model.to_empty(device="cpu")
        with counter:
            model(torch.empty(1, config.num_channels, config.image_size, config.image_size))
    hand_model = sum(counter.get_flop_counts().get(f"{type(model).__name__}.hand_model", {}).values())
    return parameters, counter.get_total_flops() - hand_model


def status(definition: Definition) -> str:
    """Where the checkpoint is to be had."""
    if (ASSETS / definition.name / "model.safetensors").is_file():
        return "in the wheel"
    if definition.name in ON_THE_HUB:
        return "on the Hub"
    return "recipe only" if definition.recipe in recipe_names() else "config only"


def described(definition: Definition) -> dict[str, Any]:
    """What the table says about a checkpoint without counting."""
    has_mesh = definition.architecture not in ("HandMIMModel", DETECTOR)
    return {
        "name": definition.name,
        "architecture": definition.architecture,
        "image_size": definition.config.image_size,
        "licence": definition.licence,
        "hand_model": definition.config.hand_model if has_mesh else None,
        "status": status(definition),
        "recipe": definition.recipe if definition.recipe in recipe_names() else None,
    }


def counted(definition: Definition) -> dict[str, int]:
    """What is counted for the table."""
    parameters, flops = count(definition.architecture, definition.config)
    return {"parameters": parameters, "flops": flops}


def write_configs(out: Path) -> None:
    """Writes the folder of every checkpoint."""
    for definition in definitions():
        folder = out / definition.name
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", config_json(definition))
        write_json(folder / "preprocessor_config.json", processor_json(definition))


def write_json(path: Path, value: Any) -> None:
    """JSON as transformers writes it, with a newline at the end."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="default: hub_configs")
    parser.add_argument("--table", type=Path, default=TABLE, help="default: handmim/assets/zoo.json")
    args = parser.parse_args()
    write_configs(args.out)
    rows = [described(definition) | counted(definition) for definition in definitions()]
    order = [field.name for field in dataclasses.fields(ZooEntry)]
    rows = [{name: row[name] for name in order} for row in rows]
    write_json(args.table, {"format": 1, "checkpoints": rows})


if __name__ == "__main__":
    main()
