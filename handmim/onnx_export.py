"""Our networks for other programs: as ONNX graphs (float32, float16, int8) and as `torch.export` programs.

The graph takes crops and cameras and returns what the model returns, before the fit of `config.fit_steps`, for which
there are no operators: `OnnxNetwork` fits afterwards. The batch is open, the crop's size is the config's. With the open
hand its arrays are constants of the graph. With MANO they are not: no licensed array leaves the machine. The network
looks at the hand's projected joints between its corrections, so the little that joints need is an input of the graph
(`JOINT_ARRAYS`), given at run time from the user's own file, and the graph ends at the parameters.
"""

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .atomic_files import atomic_file
from .errors import InputError, ModelError
from .hand_model import JOINT_ORDER, HandModel, HandModelOutput, _pose_skeleton, _skin

# 18 is what the exporter writes natively; onnxruntime has read it since 1.14 (2023).
OPSET = 18
PRECISIONS = ("float32", "float16", "int8")
FILE_NAME = "model.onnx"
INPUTS = ("pixel_values", "intrinsics")
# What joints need of a hand model: (name, shape). Rest positions of the 16 skeleton joints and 15 bones and their
# change with shape; the five finger tips as vertices, their change with shape and pose, their skinning weights.
JOINT_ARRAYS = {
    "hand_rest_base": (93,),
    "hand_rest_dirs": (10, 93),
    "hand_tip_base": (15,),
    "hand_tip_dirs": (145, 15),
    "hand_tip_weights": (16, 5),
}
MESH_OUTPUTS = (
    "vertices", "joints", "keypoints_2d", "global_orient", "hand_pose", "betas", "camera", "translation",
    "score_logits", "heatmaps", "mask", "pof", "heatmap_keypoints",
)  # fmt: skip
NUM_TIPS = 5


class JointHand(nn.Module):
    """Stands for a `HandModel` while a network with MANO is exported: joints alone, of arrays from outside.

    `arrays` are those of `JOINT_ARRAYS` in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.arrays: tuple[Tensor, ...] = ()

    def forward(self, global_orient: Tensor, hand_pose: Tensor, betas: Tensor) -> HandModelOutput:
        """As `HandModel.forward`; `vertices` are the five finger tips."""
        rest_base, rest_dirs, tip_base, tip_dirs, weights = self.arrays
        batch = hand_pose.shape[0]
        rest = torch.addmm(rest_base, betas, rest_dirs).view(batch, 31, 3)
        skeleton, transforms = _pose_skeleton(global_orient, hand_pose, rest[:, :16], rest[:, 16:], None)
        features = torch.cat([betas, hand_pose.reshape(batch, 135)], 1)
        tips = _skin(transforms, torch.addmm(tip_base, features, tip_dirs).view(batch, 3, NUM_TIPS), weights)
        joints = torch.cat([skeleton, tips], 1)[:, JOINT_ORDER]
        return HandModelOutput(vertices=tips, joints=joints, skeleton_joints=skeleton)


class Graph(nn.Module):
    """What is exported: a model with tensors in and a dict of tensors out.

    Args:
        model: `HandMIMForMeshEstimation` or `HIUDMTLForHandUnderstanding`.
        outside: Whether the hand model stays outside the graph.
    """

    def __init__(self, model: nn.Module, outside: bool) -> None:
        super().__init__()
        self.model = model
        self.outside = outside

    def forward(self, pixel_values: Tensor, intrinsics: Tensor, *arrays: Tensor) -> dict[str, Tensor]:
        """Crops (B, 3, S, S), cameras (B, 3, 3), and with `outside` the `JOINT_ARRAYS`."""
        if self.outside:
            self.model.hand_model.arrays = arrays
        output = self.model(pixel_values=pixel_values, intrinsics=intrinsics)
        if self.outside:
            self.model.hand_model.arrays = ()
        return {name: output[name] for name in output_names(self.model.config, self.outside)}


def output_names(config: Any, outside: bool) -> list[str]:
    """What the graph of a configuration returns, in its order."""
    tasks = set(getattr(config, "tasks", ()))
    there = {
        "score_logits": config.score_head,
        # HandMIM's too: whoever loads the graph may ask for a fit that the checkpoint does not
        "heatmaps": "heatmaps" in tasks or getattr(config, "heatmap_evidence", False),
        "heatmap_keypoints": "heatmaps" in tasks,
        "mask": "mask" in tasks,
        "pof": "pof" in tasks,
        "vertices": not outside,
    }
    return [name for name in MESH_OUTPUTS if there.get(name, True)]


def joint_arrays(hand_model: HandModel) -> dict[str, Tensor]:
    """`JOINT_ARRAYS` of a hand model, float32."""
    tips, vertices = hand_model.tip_vertices, hand_model.num_vertices
    arrays = (
        hand_model.rest_base,
        hand_model.rest_dirs,
        hand_model.blend_base.view(3, vertices)[:, tips].reshape(-1),
        hand_model.blend_dirs.view(-1, 3, vertices)[:, :, tips].flatten(1),
        hand_model.skinning_by_joint[:, tips],
    )
    return {name: value.contiguous() for name, value in zip(JOINT_ARRAYS, arrays, strict=True)}


def export_program(model: nn.Module, precision: str = "float32") -> torch.export.ExportedProgram:
    """A model as a `torch.export` program with an open batch.

    Args:
        model: With a mesh head, on the CPU. It is left as it is.
        precision: Of the network, "float32" or "float16"; the hand model always computes in float32.

    Raises:
        InputError: Another precision.
        ModelError: A model without a mesh.
    """
    if precision not in ("float32", "float16"):
        raise InputError(f"precision must be 'float32' or 'float16', got {precision!r}")
    if not hasattr(model, "hand_model"):
        raise ModelError(f"a model with a mesh head is needed, got {type(model).__name__}")
    outside = model.config.hand_model == "mano"
    with _exportable(model, outside, getattr(torch, precision)) as graph:
        side = model.config.image_size
        camera = torch.tensor([[5.0 * side, 0, side / 2], [0, 5.0 * side, side / 2], [0, 0, 1]])
        inputs = [torch.zeros(2, model.config.num_channels, side, side), camera.repeat(2, 1, 1)]
        inputs += [torch.zeros(shape) for shape in JOINT_ARRAYS.values()] if outside else []
        batch = torch.export.Dim("batch", min=1, max=4096)
        shapes: dict[str, Any] = {"pixel_values": {0: batch}, "intrinsics": {0: batch}}
        if outside:
            shapes["arrays"] = tuple({} for _ in inputs[2:])
        with torch.no_grad():
            return torch.export.export(graph, tuple(inputs), dynamic_shapes=shapes, strict=False)


@contextmanager
def _exportable(model: nn.Module, outside: bool, dtype: torch.dtype) -> Iterator[Graph]:
    """A copy of the model in `dtype`, its linear layers plain; MANO's arrays are not even copied."""
    from .acceleration import restore_plain_layers

    hand_model = model.hand_model
    model.hand_model = nn.Identity()
    try:
        copied = copy.deepcopy(model)
    finally:
        model.hand_model = hand_model
    copied.hand_model = JointHand() if outside else copy.deepcopy(hand_model)
    restore_plain_layers(copied)
    yield Graph(copied.to("cpu", dtype).eval(), outside).eval()


