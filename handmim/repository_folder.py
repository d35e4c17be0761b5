"""The folder of a Hub repository: everything a checkpoint is published with, looked over before anything leaves."""

import dataclasses
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from .checkpoint_safety import check_folder, kind_fault, raise_faults
from .hub_code import PACKAGE, architecture, copy_code, marked_config, marked_processor, processor_class
from .model_card import CardFacts, card_text
from .model_card_metadata import REPORTS_FOLDER
from .model_card_reports import report_bytes, report_name
from .picture_files import without_metadata
from .repository_card import PublishError, folder_fingerprint, signed

CONFIG, PROCESSOR, CARD = "config.json", "preprocessor_config.json", "README.md"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# What a Trainer needs to go on, and nobody else: left out without a refusal.
TRAINER_FILES = re.compile(
    r"(optimizer|scheduler|scaler)\.(pt|bin)|rng_state(_\d+)?\.pth|training_args\.bin|trainer_state\.json|ema\.safetensors"
)
MAX_JSON_BYTES = 1 << 26


def build_folder(checkpoint: Path, out: Path, *, facts: CardFacts | None, carry_code: bool = True) -> list[Path]:
    """Everything that a repository of a checkpoint holds.

    Args:
        checkpoint: A folder that `save_pretrained` wrote: `release` of a run, or `checkpoint-N` of a Trainer.
        out: Must not exist, or be empty. It is there whole, or not at all.
        facts: For the card, recipe, reports and pictures; None: without them.
        carry_code: Whether the repository can be loaded without the package, with `trust_remote_code=True`.

    Returns:
        The files, sorted.

    Raises:
        PublishError: The checkpoint is not whole, or `out` holds something.
        UnsafeUploadError: Something in it must not be published.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PublishError(f"{out} is there already and holds something; name a new folder")
    check_source(checkpoint)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp") as temporary:
        folder = Path(temporary) / "folder"
        folder.mkdir()
        _fill(checkpoint, folder, facts, carry_code)
        check_folder(folder)
        _check_weights(folder)
        if out.exists():
            out.rmdir()
        os.replace(folder, out)
    return sorted(path for path in out.rglob("*") if path.is_file())


def check_source(checkpoint: Path) -> None:
    """Looks at all files of a checkpoint's folder, also at those that stay behind.

    Raises:
        PublishError: It is no checkpoint of ours.
        UnsafeUploadError: It holds pickles or arrays that no Trainer wrote.
    """
    if not checkpoint.is_dir():
        raise PublishError(f"{checkpoint} is no folder; name the folder of a checkpoint, such as RUN/release")
    strange = [path for path in sorted(checkpoint.iterdir()) if path.is_file() and not _of_trainer(path.name)]
    found = [(path.name, kind_fault(path)) for path in strange]
    if not (checkpoint / WEIGHTS).exists() and not (checkpoint / INDEX).exists():
        pickled = [name for name, _ in found if name.endswith((".bin", ".pt", ".pth"))]
        hint = f" but {pickled[0]}: load it and save it again with save_pretrained" if pickled else ""
        raise PublishError(f"{checkpoint} has no {WEIGHTS}{hint or '; save the model with save_pretrained'}")
    raise_faults([f"{name} {fault}" for name, fault in found if fault and "kind that no" not in fault])


def left_out(checkpoint: Path) -> list[str]:
    """Files of a checkpoint's folder that are not published."""
    taken = {CONFIG, PROCESSOR, "recipe.yaml", INDEX, *(path.name for path in _weight_files(checkpoint))}
    return sorted(path.name for path in checkpoint.iterdir() if path.name not in taken)


def _of_trainer(name: str) -> bool:
    return TRAINER_FILES.fullmatch(name) is not None


def _fill(checkpoint: Path, folder: Path, facts: CardFacts | None, carry_code: bool) -> None:
    config = read_json(checkpoint / CONFIG)
    architecture(config)
    for file in _weight_files(checkpoint):
        shutil.copyfile(file, folder / file.name)
    if (checkpoint / INDEX).is_file() and not (checkpoint / WEIGHTS).is_file():
        shutil.copyfile(checkpoint / INDEX, folder / INDEX)
    write_json(folder / CONFIG, marked_config(config, carry_code))
    write_json(folder / PROCESSOR, marked_processor(_processor(checkpoint, config), carry_code))
    if carry_code:
        copy_code(config, folder)
    if facts is not None:
        _write_facts(folder, dataclasses.replace(facts, carries_code=carry_code))
    licence = "" if facts is None else facts.licence
    if licence.lower() == "apache-2.0" or carry_code:  # the code is under it whatever the weights are
        name = "LICENSE" if licence.lower() == "apache-2.0" else "LICENSE-code"
        (folder / name).write_text(_licence_text(), encoding="utf-8")


