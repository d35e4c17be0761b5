"""From a checkpoint's name to its network and image processor: a folder, one in the package, or one on the Hub."""

import os
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from . import DEFAULT_CHECKPOINT
from .errors import InputError, ModelError
from .hub_errors import checkpoint_errors, commit_hash, has_file
from .image_processing_handmim import HandMIMImageProcessor
from .open_detector import EMBEDDED_DETECTOR

ASSETS = Path(__file__).parent / "assets"
EMBEDDED_CHECKPOINT = ASSETS / DEFAULT_CHECKPOINT
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def embedded_checkpoints() -> dict[str, Path]:
    """Name -> folder of the mesh checkpoints inside the package, the default one first."""
    folders = {file.parent for file in ASSETS.glob("*/model.safetensors")} - {EMBEDDED_DETECTOR}
    return {
        folder.name: folder for folder in sorted(folders, key=lambda folder: (folder != EMBEDDED_CHECKPOINT, folder))
    }


def checkpoint_source(name: str | os.PathLike | None) -> str | os.PathLike:
    """What a name stands for: a checkpoint in the package, unless a folder has that name; for None the default one.

    Raises:
        ModelError: The default one is meant, but this installation has none.
    """
    if name is not None and Path(name).exists():
        return name
    short = EMBEDDED_CHECKPOINT.name if name is None else os.fspath(name)
    if short in (embedded := embedded_checkpoints() | {EMBEDDED_DETECTOR.name: EMBEDDED_DETECTOR}):
        return embedded[short]
    if short == EMBEDDED_CHECKPOINT.name:
        raise ModelError("this installation carries no checkpoint; name one: HandMIM.from_pretrained('org/name')")
    return name


def load_network(
    source: str | os.PathLike,
    dtype: torch.dtype = torch.float32,
    hand_model_path: str | os.PathLike | None = None,
    mesh: Literal["usable", "head", "any"] = "usable",
    **hub_kwargs: Any,
) -> Any:
    """A checkpoint's network, whole, in evaluation mode.

    Args:
        source: Hub id or folder.
        dtype: Of its weights.
        hand_model_path: MANO_RIGHT.pkl or its folder; None: looked up.
        mesh: Whether it must have a mesh head ("head"), and also a hand model that is there ("usable").
        hub_kwargs: As `HandMIM.from_pretrained` takes them.

    Raises:
        ModelError, ManoFileNotFoundError, InputError: As `HandMIM.from_pretrained`.
    """
    name = str(source)
    config, hub_kwargs = _load_config(source, hub_kwargs)
    model_kwargs = dict(hub_kwargs)
    if hand_model_path is not None:
        if config.hand_model != "mano":
            raise InputError(f"hand_model_path is for MANO, but {name} uses the {config.hand_model} hand")
        model_kwargs["hand_model_path"] = os.fspath(hand_model_path)
    with checkpoint_errors(source, **hub_kwargs):
        model, report = AutoModel.from_pretrained(
            source, config=config, dtype=dtype, output_loading_info=True, **model_kwargs
        )
    _check_weights(model.eval(), report, name, mesh != "any")
    if mesh == "usable":
        model.hand_model.mean_shape_joints()  # a missing MANO file is told now, not at the first picture
    return model


def load_graph(
    source: str | os.PathLike, device: torch.device, hand_model_path: str | os.PathLike | None, **hub_kwargs: Any
) -> Any:
    """A checkpoint's exported graph as a network; arguments and errors as `load_network`'s."""
    from .onnx_network import OnnxNetwork

    config, hub_kwargs = _load_config(source, hub_kwargs)
    with checkpoint_errors(source, **hub_kwargs):
        return OnnxNetwork.from_pretrained(source, config, device, hand_model_path, **hub_kwargs)


def _load_config(source: str | os.PathLike, hub_kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A checkpoint's configuration, and the options with its commit as the revision.

    The other files then come from the same commit, whatever happens on the Hub meanwhile. The commit's hash is kept as
    `config._commit_hash`, which older versions of transformers set themselves, and which no config.json holds.
    """
    with checkpoint_errors(source, **hub_kwargs):
        config = AutoConfig.from_pretrained(source, **hub_kwargs)
    _check_config(config, str(source))
    config._commit_hash = commit_hash(source, **hub_kwargs)
    return config, hub_kwargs | ({"revision": config._commit_hash} if config._commit_hash else {})


def load_processor(source: str | os.PathLike, image_size: int, **hub_kwargs: Any) -> Any:
    """A checkpoint's image processor; one of our own, and a warning, for a folder that a Trainer wrote without.

    Args:
        source: Hub id or folder.
        image_size: Of the crop that the network takes, pixels.
        hub_kwargs: As `HandMIM.from_pretrained` takes them.

    Raises:
        ModelError: It is there, but cannot be had or read.
    """
    with checkpoint_errors(source, **hub_kwargs):
        if not any(has_file(source, name, **hub_kwargs) for name in PROCESSOR_FILES):
            processor = HandMIMImageProcessor(size=image_size)
            warnings.warn(
                f"{source} has no {PROCESSOR_FILES[0]}: crops are taken {processor.box_scale} times as large as the "
                "boxes, which may be other than in its training",
                stacklevel=2,
            )
            return processor
        return AutoImageProcessor.from_pretrained(source, **hub_kwargs)


def _check_config(config: Any, name: str) -> None:
    if not hasattr(config, "hand_model"):
        raise ModelError(f"{name} is a {config.model_type!r} checkpoint, which gives no hand mesh; name another")


def _check_weights(model: Any, report: dict[str, Any], name: str, mesh: bool) -> None:
    """A mesh model with all its weights from the checkpoint: random weights would predict without a word."""
    if mesh and not hasattr(model, "hand_model"):
        raise ModelError(f"{name} is a {type(model).__name__} without a mesh head; fine-tune it first")
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        raise ModelError(
            f"the checkpoint {name} lacks {len(missing)} weights of the mesh model, such as {missing[0]}; "
            "fine-tune it or name another"
        )