def export_onnx(model: nn.Module, folder: Path, precision: str = "float32", processor: Any = None) -> Path:
    """Write `model.onnx`, the config and the image processor's: what `HandMIM.from_pretrained(backend="onnx")` reads.

    Args:
        model: With a mesh head.
        folder: Made if need be.
        precision: "float32"; "float16", half the size, of the network; or "int8", a quarter: weights of the
            transformer's linear layers in 8 bits, their inputs quantised as they come.
        processor: Image processor that goes with the model; None: the standard one of its image size.

    Returns:
        The graph's path.

    Raises:
        InputError: An unknown precision, or int8 of a network without a transformer.
        ModelError: A model without a mesh, or a package that is missing.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "int8" and model.config.model_type != "handmim":
        raise InputError("int8 is for the transformers of HandMIM; onnxruntime has no fast 8-bit convolutions")
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch.onnx.export needs it)
    except ImportError as error:
        raise ModelError(f"{error.name} is missing: pip install handmim[onnx]") from error
    from .image_processing_handmim import HandMIMImageProcessor

    program = export_program(model, "float32" if precision == "int8" else precision)
    outside = model.config.hand_model == "mano"
    names = [*INPUTS, *(JOINT_ARRAYS if outside else ())]
    exported = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, input_names=names, verbose=False,
        output_names=output_names(model.config, outside),
    )  # fmt: skip
    graph = exported.model_proto
    if precision == "int8":
        graph = _quantised(graph)
    for node in graph.graph.node:  # the exporter notes source lines, with the paths of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    facts = {"architecture": type(model).__name__, "precision": precision, "hand_model": model.config.hand_model}
    onnx.helper.set_model_props(graph, {f"handmim.{name}": value for name, value in facts.items()})
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / FILE_NAME) as file:
        file.write(graph.SerializeToString())
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    (processor or HandMIMImageProcessor(size=config.image_size)).save_pretrained(folder)
    return folder / FILE_NAME


def _quantised(graph: Any) -> Any:
    """The products with weights in the transformer's blocks in 8 bits, a scale for each output channel.

    Heads keep float32: they are a few per cent of the work, and a rotation's error is seen in the mesh.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    weights = {tensor.name for tensor in graph.graph.initializer}
    blocks = [
        node.name
        for node in graph.graph.node
        if node.op_type in ("MatMul", "Gemm") and weights & set(node.input) and _is_in_a_block(node)
    ]
    if not blocks:
        raise ModelError("no linear layer of the transformer was found in the graph, so that nothing can be int8")
    del graph.graph.value_info[:]  # shapes that the exporter noted; the quantiser infers them again, and compares
    with tempfile.TemporaryDirectory() as work:
        source, result = Path(work) / "float32.onnx", Path(work) / "int8.onnx"
        onnx.save(graph, source)
        quantize_dynamic(
            source, result, nodes_to_quantize=blocks, per_channel=True, weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
        )  # fmt: skip
        return onnx.load(result)


def _is_in_a_block(node: Any) -> bool:
    return any("encoder.blocks" in entry.value for entry in node.metadata_props)
