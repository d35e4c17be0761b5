"""Image processor of HandMIM: boxes around hands -> square crops -> tensors, and results back to the image's frame."""

import importlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import IMAGE_PROCESSOR_NAME

from .errors import InputError
from .geometry import (
    affine_points,
    crop_affine,
    crop_intrinsics,
    default_intrinsics,
    invert_affine,
    matrix_to_axis_angle,
    mirror_axis_angle,
)
from .hand_maps import restore_maps
from .images import LoadedImage, is_single_image, load_image
from .open_hand_file import is_remote_code, keep_remote_code

SIDES = ("left", "right")
MAX_BOX = 100  # times the longer side of the picture
# Options of transformers' image processors that this one does not have.
WITHOUT_EFFECT = ("do_center_crop", "crop_size", "do_pad", "pad_size", "resample", "device", "input_data_format")


class HandMIMImageProcessorKwargs(ImagesKwargs, total=False):
    """Options beside those of every image processor.

    box_scale (`float`, *optional*, defaults to 1.2):
        Side of the crop over the longer side of the box.
    """

    box_scale: float | int | None


class CropFeature(BatchFeature):
    """Crops, and the geometry that brings results back to their pictures."""

    def to(self, *args: Any, **kwargs: Any) -> "CropFeature":
        """To a device, and `pixel_values` to a dtype: the geometry stays float32, in which a large photo has 1/1000 px,
        not the two whole pixels of float16."""
        exact = {name: value for name, value in self.items() if name != "pixel_values"}
        super().to(*args, **kwargs)
        self.data |= {name: torch.as_tensor(value).to(self.data[name].device) for name, value in exact.items()}
        return self


