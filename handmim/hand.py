"""The front door: `HandMIM` turns pictures into `Hand`s, and a `Hand` is one result with everything to do with it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers.image_utils import SizeDict

from .atomic_files import atomic_file
from .checkpoints import checkpoint_source, load_graph, load_network, load_processor
from .config_format import change_field
from .detection import HandDetector
from .errors import InputError
from .image_processing_handmim import HandRequest, hand_requests
from .images import is_single_image
from .pipeline_hand_mesh import HandMeshPipeline

MESH_FORMATS = ("glb", "obj", "ply")
# glTF has y up and the viewer on +z; the camera frame has y down and looks along +z: half a turn about x.
CAMERA_TO_GLTF = np.array([1.0, -1.0, -1.0], np.float32)


@dataclass(frozen=True, eq=False, repr=False)
class Hand:
    """One estimated hand, in the frame of the input image. All arrays are numpy, float32 unless said.

    The camera frame is OpenCV's (x right, y down, z forward). Pixels: (0, 0) is the centre of the top-left pixel. The
    metric scale is that of the hand model's shape: a picture alone does not tell a small near hand from a large far
    one, and depth is proportional to the focal length in `intrinsics`.

    Attributes:
        vertices: (V, 3) mesh, metres, camera frame.
        joints: (21, 3) metres, camera frame: wrist, then thumb, index, middle, ring, little from palm to tip.
        keypoints_2d: (21, 2) projection of the joints, image pixels.
        faces: (F, 3) int64, rows of `vertices`, counter-clockwise from outside for either side.
        betas: (10,) shape, in standard deviations.
        global_orient: (3,) axis-angle, radians, for the hand model of this hand's side.
        hand_pose: (15, 3) axis-angle of each joint relative to its parent, radians; zero is the flat hand.
        translation: (3,) metres, added to what the hand model gives.
        intrinsics: (3, 3) of the image, pixels.
        box: (4,) xyxy, image pixels: where the hand was looked for.
        handedness: "left" or "right".
        score: in [0, 1], that the box shows a hand of this side; None if the model has no score head.
        hand_model: "open" or "mano".
        intrinsics_source: "given", "exif", or "default" where the focal length is a guess.
        image: the picture as it was given (path, array, ...), for `overlay`.
        heatmap_keypoints: (21, 2) image pixels, the mean position under each heat map: the 2D pose of HIU-DMTL, which,
            unlike `keypoints_2d`, no mesh has to fit. This and what follows is of HIU-DMTL checkpoints that learned it,
            else None.
        crop_box: (4,) xyxy, image pixels: the outer edges of the square that the maps cover, from left to right and
            from top to bottom for either side. h = 64 cells for a crop of 256 px.
        mask: (h, h) probability that a cell is hand; `image_mask` makes a picture of it.
        heatmaps: (21, h, h), height about 1 at a keypoint.
        pof: (20, 3, h, h) part orientation fields of the bones that end in joints 1, ..., 20 (the first of each
            finger starts at the wrist): on the bone the unit direction in the picture (x right, y down) and z of the
            unit direction in space, 0 elsewhere.
    """

    vertices: np.ndarray
    joints: np.ndarray
    keypoints_2d: np.ndarray
    faces: np.ndarray
    betas: np.ndarray
    global_orient: np.ndarray
    hand_pose: np.ndarray
    translation: np.ndarray
    intrinsics: np.ndarray
    box: np.ndarray
    handedness: str
    score: float | None
    hand_model: str
    intrinsics_source: str = "given"
    image: Any = field(default=None)
    heatmap_keypoints: np.ndarray | None = None
    crop_box: np.ndarray | None = None
    mask: np.ndarray | None = None
    heatmaps: np.ndarray | None = None
    pof: np.ndarray | None = None

    def __repr__(self) -> str:
        score = "" if self.score is None else f", score={self.score:.2f}"
        box = ", ".join(f"{value:.0f}" for value in self.box)
        return f"Hand({self.handedness}{score}, box=[{box}], {len(self.vertices)} vertices, {self.hand_model})"

    def export(self, path: str | os.PathLike) -> Path:
        """Write the mesh to `.glb`, `.obj` or `.ply`, in metres.

        `.obj` and `.ply` keep the camera frame (x right, y down, z forward). `.glb` has glTF's frame (x right, y up, z
        towards the viewer), so that viewers show the hand upright, and smooth normals. The file appears complete or not
        at all.

        Raises:
            InputError: another ending, or vertices that are not finite.
            OSError: the file cannot be written.
        """
        path = Path(path)
        kind = path.suffix.lower().lstrip(".")
        if kind not in MESH_FORMATS:
            raise InputError(f"a mesh file must end in .glb, .obj or .ply, got {path.name!r}")
        if not np.isfinite(self.vertices).all():
            vertex = int(np.flatnonzero(~np.isfinite(self.vertices).all(1))[0])
            place = self.vertices[vertex].tolist()
            raise InputError(f"{path} cannot be written: vertex {vertex} of the hand is not finite, {place}")
        if kind == "glb":
            data = self._glb()
        else:
            import trimesh

            data = trimesh.Trimesh(self.vertices, self.faces, process=False).export(file_type=kind)
        with atomic_file(path) as file:
            file.write(data if isinstance(data, bytes) else data.encode())
        return path

    def _glb(self) -> bytes:
        """The mesh in a glTF file."""
        from .glb import mesh_glb
        from .rendering import vertex_normals

        vertices = self.vertices * CAMERA_TO_GLTF
        faces = torch.from_numpy(np.ascontiguousarray(self.faces, np.int64))  # torch takes no mirrored views
        normals = vertex_normals(torch.from_numpy(vertices)[None].double(), faces)[0]
        return mesh_glb(vertices, self.faces, normals.numpy())

    def overlay(self, image: Any = None, layers: str | Sequence[str] | None = None) -> Image.Image:
        """The hand drawn over the picture; with the mesh, a view from the side beside it.

        Args:
            image: another picture of the same camera (any kind that `images.load_image` reads); None: the input.
            layers: any of "mesh", "mask" (its outline) and "skeleton"; None: the mesh, and all three with maps.

        Raises:
            ImageError: the picture cannot be read (any more).
            InputError: no picture is known, no such layer, or the hand has no mask.
        """
        from .hand_drawing import overlay

        return overlay([self], self.image if image is None else image, layers)

    def image_mask(self, image: Any = None, threshold: float = 0.5) -> np.ndarray:
        """The mask as large as the picture.

        Args:
            image: the picture, for its size; None: the input.
            threshold: probability from which a pixel is hand.

        Returns:
            (H, W) bool; False beyond `crop_box`, where the network saw nothing.

        Raises:
            ImageError: the picture cannot be read (any more).
            InputError: no picture is known, or the hand has no mask.
        """
        from .hand_drawing import load_picture
        from .hand_maps import image_mask

        if self.mask is None:
            raise InputError("the hand has no mask: that takes a HIU-DMTL checkpoint with the task 'mask', without tta")
        width, height = load_picture(self.image if image is None else image).size
        return image_mask(self.mask, self.crop_box, width, height, threshold)

    def map_pictures(self, image: Any = None) -> dict[str, Image.Image]:
        """Pictures of `heatmaps` and `pof` over the crop, those that there are; arguments and errors as `overlay`'s."""
        from .hand_drawing import map_pictures

        return map_pictures(self, self.image if image is None else image)

    def to_dict(self) -> dict[str, Any]:
        """What `json` writes well, as lists, numbers and strings: all but the picture, the maps and what is not there.

        Of the maps `heatmap_keypoints` and `crop_box` stay; the others are up to 246 thousand numbers, better
        kept with `numpy.save`, or as `image_mask` and `map_pictures`.
        """
        names = (name for name in self.__dataclass_fields__ if name not in ("image", "mask", "heatmaps", "pof"))
        values = ((name, getattr(self, name)) for name in names)
        data = {name: _plain(value) if isinstance(value, np.ndarray) else value for name, value in values}
        return {name: value for name, value in data.items() if value is not None or name == "score"}


