"""An exported network that runs in onnxruntime, with the call of the model it was made from."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput, cached_file

from .errors import InputError, ModelError
from .fitting import fit_output
from .hand_model import HandModel
from .onnx_export import FILE_NAME, INPUTS, JOINT_ARRAYS, joint_arrays

MAX_GRAPH_BYTES = 2 << 30  # protobuf's own limit


class OnnxNetwork(nn.Module):
    """A graph that `onnx_export.export_onnx` wrote; the pipeline takes it for the model.

    Args:
        path: Of the graph.
        config: Of the model it was made from.
        device: "cpu", or "cuda" where onnxruntime was built for it.
        hand_model_path: Where MANO's file is, for a graph that needs it; looked up when None.

    Raises:
        ModelError: No such file, a damaged one, or one that this package did not export.
        ManoFileNotFoundError: The graph needs MANO, and there is no file.
        InputError: onnxruntime has nothing for the device.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        config: Any,
        device: torch.device | str = "cpu",
        hand_model_path: str | os.PathLike | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.dtype, self.device = torch.float32, torch.device("cpu")  # of what goes in and comes out
        self.hand_model = HandModel(config.hand_model, side="right", path=hand_model_path)
        self.session = _open_session(Path(path), torch.device(device))
        facts = self.session.get_modelmeta().custom_metadata_map
        if facts.get("handmim.hand_model") != config.hand_model:
            raise ModelError(
                f"{path} was not exported from this checkpoint; export it again with handmim export --onnx"
            )
        self.precision = facts.get("handmim.precision", "float32")
        self.arrays: dict[str, np.ndarray] = {}
        if config.hand_model == "mano":
            self.hand_model.mean_shape_joints()  # a missing file is told now
            self.arrays = {name: value.numpy() for name, value in joint_arrays(self.hand_model).items()}

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        config: Any,
        device: torch.device | str = "cpu",
        hand_model_path: str | os.PathLike | None = None,
        **hub_kwargs: Any,
    ) -> "OnnxNetwork":
        """The graph of a folder or Hub repository; arguments as those of the class."""
        name = os.fspath(source)
        path = cached_file(name, FILE_NAME, _raise_exceptions_for_missing_entries=False, **hub_kwargs)
        if path is None:
            raise ModelError(f"{name} holds no {FILE_NAME}; make it with handmim export {name} --onnx FOLDER")
        return cls(path, config, device, hand_model_path)

    def set_image_size(self, image_size: int) -> None:
        """As the model's, which a graph cannot follow.

        Raises:
            InputError: It is not the size that the graph was exported for.
        """
        own = self.config.image_size
        if image_size != own:
            raise InputError(f"the graph takes crops of {own} px, got image_size {image_size}; export one for these")

    @torch.no_grad()
    def forward(self, pixel_values: Tensor, intrinsics: Tensor, fit: bool = True, **kwargs: Any) -> ModelOutput:
        """As the model's forward, without labels.

        Args:
            pixel_values: (B, 3, S, S), S as the config says.
            intrinsics: (B, 3, 3) of the crops, pixels.
            fit: False leaves the estimate as it is, whatever `config.fit_steps` says.

        Raises:
            InputError: Crops of another size, no cameras, or a graph of an older package that cannot be fitted.
        """
        side = self.config.image_size
        if tuple(pixel_values.shape[1:]) != (self.config.num_channels, side, side):
            raise InputError(f"pixel_values must be (B, 3, {side}, {side}) for this graph, got {pixel_values.shape}")
        if intrinsics is None:
            raise InputError("intrinsics must be given to an exported network: (B, 3, 3), pixels of the crop")
        tensors = (pixel_values.float(), intrinsics.float().expand(len(pixel_values), 3, 3))
        feed = {name: value.cpu().contiguous().numpy() for name, value in zip(INPUTS, tensors, strict=True)}
        names = [output.name for output in self.session.get_outputs()]
        values = self.session.run(names, feed | self.arrays)
        output = ModelOutput({name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)})
        if self.config.fit_steps and "heatmaps" not in output:  # also where the caller fits (`tta`)
            raise InputError("this graph gives no heat maps to fit to: export it again, or load it with fit_steps=0")
        if fit and self.config.fit_steps:
            output |= fit_output(self.config, self.hand_model, output, tensors[1], side)
        elif "vertices" not in output:
            parameters = (output[name] for name in ("global_orient", "hand_pose", "betas", "translation"))
            output["vertices"] = self.hand_model(*parameters).vertices
        return output


def _open_session(path: Path, device: torch.device) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError("onnxruntime is missing: pip install handmim[onnx]") from error
    if not path.is_file():
        raise ModelError(f"there is no graph {path}; make it with handmim export CHECKPOINT --onnx FOLDER")
    if path.stat().st_size > MAX_GRAPH_BYTES:
        raise ModelError(f"{path} is larger than {MAX_GRAPH_BYTES >> 30} GiB; it is no exported hand network")
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device.type)
    if provider not in onnxruntime.get_available_providers():
        there = ", ".join(onnxruntime.get_available_providers())
        raise InputError(f"this onnxruntime has nothing for device {str(device)!r}, but {there}; try device='cpu'")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    settings = {"device_id": str(device.index or 0)} if device.type == "cuda" else {}
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[(provider, settings)])
    except Exception as error:  # onnxruntime has a type of its own for every fault of a file
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"{path} is damaged or no ONNX graph ({reason}); export it again") from error
    names = {value.name for value in session.get_inputs()}
    if not set(INPUTS) <= names <= {*INPUTS, *JOINT_ARRAYS}:
        raise ModelError(f"{path} is not a graph of handmim: it takes {', '.join(sorted(names))}")
    return session
