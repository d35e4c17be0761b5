"""3D hand meshes from single RGB images: open implementations of HandMIM and HIU-DMTL.

Importing the package registers its classes with transformers' Auto classes and pipelines. Everything else is loaded
when first used, so that `import handmim` and `handmim --help` take milliseconds.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration_handmim import HandMIMConfig
    from .errors import HandMIMError, ImageError, InputError, ModelError
    from .hand import Hand, HandMIM
    from .hand_model import HandModel, HandModelOutput
    from .image_processing_handmim import HandMIMImageProcessor
    from .modeling_handmim import HandMIMForMeshEstimation, HandMIMModel
    from .pipeline_hand_mesh import HandMeshPipeline

_HOME = {
    "HandMIM": "hand",
    "Hand": "hand",
    "HandModel": "hand_model",
    "HandModelOutput": "hand_model",
    "HandMIMConfig": "configuration_handmim",
    "HandMIMModel": "modeling_handmim",
    "HandMIMForMeshEstimation": "modeling_handmim",
    "HandMIMImageProcessor": "image_processing_handmim",
    "HandMeshPipeline": "pipeline_hand_mesh",
    "HandMIMError": "errors",
    "ImageError": "errors",
    "InputError": "errors",
    "ModelError": "errors",
}
TASK = "hand-mesh-estimation"

__all__ = [
    "Hand",
    "HandMIM",
    "HandMIMConfig",
    "HandMIMError",
    "HandMIMForMeshEstimation",
    "HandMIMImageProcessor",
    "HandMIMModel",
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
    names = ("HandMIMForMeshEstimation", "HandMIMModel")


def _register() -> None:
    """Make config, models, image processor and pipeline known to transformers."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel
    from transformers.pipelines import PIPELINE_REGISTRY

    from .configuration_handmim import HandMIMConfig
    from .image_processing_handmim import HandMIMImageProcessor
    from .pipeline_hand_mesh import HandMeshPipeline

    AutoConfig.register(HandMIMConfig.model_type, HandMIMConfig, exist_ok=True)
    AutoModel.register(HandMIMConfig, _HandMIMByArchitecture, exist_ok=True)
    processors = {"pil": HandMIMImageProcessor, "torchvision": HandMIMImageProcessor}
    AutoImageProcessor.register(HandMIMConfig, image_processor_classes=processors, exist_ok=True)
    PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=HandMeshPipeline, pt_model=AutoModel)


class _AfterTransformers(importlib.abc.MetaPathFinder):
    """Calls `_register` as soon as somebody imports transformers.

    Registering at once would import torch and the Auto classes, seconds that `handmim --help` has no use for. Nobody
    can tell the difference: the classes are registered before `import transformers` returns.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "transformers":
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next((spec for finder in others if (spec := finder.find_spec(name, path, target))), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                _register()

        spec.loader.exec_module = execute_and_register
        return spec


if "transformers" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _AfterTransformers())
