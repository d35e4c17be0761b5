"""3D hand meshes from single RGB images: open implementations of HandMIM and HIU-DMTL.

Importing the package registers its classes with transformers' Auto classes and pipelines, and so imports those. The
public names are loaded when first used: the networks, and with them timm, come only with the first model.
"""

import importlib
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration_hand_detector import HandDetectorConfig
    from .configuration_handmim import HandMIMConfig
    from .configuration_pretraining_handmim import HandMIMPreTrainingConfig
    from .errors import HandMIMError, ImageError, InputError, ModelError
    from .hand import Hand, HandMIM
    from .hand_model import HandModel, HandModelOutput
    from .image_processing_hand_detector import HandDetectorImageProcessor
    from .image_processing_handmim import HandMIMImageProcessor
    from .modeling_hand_detector import HandDetectorForObjectDetection
    from .modeling_handmim import HandMIMForMeshEstimation, HandMIMModel
    from .modeling_hiu_dmtl import HIUDMTLForHandUnderstanding, HIUDMTLModel
    from .modeling_pretraining_handmim import HandMIMForPreTraining
    from .pipeline_hand_mesh import HandMeshPipeline

_HOME = {
    "HandMIM": "hand",
    "Hand": "hand",
    "HandModel": "hand_model",
    "HandModelOutput": "hand_model",
    "HandMIMConfig": "configuration_handmim",
    "HandMIMPreTrainingConfig": "configuration_pretraining_handmim",
    "HandMIMModel": "modeling_handmim",
    "HandMIMForPreTraining": "modeling_pretraining_handmim",
    "HandMIMForMeshEstimation": "modeling_handmim",
    "HIUDMTLConfig": "configuration_hiu_dmtl",
    "HIUDMTLModel": "modeling_hiu_dmtl",
    "HIUDMTLForHandUnderstanding": "modeling_hiu_dmtl",
    "HandMIMImageProcessor": "image_processing_handmim",
    "HandDetectorConfig": "configuration_hand_detector",
    "HandDetectorForObjectDetection": "modeling_hand_detector",
    "HandDetectorImageProcessor": "image_processing_hand_detector",
    "HandMeshPipeline": "pipeline_hand_mesh",
    "HandMIMError": "errors",
    "ImageError": "errors",
    "InputError": "errors",
    "ModelError": "errors",
}
TASK = "hand-mesh-estimation"
DEFAULT_CHECKPOINT = "handmim-tiny-open"

__all__ = [
    "HIUDMTLConfig",
    "HIUDMTLForHandUnderstanding",
    "HIUDMTLModel",
    "Hand",
    "HandDetectorConfig",
    "HandDetectorForObjectDetection",
    "HandDetectorImageProcessor",
    "HandMIM",
    "HandMIMConfig",
    "HandMIMError",
    "HandMIMForMeshEstimation",
    "HandMIMForPreTraining",
    "HandMIMImageProcessor",
    "HandMIMModel",
    "HandMIMPreTrainingConfig",
    "HandMeshPipeline",
    "HandModel",
    "HandModelOutput",
    "ImageError",
    "InputError",
    "ModelError",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module at first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("handmim")
    elif name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, "__version__"})


class _ByArchitecture:
    """Stands for the models of a configuration in `AutoModel`: takes the class that `config.architectures` names.

    Asked for a model it imports the modeling file, and with it timm: more than everything that `import handmim` costs.
    """

    names: tuple[str, ...]
    """Public names of the model classes; the first is taken for a configuration that names none."""

    def __init_subclass__(cls) -> None:
        cls.__name__ = cls.names[0]  # pipelines of transformers compare it with the model's

    @classmethod
    def choose(cls, config: Any) -> Any:
        """The model class for a configuration."""
        named = [name for name in config.architectures or () if name in cls.names]
        return __getattr__((named or cls.names)[0])

    @classmethod
    def from_pretrained(cls, name: Any, *args: Any, config: Any, **kwargs: Any) -> Any:
        return cls.choose(config).from_pretrained(name, *args, config=config, **kwargs)

    @classmethod
    def _from_config(cls, config: Any, **kwargs: Any) -> Any:
        return cls.choose(config)._from_config(config, **kwargs)


class _HandMIMByArchitecture(_ByArchitecture):
    names = ("HandMIMForMeshEstimation", "HandMIMForPreTraining", "HandMIMModel")


class _HIUDMTLByArchitecture(_ByArchitecture):
    names = ("HIUDMTLForHandUnderstanding", "HIUDMTLModel")


class _DetectorByArchitecture(_ByArchitecture):
    names = ("HandDetectorForObjectDetection",)


@cache
def register() -> None:
    """Make config, models, image processor and pipeline known to transformers. Importing the package does it."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForObjectDetection
    from transformers.pipelines import PIPELINE_REGISTRY

    from .configuration_hand_detector import HandDetectorConfig
    from .configuration_handmim import HandMIMConfig
    from .configuration_hiu_dmtl import HIUDMTLConfig
    from .image_processing_hand_detector import HandDetectorImageProcessor
    from .image_processing_handmim import HandMIMImageProcessor
    from .pipeline_hand_mesh import HandMeshPipeline

    families = (
        (HandMIMConfig, _HandMIMByArchitecture, HandMIMImageProcessor),
        (HIUDMTLConfig, _HIUDMTLByArchitecture, HandMIMImageProcessor),
        (HandDetectorConfig, _DetectorByArchitecture, HandDetectorImageProcessor),
    )
    AutoModelForObjectDetection.register(HandDetectorConfig, _DetectorByArchitecture, exist_ok=True)
    for config, models, processor in families:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, models, exist_ok=True)
        processors = {"pil": processor, "torchvision": processor}
        AutoImageProcessor.register(config, image_processor_classes=processors, exist_ok=True)
    default = {"model": (str(Path(__file__).parent / "assets" / DEFAULT_CHECKPOINT), "main")}  # a folder: any revision
    PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=HandMeshPipeline, pt_model=AutoModel, default=default)


# The one exception: in the `handmim` command (the console script's name, on Windows with .exe) the commands that load a
# model call `register` themselves, so that help, wrong arguments and unreadable pictures need not wait for torch.
if Path(*sys.argv[:1]).stem != "handmim":
    register()