class HandMIMImageProcessor(PilBackend):
    """Cuts a square around every box, flips left hands, resamples, and keeps the cameras that belong to the crops.

    Crops are one antialiased affine warp. What lies beyond the picture has the colour `image_mean` (0 once normalised).

    Args:
        size: {"height": S, "width": S}, or S: side of the crop, pixels.
        box_scale: side of the crop over the longer side of the box.
        image_mean, image_std: of RGB in [0, 1]; 0.5 and 0.5 map pixels to [-1, 1].
    """

    valid_kwargs = HandMIMImageProcessorKwargs
    model_input_names = ["pixel_values", "intrinsics"]
    size = {"height": 224, "width": 224}
    box_scale = 1.2
    do_rescale = True
    do_normalize = True
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]

    def __init__(self, **kwargs: Unpack[HandMIMImageProcessorKwargs]) -> None:
        super().__init__(**kwargs)

    def preprocess(
        self,
        images: Any,
        boxes: Any = None,
        handedness: Any = None,
        intrinsics: Any = None,
        **kwargs: Unpack[HandMIMImageProcessorKwargs],
    ) -> BatchFeature:
        """Crop the hands of one image, or of several.

        Args:
            images: a path, URL, bytes, PIL picture, uint8 array (H, W, 3), or a list of these.
            boxes: (4,) or (N, 4) xyxy image pixels for one image; a list of these, or of None, for several. None takes
                the whole picture as the crop.
            handedness: "left" or "right" for every box, or one for each box; nested in a list for several images. Left
                hands are mirrored. None means right.
            intrinsics: (3, 3) pixels; a list of these, or of None, for several images. None takes the focal length
                from EXIF, or a stated default (see `geometry.default_intrinsics`).
            kwargs: `size`, `box_scale`, ... for this call.

        Returns:
            `BatchFeature` with, for N hands over all images: `pixel_values` (N, 3, S, S) float32, `intrinsics`
            (N, 3, 3) of the crops, `crop_affine` (N, 2, 3) image -> crop pixels, `mirrored` (N,) bool, `image_index`
            (N,) int64, `image_intrinsics` (N, 3, 3), `boxes` (N, 4) xyxy image pixels.

        Raises:
            ImageError: a picture cannot be read.
            InputError: a box, handedness or camera makes no sense.
        """
        return super().preprocess(images, boxes, handedness, intrinsics, **kwargs)

    def _preprocess_image_like_inputs(
        self,
        images: Any,
        boxes: Any = None,
        handedness: Any = None,
        intrinsics: Any = None,
        size: SizeDict | None = None,
        box_scale: float = 1.2,
        return_tensors: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        side = _square_side(size)
        _check_options(box_scale, return_tensors, kwargs)
        fill = np.full(3, kwargs["image_mean"] if kwargs["do_normalize"] else 0.5, np.float32) * 255
        hands, crops = [], []
        for index, request in enumerate(hand_requests(images, boxes, handedness, intrinsics)):
            request = request.load()
            camera = torch.from_numpy(resolve_intrinsics(request.image, request.intrinsics)[0])
            for box, hand in zip(*resolve_boxes(request, box_scale), strict=True):
                affine = crop_affine(torch.from_numpy(box), side, hand == "left", box_scale)
                crops.append(square_crop(request.image.pixels, affine.numpy(), side, fill))
                hands.append(
                    {
                        "intrinsics": crop_intrinsics(affine, camera),
                        "crop_affine": affine,
                        "mirrored": torch.tensor(hand == "left"),
                        "image_index": torch.tensor(index),
                        "image_intrinsics": camera,
                        "boxes": torch.from_numpy(box),
                    }
                )
        data = {"pixel_values": self._normalised(crops, side, **kwargs)}
        shapes = {"intrinsics": (3, 3), "crop_affine": (2, 3), "mirrored": (), "image_index": ()}
        for key, shape in (shapes | {"image_intrinsics": (3, 3), "boxes": (4,)}).items():
            kind = {"mirrored": torch.bool, "image_index": torch.int64}.get(key, torch.float32)
            column = torch.stack([hand[key] for hand in hands]) if hands else torch.zeros(0, *shape, dtype=kind)
            data[key] = column.float() if column.is_floating_point() else column
        if return_tensors == "np":
            data = {key: value.numpy() for key, value in data.items()}
        return CropFeature(data)

    def _normalised(self, crops: list[np.ndarray], side: int, **kwargs: Any) -> torch.Tensor:
        """(N, 3, S, S) float32 from crops (3, S, S) float32 in [0, 255]."""
        pixels = torch.from_numpy(np.stack(crops)) if crops else torch.zeros(0, 3, side, side)
        if kwargs["do_rescale"]:
            pixels *= kwargs["rescale_factor"]
        if kwargs["do_normalize"]:
            mean, std = (torch.tensor(kwargs[key]).expand(3)[:, None, None] for key in ("image_mean", "image_std"))
            pixels = pixels.sub_(mean).div_(std)
        return pixels

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """transformers' own; code that came from a repository goes along."""
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        if is_remote_code():
            keep_remote_code(save_directory, IMAGE_PROCESSOR_NAME)
        return saved

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Publish the processor, and its code, to a repository that has or will get a model; its card stays."""
        if is_remote_code():
            return super().push_to_hub(repo_id, **kwargs)
        return importlib.import_module(".publishing", __package__).push(repo_id, processor=self, **kwargs)

    def post_process_hand_mesh(
        self, outputs: Any, inputs: BatchFeature, faces: Any = None
    ) -> list[dict[str, np.ndarray | str | float | int | None]]:
        """Bring a model's results back to the frame of the input images.

        Args:
            outputs: `HandMIMMeshOutput` or `HIUDMTLOutput` of N crops (see the models): everything in crop pixels and
                in the camera frame of the (mirrored) crop.
            inputs: what `preprocess` returned for these crops.
            faces: (F, 3) of the model's right hand, to be returned for each hand with the winding that keeps normals
                outward.

        Returns:
            For every hand a dict, numpy float32: `vertices` (V, 3) and `joints` (21, 3) metres in the camera frame of
            the image, `keypoints_2d` (21, 2) image pixels, `global_orient` (3,) and `hand_pose` (15, 3) axis-angle of
            the hand model of its side, `betas` (10,), `translation` (3,) metres, `intrinsics` (3, 3) of the image,
            `box` (4,), `handedness`, `score` in [0, 1] that the crop shows a hand of that side (None without a score
            head), `image_index`, `faces` (F, 3) int64 if given, and the maps that a HIU-DMTL network gives: `heatmaps`,
            `mask`, `pof`, `heatmap_keypoints`, `crop_box`, see `hand_maps.restore_maps`.

        Raises:
            ValueError: Outputs without a mesh, or of another number of crops than inputs.
        """
        inputs = {key: torch.as_tensor(value).detach().cpu() for key, value in inputs.items()}
        mirrored = inputs["mirrored"].bool()
        if outputs.get("vertices") is None:
            raise ValueError("the network gives no mesh: it was built with mesh=False")
        if len(outputs["vertices"]) != len(mirrored):
            raise ValueError(f"outputs are of {len(outputs['vertices'])} crops, but inputs of {len(mirrored)}")
        flip = torch.where(mirrored[:, None, None], torch.tensor([-1.0, 1.0, 1.0]), torch.ones(3))
        tensors = {name: _float(outputs[name]) for name in ("vertices", "joints", "betas", "translation")}
        tensors["vertices"] = tensors["vertices"] * flip
        tensors["joints"] = tensors["joints"] * flip
        tensors["translation"] = tensors["translation"] * flip[:, 0]
        # In double precision: a photo's pixel coordinates reach 1e4, and a thousandth of a pixel should survive.
        to_image = invert_affine(inputs["crop_affine"].double())
        tensors["keypoints_2d"] = affine_points(to_image, _float(outputs["keypoints_2d"]).double()).float()
        for name in ("global_orient", "hand_pose"):
            turn = matrix_to_axis_angle(_float(outputs[name]))
            tensors[name] = torch.where(mirrored.view(-1, *[1] * (turn.dim() - 1)), mirror_axis_angle(turn), turn)
        tensors |= {"intrinsics": inputs["image_intrinsics"], "box": inputs["boxes"]}
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        logits = outputs.get("score_logits")
        scores = None if logits is None else torch.sigmoid(_float(logits)).tolist()
        results = []
        for (row, left), maps in zip(enumerate(mirrored.tolist()), restore_maps(outputs, inputs), strict=True):
            # Copies: a hand that is kept does not hold its batch, and what is done to it reaches no other.
            hand: dict[str, Any] = {name: array[row].copy() for name, array in arrays.items()} | maps
            hand["handedness"] = "left" if left else "right"
            hand["score"] = None if scores is None else scores[row]
            hand["image_index"] = int(inputs["image_index"][row])
            if faces is not None:
                triangles = np.asarray(torch.as_tensor(faces).cpu(), np.int64)
                hand["faces"] = (triangles[:, ::-1] if left else triangles).copy()
            results.append(hand)
        return results


@dataclass(frozen=True, eq=False)
class HandRequest:
    """One image and what the caller said about its hands, not yet read nor checked."""

    image: Any
    boxes: Any = None
    handedness: Any = None
    intrinsics: Any = None

    def load(self) -> "HandRequest":
        """The same request with its image read (`ImageError` if it cannot be)."""
        return replace(self, image=load_image(self.image))


def hand_requests(images: Any, boxes: Any = None, handedness: Any = None, intrinsics: Any = None) -> list[HandRequest]:
    """Deal the arguments out, one request for each image.

    Args: as `HandMIMImageProcessor.preprocess`.

    Raises:
        InputError: an argument for several images has another length than `images`.
    """
    if is_single_image(images):
        return [HandRequest(images, boxes, handedness, intrinsics)]
    columns = []
    for name, values in (("boxes", boxes), ("handedness", handedness), ("intrinsics", intrinsics)):
        if values is None or isinstance(values, str):
            values = [values] * len(images)
        elif not hasattr(values, "__len__") or len(values) != len(images):
            count = len(values) if hasattr(values, "__len__") else values
            raise InputError(f"{name} must be a list with one entry for each of the {len(images)} images, got {count}")
        columns.append(values)
    rows = zip(images, *columns, strict=True)
    return [image if isinstance(image, HandRequest) else HandRequest(image, *rest) for image, *rest in rows]


def resolve_intrinsics(image: LoadedImage, intrinsics: Any = None) -> tuple[np.ndarray, str]:
    """The camera of an image: the caller's, or from EXIF, or the default.

    Returns:
        (3, 3) float64 pixels, and "given", "exif" or "default". Without a calibrated camera, distances along the
        optical axis are only as right as the focal length; sizes are always relative to the hand model's mean.

    Raises:
        InputError: not a camera matrix without skew, or not finite.
    """
    if intrinsics is None:
        matrix = default_intrinsics(*image.size, image.focal).double().numpy()
        return matrix, "default" if image.focal is None else "exif"
    matrix = _numbers(intrinsics, "intrinsics")
    if matrix.shape != (3, 3):
        raise InputError(f"intrinsics must be (3, 3), got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise InputError(f"intrinsics must be finite, got {matrix.tolist()}")
    expected = np.array([[matrix[0, 0], 0, matrix[0, 2]], [0, matrix[1, 1], matrix[1, 2]], [0, 0, 1]])
    if not np.allclose(matrix, expected, atol=1e-6) or min(matrix[0, 0], matrix[1, 1]) <= 0:
        raise InputError(
            f"intrinsics must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0, got {matrix.tolist()}"
        )
    return matrix, "given"


def resolve_boxes(request: HandRequest, box_scale: float) -> tuple[np.ndarray, list[str]]:
    """Check the boxes and sides of one request whose image is read.

    Returns:
        (N, 4) float64 xyxy image pixels, and a side for each. Without boxes: one whose crop is the whole picture.

    Raises:
        InputError: naming the box or the word.
    """
    width, height = request.image.size
    if request.boxes is None:
        centre, reach = np.array([width - 1, height - 1]) / 2, np.array([width, height]) / (2 * box_scale)
        boxes = np.concatenate([centre - reach, centre + reach])[None]
    else:
        boxes = _numbers(request.boxes, "boxes")
        boxes = boxes.reshape(-1, 4) if boxes.size == 0 or boxes.shape == (4,) else boxes
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise InputError(f"boxes must be (4,) or (N, 4) as x0, y0, x1, y1, got shape {boxes.shape}")
        for box in boxes:
            _check_box(box, width, height)
    return boxes, resolve_handedness(request.handedness, len(boxes))


def resolve_handedness(handedness: Any, count: int, default: str | None = "right") -> list[Any]:
    """One side for each of `count` boxes; `default` where the caller says None.

    Raises:
        InputError: another word, or another number of them.
    """
    one = isinstance(handedness, str) or not isinstance(handedness, Iterable)
    sides = [handedness] * count if one else list(handedness)
    for side in sides:
        if side is not None and side not in SIDES:
            raise InputError(f"handedness must be 'left', 'right' or None, got {side!r}")
    if len(sides) != count:
        raise InputError(f"handedness must have one entry for each of the {count} boxes, got {len(sides)}")
    return [default if side is None else side for side in sides]


def _check_box(box: np.ndarray, width: int, height: int) -> None:
    x0, y0, x1, y1 = box
    text = ", ".join(f"{value:g}" for value in box)
    if not np.isfinite(box).all():
        raise InputError(f"a box must be finite numbers x0, y0, x1, y1, got {text}")
    if x1 <= x0 or y1 <= y0:
        raise InputError(f"a box must be x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {text}")
    if max(x1 - x0, y1 - y0) < 1:
        raise InputError(f"a box must be at least one pixel large, got {text}")
    if max(x1 - x0, y1 - y0) > MAX_BOX * max(width, height):  # the filter that shrinks it grows with it
        raise InputError(f"a box must be at most {MAX_BOX} times as large as its image, got {text}")
    check_box_touches(box, width, height)


def check_box_touches(box: np.ndarray, width: int, height: int) -> None:
    """Raises InputError for a box (4,) xyxy that holds nothing of its image, of which a crop would show none."""
    x0, y0, x1, y1 = box
    if x1 <= -0.5 or y1 <= -0.5 or x0 >= width - 0.5 or y0 >= height - 0.5:
        text = ", ".join(f"{value:g}" for value in box)
        raise InputError(f"box {text} lies outside the image of {width} x {height} pixels")


def _numbers(values: Any, name: str) -> np.ndarray:
    """Any nested sequence, array or tensor as float64."""
    try:
        return np.array(values.detach().cpu().double().numpy() if torch.is_tensor(values) else values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be numbers in a regular array, got {values!r}") from error


def _float(value: Any) -> torch.Tensor:
    return torch.as_tensor(value).detach().float().cpu()


def _check_options(box_scale: float, return_tensors: Any, options: dict[str, Any]) -> None:
    """Raises InputError for options of other image processors that would have no effect here."""
    if isinstance(box_scale, bool) or not isinstance(box_scale, (int, float)) or not 0 < box_scale < MAX_BOX:
        raise InputError(f"box_scale must be above 0 and below {MAX_BOX}, got {box_scale!r}")
    if return_tensors not in (None, "pt", "np"):
        raise InputError(f"return_tensors must be 'pt' or 'np', got {return_tensors!r}")
    given = {name: value for name in WITHOUT_EFFECT if (value := options.get(name)) is not None and value is not False}
    if options.get("do_resize") is False:
        given["do_resize"] = False
    if options.get("data_format") not in (None, "channels_first"):
        given["data_format"] = options["data_format"]
    if given:
        name, value = next(iter(given.items()))
        raise InputError(f"{name}={value!r} is not done here: crops are always one antialiased warp to (N, 3, S, S)")


def _square_side(size: SizeDict | None) -> int:
    height, width = (size.height, size.width) if size is not None else (None, None)
    if not height or height != width:
        raise ValueError(f"size must be square, {{'height': S, 'width': S}}, got {size}")
    return int(height)


# ---------------------------------------------------------------------------------------------------------------------
# Resampling


def square_crop(pixels: np.ndarray, affine: np.ndarray, size: int, fill: Sequence[float] | np.ndarray) -> np.ndarray:
    """Warp a picture by a scale, shift and optional mirror; antialiased.

    Pictures much finer than the crop are first shrunk to two to four times its resolution; then a triangle filter as
    wide as the remaining step (at least one pixel: bilinear interpolation) resamples both axes at the exact positions.

    Args:
        pixels: (H, W, 3) uint8.
        affine: (2, 3) from image to crop pixels, without rotation.
        size: side S of the crop.
        fill: (3,) colour beyond the picture, in [0, 255].

    Returns:
        (3, S, S) float32 in [0, 255].
    """
    block = max(1, int(0.5 / abs(affine[1, 1])))
    x, y = (_Axis(affine[axis, axis], affine[axis, 2], size, block, pixels.shape[1 - axis]) for axis in (0, 1))
    region = pixels[y.start : y.stop, x.start : x.stop]
    if block > 1 and region.size:
        chw = torch.from_numpy(np.require(region, requirements=["C", "W"])).permute(2, 0, 1)[None]
        chw = F.interpolate(chw, (y.count, x.count), mode="bilinear", antialias=True)
        region = chw[0].permute(1, 2, 0).numpy()
    rows, columns = y.weights(), x.weights()
    vertical = rows @ region.reshape(y.count, x.count * 3).astype(np.float32)
    crop = vertical.reshape(size, x.count, 3).transpose(2, 0, 1).reshape(3 * size, x.count) @ columns.T
    outside = 1 - np.outer(rows.sum(1), columns.sum(1))
    return crop.reshape(3, size, size) + np.asarray(fill, np.float32)[:, None, None] * outside


class _Axis:
    """One axis of a crop: which source pixels it needs, and with which weights.

    Args:
        zoom, shift: crop coordinate = zoom * source coordinate + shift; zoom < 0 mirrors.
        size: number of crop pixels.
        block: about how many source pixels are averaged beforehand.
        length: number of source pixels.

    Attributes:
        start, stop: range of source pixels that the filters can touch.
        count: number of pixels of that range once shrunk by about `block`.
    """

    def __init__(self, zoom: float, shift: float, size: int, block: int, length: int) -> None:
        ends = (np.array([-1.0, size]) - shift) / zoom
        self.start = int(np.clip(np.floor(ends.min()) - 3 * block, 0, length))
        self.stop = int(np.clip(np.ceil(ends.max()) + 3 * block, self.start, length))
        self.count = max(1, round((self.stop - self.start) / block)) if self.stop > self.start else 0
        block = (self.stop - self.start) / self.count if self.count else 1.0
        self.centre = ((np.arange(size) - shift) / zoom - self.start + 0.5) / block - 0.5
        self.support = max(1.0, 1 / (abs(zoom) * block))

    def weights(self) -> np.ndarray:
        """(size, count) float32; a row sums to less than one where the filter reaches beyond the picture."""
        reach = int(np.ceil(self.support))
        index = np.floor(self.centre).astype(np.int64)[:, None] + np.arange(-reach, reach + 2)
        weight = np.maximum(0.0, 1 - np.abs(index - self.centre[:, None]) / self.support)
        weight /= weight.sum(1, keepdims=True)
        inside = (index >= 0) & (index < self.count)
        matrix = np.zeros((len(index), self.count), np.float32)
        row = np.broadcast_to(np.arange(len(index))[:, None], index.shape)
        matrix[row[inside], index[inside]] = weight[inside]
        return matrix


__all__ = ["HandMIMImageProcessor"]
