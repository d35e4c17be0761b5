"""The Python files that a Hub repository carries, so that `trust_remote_code=True` does without the package.

transformers copies flat files that import each other as `from .x import y`. Which class is which stands in the
`auto_map` of `config.json` and `preprocessor_config.json`, and the pipeline's in `custom_pipelines`. All of it is
written here, into the files: transformers' own way marks the classes for good, and later checkpoints get the code too.

All classes are entered by one file. transformers copies the code of a local folder once for each file that it enters
by: model, processor and pipeline would have three versions of each class that they share.
"""

import shutil
from functools import cache
from pathlib import Path
from typing import Any

from . import _HOME, TASK
from .errors import ModelError
from .open_hand_file import ENTRY, OPEN_HAND_FILE, copy_open_hand, find_open_hand

PACKAGE = Path(__file__).parent
PIPELINE = "HandMeshPipeline"
PROVENANCE = "open_hand_provenance.md"
# By model_type: the configuration of a class of `config.architectures`, its Auto classes beside AutoModel, and
# its image processor where it has one of its own.
CONFIGS = {"handmim": "HandMIMConfig", "hiu_dmtl": "HIUDMTLConfig", "hand_detector": "HandDetectorConfig"}
AUTO_CLASSES = {"hand_detector": ("AutoModelForObjectDetection",)}
PROCESSORS = {"hand_detector": "HandDetectorImageProcessor"}
PROCESSOR = "HandMIMImageProcessor"


def architecture(config: dict[str, Any]) -> str:
    """The public name of the model class that a config.json names.

    Raises:
        ModelError: It is not one of ours.
    """
    named = [name for name in config.get("architectures") or () if name in _HOME]
    if config.get("model_type") not in CONFIGS or not named:
        raise ModelError(
            f"only checkpoints of this package's models are published; config.json has the model_type "
            f"{config.get('model_type')!r} and the architectures {config.get('architectures')!r}"
        )
    return named[0]


def has_mesh(config: dict[str, Any]) -> bool:
    """Whether the model gives hands, so that the pipeline takes it."""
    return architecture(config) in ("HandMIMForMeshEstimation", "HIUDMTLForHandUnderstanding") and bool(
        config.get("mesh", True)
    )


def marked_config(config: dict[str, Any], carry_code: bool) -> dict[str, Any]:
    """A config.json that says where its classes are, or, without code, nothing of it."""
    marked = {name: value for name, value in config.items() if name not in ("auto_map", "custom_pipelines")}
    if carry_code:
        autos = ("AutoModel", *AUTO_CLASSES.get(config["model_type"], ()))
        classes = {"AutoConfig": CONFIGS[config["model_type"]]} | dict.fromkeys(autos, architecture(config))
        marked["auto_map"] = {auto: f"{ENTRY}.{name}" for auto, name in classes.items()}
        if has_mesh(config):
            marked["custom_pipelines"] = {TASK: {"impl": f"{ENTRY}.{PIPELINE}", "pt": ["AutoModel"]}}
    return marked


def marked_processor(values: dict[str, Any], carry_code: bool) -> dict[str, Any]:
    """A preprocessor_config.json that says where its class is, or, without code, nothing of it."""
    marked = {name: value for name, value in values.items() if name != "auto_map"}
    name = processor_of(values)
    return marked | {"auto_map": {"AutoImageProcessor": f"{ENTRY}.{name}"}} if carry_code else marked


def processor_class(config: dict[str, Any]) -> str:
    """The public name of the image processor of a config.json's model."""
    return PROCESSORS.get(config["model_type"], PROCESSOR)


def processor_of(values: dict[str, Any]) -> str:
    """The public name of the class that a preprocessor_config.json is of."""
    name = values.get("image_processor_type")
    return name if name in PROCESSORS.values() else PROCESSOR


def copy_code(config: dict[str, Any] | None, folder: Path, processor: str = PROCESSOR) -> None:
    """Puts the files of a checkpoint's classes into a folder, and the open hand's arrays if it poses that hand.

    Args:
        config: Contents of config.json; None: only the image processor.
        folder: That is to be uploaded.
        processor: Public name of the image processor that goes alone.
    """
    names = {processor} if config is None else carried_classes(config)
    for file in code_files({_module(name) for name in names}):
        shutil.copyfile(file, folder / file.name)
    lines = ['"""The classes that this repository\'s configurations name, of the package handmim."""', ""]
    lines += [f"from .{_module(name)} import {name}" for name in sorted(names, key=_module)]
    (folder / f"{ENTRY}.py").write_text("\n".join([*lines, "", f"__all__ = {sorted(names)}", ""]), encoding="utf-8")
    if config is not None and has_mesh(config) and config.get("hand_model", "open") == "open":
        copy_open_hand(folder)
        shutil.copyfile(find_open_hand().with_name(PROVENANCE), folder / PROVENANCE)


@cache
def code_names() -> frozenset[str]:
    """Names of all files that `copy_code` may write, whatever the checkpoint."""
    kinds = ("configuration_", "modeling_", "image_processing_", "pipeline_")
    modules = {module for module in _HOME.values() if module.startswith(kinds)}
    return frozenset({file.name for file in code_files(modules)} | {f"{ENTRY}.py", OPEN_HAND_FILE, PROVENANCE})


def code_files(entries: set[str]) -> list[Path]:
    """The modules of these names and all they import of this package, as transformers follows imports."""
    from transformers.dynamic_module_utils import get_relative_import_files

    files = {PACKAGE / f"{name}.py" for name in entries}
    return sorted(files | {Path(found) for file in list(files) for found in get_relative_import_files(file)})


def carried_classes(config: dict[str, Any]) -> set[str]:
    """Public names of the classes that a checkpoint's files name."""
    names = {processor_class(config), architecture(config), CONFIGS[config["model_type"]]}
    return names | {PIPELINE} if has_mesh(config) else names


def _module(name: str) -> str:
    return _HOME.get(name, "configuration_hiu_dmtl")