class HandMIM:
    """Pictures in, hands out.

    ```python
    model = HandMIM.from_pretrained()
    for hand in model("photo.jpg"):
        hand.export(f"{hand.handedness}.glb")
    ```

    Args:
        pipeline: what does the work; `from_pretrained` builds it.
    """

    def __init__(self, pipeline: HandMeshPipeline) -> None:
        self.pipeline = pipeline

    def __repr__(self) -> str:
        config = self.model.config
        return f"HandMIM({config.name_or_path!r}, {config.model_type}, {config.image_size} px, {self.pipeline.device})"

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        detector: Any = "auto",
        hand_model_path: str | os.PathLike | None = None,
        backend: Literal["torch", "onnx"] = "torch",
        image_size: int | None = None,
        fit_steps: int | None = None,
        tta: bool = False,
        **hub_kwargs: Any,
    ) -> "HandMIM":
        """Load a checkpoint.

        Args:
            name: Hub id or folder; or one of the checkpoints inside the package, "handmim-tiny-open" (None means it)
                or "hiu-dmtl-tiny-open".
            device: "cpu", "cuda", "cuda:1", ...; None: CUDA if there is any.
            dtype: of the network, e.g. "bfloat16"; None: float32. The hand model always computes in float32. On a CPU
                in float32 the linear layers are made faster, see `acceleration`; the weights stay what they are.
            detector: what finds hands when no boxes are given: "auto", a name, or an object; see `detection`.
            hand_model_path: MANO_RIGHT.pkl or its folder, for checkpoints that need it; None: looked up.
            backend: "onnx" runs the graph that `handmim export --onnx` wrote, in onnxruntime, in its own precision.
            image_size: in place of the checkpoint's own: side of the crops, pixels. Fewer are faster, and less is seen
                on them; more than in training do not help.
            fit_steps: in place of the checkpoint's own: how long each hand is fitted to the heat maps that were seen
                beside it (see `fitting`); 0 is faster and leaves the network's estimate as it is.
            tta: test-time augmentation: each hand is looked at three times, also turned, which takes more than twice as
                long. Measure it: the checkpoints in the package are hardly better for it (see `tta`). A HIU-DMTL
                network then gives no mask and no maps.
            hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, ... of the Hub.

        Raises:
            ModelError: no such checkpoint, or it is damaged or of another kind.
            ManoFileNotFoundError: the checkpoint needs MANO, and there is no file.
            InputError: an unknown device, dtype or backend, a `hand_model_path` for the open hand, an `image_size` that
                the network cannot take or a graph was not exported for, or `fit_steps` below 0, above 100, or of a
                network that draws no heat maps.
        """
        if "torch_dtype" in hub_kwargs:
            raise InputError(f"torch_dtype is called dtype here: dtype={hub_kwargs['torch_dtype']!r}")
        source = checkpoint_source(name)
        if backend not in ("torch", "onnx"):
            raise InputError(f"backend must be 'torch' or 'onnx', got {backend!r}")
        device, dtype = _device(device), _dtype(dtype)
        if backend == "onnx":
            model: Any = load_graph(source, device, hand_model_path, **hub_kwargs)
            device = model.device
        else:
            model = load_network(source, dtype, hand_model_path, **hub_kwargs)
        try:
            if image_size is not None:
                model.set_image_size(image_size)
            if fit_steps is not None:
                change_field(model.config, "fit_steps", fit_steps)
        except ValueError as error:
            raise InputError(str(error)) from error
        if backend == "torch" and device.type == "cpu" and dtype == torch.float32:
            from .acceleration import optimize_for_inference

            optimize_for_inference(model)
        commit = getattr(model.config, "_commit_hash", None)
        same_version = hub_kwargs | ({"revision": commit} if commit else {})
        processor = load_processor(source, model.config.image_size, **same_version)
        if image_size is not None:
            processor.size = SizeDict(height=image_size, width=image_size)
        parts = {"model": model, "image_processor": processor, "device": device, "detector": detector, "tta": tta}
        return cls(HandMeshPipeline(**parts, task="hand-mesh-estimation"))

    @property
    def model(self) -> Any:
        """The network, a transformers model."""
        return self.pipeline.model

    @property
    def image_processor(self) -> Any:
        return self.pipeline.image_processor

    @property
    def detector(self) -> HandDetector:
        """What finds the hands where no boxes are given, "auto" resolved: `model.detector.name` says which.

        Raises:
            DetectorUnavailableError, InputError: the one that was asked for cannot be had.
        """
        return self.pipeline.detector

    def __call__(
        self,
        images: Any,
        boxes: Any = None,
        handedness: Any = None,
        intrinsics: Any = None,
        *,
        batch_size: int = 16,
        maps: bool = True,
    ) -> list[Hand] | list[list[Hand]]:
        """Estimate the hands in one picture, or in several.

        Args:
            images: a path, URL, bytes, PIL picture or uint8 array (H, W, 3); or a list of these.
            boxes: xyxy image pixels, (4,) or (N, 4); for several pictures a list of these, or of None. None: found.
            handedness: "left" or "right", for every box or one for each; nested in a list for several pictures. None:
                found by scoring each box as it is and mirrored.
            intrinsics: (3, 3) pixels; a list of these, or of None, for several pictures. None: the focal length of the
                EXIF block, or a stated default; `Hand.intrinsics_source` says which.
            batch_size: pictures that are read and whose crops go through the network together.
            maps: whether hands of a HIU-DMTL checkpoint keep `heatmaps` and `pof`, 1.3 MB a hand.

        Returns:
            The hands of the picture, in the order of the boxes; a list of such lists for several pictures.

        Raises:
            ImageError, InputError: what was given cannot be used.
        """
        requests = hand_requests(images, boxes, handedness, intrinsics)
        results = self.pipeline(requests, batch_size=batch_size, maps=maps) if requests else []
        hands = [_hands(request, result) for request, result in zip(requests, results, strict=True)]
        return hands[0] if is_single_image(images) else hands


def _hands(request: HandRequest, results: list[dict[str, Any]]) -> list[Hand]:
    """Results of one picture as `Hand`s that know where the picture is, rather than its pixels."""
    return [Hand(**result, image=request.image) for result in results]


def _plain(array: np.ndarray) -> list:
    """Nested lists; floats to seven significant digits, all that float32 has."""
    if not np.issubdtype(array.dtype, np.floating):
        return array.tolist()
    flat = [float(f"{value:.7g}") for value in array.ravel().tolist()]
    return np.array(flat, dtype=np.float64).reshape(array.shape).tolist()


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's word for unknown and absent devices
        raise InputError(f"device {str(device)!r} is not available here; try 'cpu'") from error
    return device


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    found = torch.float32 if dtype is None else getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"dtype must be 'float32', 'bfloat16' or 'float16', got {dtype!r}")
    return found


__all__ = ["Hand", "HandMIM"]