def _write_facts(folder: Path, facts: CardFacts) -> None:
    (folder / CARD).write_text(signed(card_text(facts), folder_fingerprint(folder)), encoding="utf-8")
    for picture in map(Path, facts.pictures):
        (folder / picture.name).write_bytes(_picture(picture))
    if facts.recipe is not None:
        import yaml

        text = yaml.safe_dump(dict(facts.recipe), sort_keys=False)
        (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    for report in facts.measurements:  # under the name and with the check sum that the card states
        (folder / REPORTS_FOLDER).mkdir(exist_ok=True)
        (folder / REPORTS_FOLDER / report_name(report)).write_bytes(report_bytes(report))


def _picture(path: Path) -> bytes:
    """A picture's file without places, names and times.

    Raises:
        PublishError: It cannot be read.
    """
    try:
        return without_metadata(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PublishError(f"the picture {path} cannot be published ({error}); save it again as JPEG or PNG") from error


def _processor(checkpoint: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Of the checkpoint, or, where a Trainer saved none, the one that `from_pretrained` takes then."""
    if (checkpoint / PROCESSOR).is_file():
        return read_json(checkpoint / PROCESSOR)
    import handmim

    kind = getattr(handmim, processor_class(config))
    return json.loads(kind(size=config["image_size"]).to_json_string())


def _weight_files(checkpoint: Path) -> list[Path]:
    """`model.safetensors`, or its shards.

    Raises:
        PublishError: One is missing.
    """
    if (checkpoint / WEIGHTS).is_file():
        return [checkpoint / WEIGHTS]
    index = read_json(checkpoint / INDEX)
    names = sorted(set(index["weight_map"].values())) if isinstance(index.get("weight_map"), dict) else []
    wrong = [name for name in names if not re.fullmatch(r"model-\d+-of-\d+\.safetensors", str(name))]
    if wrong or not names:
        raise PublishError(f"{checkpoint / INDEX} names no shards of model.safetensors, got {wrong[:3] or index}")
    missing = [name for name in names if not (checkpoint / name).is_file()]
    if missing:
        raise PublishError(f"{checkpoint} lacks {', '.join(missing)}, which its {INDEX} names; save the model again")
    return [checkpoint / name for name in names]


def _check_weights(folder: Path) -> None:
    """The weights are those of the model that the configuration describes, all of them and nothing else."""
    import torch
    from safetensors import SafetensorError, safe_open

    import handmim

    config = read_json(folder / CONFIG)
    shapes: dict[str, tuple[int, ...]] = {}
    for path in _weight_files(folder):
        try:
            with safe_open(path, "pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise PublishError(f"{path.name} is damaged ({error}); save the model again") from error
    kind = getattr(handmim, architecture(config))
    try:
        with torch.device("meta"):
            model = kind(kind.config_class.from_dict(config))
    except (TypeError, ValueError) as error:
        raise PublishError(f"{CONFIG} is no configuration of {kind.__name__}: {error}") from error
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    missing = sorted(wanted.keys() - shapes.keys())
    other = sorted(name for name in wanted.keys() & shapes.keys() if wanted[name] != shapes[name])
    # a backbone of pre-training keeps its mask token, which only pre-training reads
    extra = sorted(name for name in shapes.keys() - wanted.keys() if not name.endswith("mask_token"))
    faults = {"lack tensors of": missing, "have other shapes than": other, "have tensors beside": extra}
    for what, names in faults.items():
        if names:
            raise PublishError(
                f"the weights {what} a {kind.__name__} as {CONFIG} describes it, {len(names)} in all, such as "
                f"{names[0]}; save the model again"
            )


def _licence_text() -> str:
    """The Apache licence: beside the package in a clone, in its metadata once installed."""
    from importlib.metadata import PackageNotFoundError, distribution

    beside = PACKAGE.parent / "LICENSE"
    if beside.is_file() and (PACKAGE.parent / "pyproject.toml").is_file():
        return beside.read_text(encoding="utf-8")
    try:
        text = distribution("handmim").read_text("licenses/LICENSE")
    except PackageNotFoundError:
        text = None
    if text is None:
        raise PublishError("the package's LICENSE was not found; install handmim again")
    return text


def read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it is larger than {MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}, not an object")
    except FileNotFoundError as error:
        raise PublishError(f"{path.parent} has no {path.name}; name the folder of a saved model") from error
    except (OSError, ValueError, RecursionError) as error:
        raise PublishError(f"{path} cannot be read ({error}); save the model again") from error
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
