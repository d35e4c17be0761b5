"""The "hand-mesh-estimation" pipeline: pictures in, hands in the pictures' own frame out.

Find the hands, crop, run the network on all crops of a batch at once, bring the results back. Of what a detector is not
sure of the network's score decides. Where only "somewhere in this picture" is known the crop is refined: predict, crop
again around the predicted hand, predict again, and keep the estimate that scores best.
"""

import importlib
import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import GeneratorType
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset
from transformers import BatchFeature, Pipeline

from .detection import HandDetector, resolve_detector
from .errors import InputError, ModelError
from .hand_boxes import JOINT_MARGIN, box_around, clip_box, held_part, overlap_of
from .hand_maps import map_names
from .image_processing_handmim import (
    HandRequest,
    hand_requests,
    resolve_boxes,
    resolve_handedness,
    resolve_intrinsics,
)
from .images import LoadedImage, is_single_image
from .open_hand_file import is_remote_code
from .tta import estimate_from_views, widen

# Crops that go through the network at once; more gain nothing and cost memory.
MAX_CROPS = 64
# How often a crop that only says where to start is moved to the hand it shows, and how much smaller one step may make
# it: the estimate of a hand that is small in its crop is often too small, and the error would grow from step to step.
# Two halvings are enough for a hand that fills a third of the picture.
REFINEMENTS = 2
MIN_REFINED_PART = 0.5
# Two hands of one side are one if their boxes share more than the first of their union, or if one box holds more than
# the second of the other: a part of a hand was taken for a hand as well.
SAME_HAND, PART_OF_HAND = 0.6, 0.9
RESULT_NAMES = (
    "vertices", "joints", "keypoints_2d", "global_orient", "hand_pose", "betas", "translation", "score_logits"
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Job:
    """One picture, ready to be cropped.

    Attributes:
        image: the picture.
        boxes: (N, 4) float64 xyxy, image pixels.
        sides: for each box "left", "right" or None, to be found.
        intrinsics: (3, 3) float64, pixels.
        intrinsics_source: "given", "exif" or "default".
        refinements: how often crops are moved to the hands that they show, since the boxes are rough.
        detected: whether boxes are a detector's, so that a hand may have several.
        doubts: the detector's score of each box, of candidates that the network has to confirm; None: all are hands.
    """

    image: LoadedImage
    boxes: np.ndarray
    sides: list[str | None]
    intrinsics: np.ndarray
    intrinsics_source: str
    refinements: int = 0
    detected: bool = False
    doubts: list[float] | None = None


class HandMeshPipeline(Pipeline):
    """Hand meshes in pictures.

    Args:
        detector: what finds the hands when no boxes are given: "auto", a name, or an object; see `detection`.
        tta: whether each crop is looked at three times, also turned by 30 degrees either way, and the hand brought into
            line with all of them (`tta`); then a HIU-DMTL network gives no maps.
        kwargs: as every transformers pipeline: `model`, `image_processor`, `device`, `batch_size`, ...

    Example:
        ```python
        from transformers import pipeline
        hands = pipeline("hand-mesh-estimation", model="org/handmim-base")("photo.jpg")
        hands[0]["vertices"]  # (V, 3) metres, camera frame
        ```
    """

    _load_processor = False
    _load_image_processor = True
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args: Any, detector: Any = "auto", tta: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tta = tta
        if not hasattr(self.model, "hand_model"):
            raise ModelError(
                f"a checkpoint with a mesh head is needed, got {type(self.model).__name__}; fine-tune it first"
            )
        if not hasattr(self.image_processor, "post_process_hand_mesh"):
            raise ModelError(
                "the pipeline needs an image processor of this package; pass image_processor=HandMIMImageProcessor(), "
                f"got {type(self.image_processor).__name__}"
            )
        self._detector_choice = detector
        self._detector: HandDetector | None = None

    @property
    def detector(self) -> HandDetector:
        """What finds the hands where no boxes are given; its `name` says which. Built when first asked for.

        One that is asked for by a word runs where the network does, if it can; an object stays where it is.
        """
        if self._detector is None:
            self._detector = resolve_detector(self._detector_choice)
            if self._detector is not self._detector_choice and hasattr(self._detector, "to"):
                self._detector.to(self.device)
        return self._detector

    def __call__(
        self, inputs: Any, *, boxes: Any = None, handedness: Any = None, intrinsics: Any = None, **kwargs: Any
    ) -> Any:
        """Estimate the hands of one picture, or of several.

        Args:
            inputs: a path, URL, bytes, PIL picture or uint8 array (H, W, 3), or a dict with such an `image` and any of
                `boxes`, `handedness`, `intrinsics`; a list, a generator or a dataset of these.
            boxes: xyxy image pixels, (4,) or (N, 4); for a list of pictures, a list of these. None: found.
            handedness: "left" or "right", for all boxes or one for each; a list of these for a list. None: found.
            intrinsics: (3, 3) pixels; a list of these for a list. None: from EXIF, or a stated default.
            kwargs: `batch_size`: pictures whose crops share a forward pass. `maps`: False leaves out the heat maps and
                part orientation fields of a HIU-DMTL network, 1.3 MB a hand.

        Returns:
            For one picture a list with one dict for each hand, see
            `HandMIMImageProcessor.post_process_hand_mesh`, and `faces` (F, 3), `intrinsics_source` ("given", "exif",
            "default") and `hand_model` ("open", "mano"). A HIU-DMTL network adds `heatmaps`, `mask`, `pof`,
            `heatmap_keypoints` and `crop_box`, see `Hand`. For several pictures a list of such lists.

        Raises:
            ImageError, InputError: what was given cannot be used.
        """
        listed = isinstance(inputs, (list, tuple)) and any(isinstance(item, dict) for item in inputs)
        if listed or isinstance(inputs, (GeneratorType, Dataset, dict)):
            if any(value is not None for value in (boxes, handedness, intrinsics)):
                raise InputError("boxes, handedness and intrinsics of a dict or a stream come in it, with each image")
            if isinstance(inputs, dict):
                inputs = _request(inputs)
            elif listed:
                inputs = [_request(item) for item in inputs]
            return super().__call__(inputs, **kwargs)
        requests = hand_requests(inputs, boxes, handedness, intrinsics)
        if is_single_image(inputs):
            return super().__call__(requests[0], **kwargs)
        return super().__call__(requests, **kwargs) if requests else []

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Model and image processor. transformers would add a part of the code, which is of no use without the rest."""
        if is_remote_code():
            super().save_pretrained(save_directory, **kwargs)
            return
        self.image_processor.save_pretrained(save_directory)
        self.model.save_pretrained(save_directory, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Publish model and image processor; arguments as those of the model's `push_to_hub`."""
        if is_remote_code():
            return super().push_to_hub(repo_id, **kwargs)
        publishing = importlib.import_module(".publishing", __package__)
        return publishing.push(repo_id, model=self.model, processor=self.image_processor, **kwargs)

    def _sanitize_parameters(self, maps: bool | None = None) -> tuple[dict, dict, dict]:
        return {}, {} if maps is None else {"maps": maps}, {}

    def preprocess(self, inputs: Any) -> dict[str, list[Job]]:
        """Read one picture, check its boxes, or find them."""
        request = _request(inputs).load()
        intrinsics, source = resolve_intrinsics(request.image, request.intrinsics)
        if request.boxes is None:
            return {"jobs": [self._detect(request, intrinsics, source)]}
        boxes, _ = resolve_boxes(request, self.image_processor.box_scale)
        sides = resolve_handedness(request.handedness, len(boxes), None)
        return {"jobs": [Job(request.image, boxes, sides, intrinsics, source)]}

    def _detect(self, request: HandRequest, intrinsics: np.ndarray, source: str) -> Job:
        """A picture with what may be its hands.

        Boxes that are only a place to start are cut out as they are, without the margin that the processor adds: the
        crop of a whole picture should hold the picture and nothing around it. Hands of a side that is given are not
        doubted: the network's score is of that side alone.
        """
        judged = hasattr(self.detector, "candidates") and request.handedness is None and self._has_score
        detections = (self.detector.candidates if judged else self.detector.detect)(request.image.pixels)
        boxes = np.array([detection.box for detection in detections], np.float64).reshape(-1, 4)
        known = resolve_handedness(request.handedness, len(detections), None)
        sides = [side or detection.handedness for side, detection in zip(known, detections, strict=True)]
        refine = bool(getattr(self.detector, "refine", False))
        return Job(
            request.image,
            scaled(boxes, 1 / self.image_processor.box_scale) if refine else boxes,
            sides,
            intrinsics,
            source,
            refinements=int(getattr(self.detector, "refinements", REFINEMENTS if refine else 0)),
            detected=True,
            doubts=[detection.score for detection in detections] if judged else None,
        )

    @property
    def _has_score(self) -> bool:
        """Whether the network says how sure it is that it sees a hand."""
        return bool(getattr(self.model.config, "score_head", False))

    def _forward(self, model_inputs: dict[str, list[Job]], maps: bool = True) -> dict[str, Any]:
        """All pictures of a batch: `jobs` -> `hands`, a list of dicts for each."""
        jobs = list(model_inputs["jobs"])
        hands = self._estimate(jobs, maps)
        for index, job in enumerate(jobs):
            if job.doubts is not None:
                jobs[index], hands[index] = self._confirmed(job, hands[index])
        latest = dict(enumerate(hands))
        for done in range(max((job.refinements for job in jobs), default=0)):
            rough = [index for index, job in enumerate(jobs) if job.refinements > done]
            nearer = [_refined(jobs[index], latest[index]) for index in rough]
            latest = dict(zip(rough, self._estimate(nearer, maps), strict=True))
            for index, found in latest.items():
                hands[index] = [better(*pair) for pair in zip(hands[index], found, strict=True)]
        return {"hands": [distinct(some) if job.detected else some for job, some in zip(jobs, hands, strict=True)]}

    def _confirmed(self, job: Job, hands: list[dict[str, Any]]) -> tuple[Job, list[dict[str, Any]]]:
        """Of a picture's candidates those that detector and network together take for hands."""
        pairs = zip(job.doubts or (), hands, strict=True)
        kept = [row for row, (doubt, hand) in enumerate(pairs) if self.detector.accepts(doubt, hand["score"])]
        sides = [job.sides[row] for row in kept]
        return replace(job, boxes=job.boxes[kept], sides=sides, doubts=None), [hands[row] for row in kept]

    def postprocess(self, model_outputs: dict[str, Any]) -> list[dict[str, Any]]:
        """The hands of one picture."""
        (hands,) = model_outputs["hands"]
        return hands

    def get_iterator(
        self,
        inputs: Iterable[Any],
        num_workers: int,
        batch_size: int,
        preprocess_params: dict,
        forward_params: dict,
        postprocess_params: dict,
    ) -> Iterator[list[dict[str, Any]]]:
        """Batches of pictures rather than of tensors: pictures hold different numbers of hands."""
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        by_index = hasattr(inputs, "__getitem__") and not isinstance(inputs, IterableDataset)
        stream = (inputs[i] for i in range(len(inputs))) if by_index else iter(inputs)
        while batch := list(itertools.islice(stream, batch_size)):
            jobs = [job for item in batch for job in self.preprocess(item, **preprocess_params)["jobs"]]
            for hands in self.forward({"jobs": jobs}, **forward_params)["hands"]:
                yield self.postprocess({"hands": [hands]}, **postprocess_params)

    def _estimate(self, jobs: list[Job], maps: bool) -> list[list[dict[str, Any]]]:
        """One pass over all boxes of all pictures; a box without a side is tried as both and the likelier kept."""
        unknown = ["right", "left"] if self._has_score else ["right"]
        images, boxes, sides, cameras, owners = [], [], [], [], []
        for index, job in enumerate(jobs):
            tries = [(row, side) for row, known in enumerate(job.sides) for side in ([known] if known else unknown)]
            images.append(job.image)
            boxes.append(job.boxes[[row for row, _ in tries]])
            sides.append([side for _, side in tries])
            cameras.append(job.intrinsics)
            owners += [(index, row) for row, _ in tries]
        known = {"boxes": boxes, "handedness": sides, "intrinsics": cameras}
        size, scale = self.model.config.image_size, self.image_processor.box_scale
        crop = widen(size, scale) if self.tta else {"size": size}
        inputs = self.image_processor(images, **known, return_tensors="pt", **crop)
        hands: list[list[Any]] = [[None] * len(job.sides) for job in jobs]
        if owners:
            outputs = self._run(inputs, maps)
            results = self.image_processor.post_process_hand_mesh(outputs, inputs, self.model.hand_model.faces)
            for (index, row), result in zip(owners, results, strict=True):
                best = hands[index][row]
                if best is None or result["score"] > best["score"]:
                    del result["image_index"]  # of this batch: says nothing to the caller
                    result["intrinsics_source"] = jobs[index].intrinsics_source
                    result["hand_model"] = self.model.config.hand_model
                    hands[index][row] = result
        return hands

    def _run(self, inputs: BatchFeature, maps: bool) -> dict[str, torch.Tensor]:
        """The network on all crops, `MAX_CROPS` at a time: tensors (N, ...) on the CPU."""
        parts: dict[str, list[torch.Tensor]] = {}
        with at_rest(self.model):
            for start in range(0, len(inputs["pixel_values"]), MAX_CROPS):
                part = slice(start, start + MAX_CROPS)
                output = self._seen(*(inputs[name][part].to(self.device) for name in ("pixel_values", "intrinsics")))
                for name in (*RESULT_NAMES, *map_names(output, large=maps)):
                    if output.get(name) is not None:
                        parts.setdefault(name, []).append(output[name].float().cpu())
        return {name: torch.cat(tensors) for name, tensors in parts.items()}

    def _seen(self, pixels: torch.Tensor, intrinsics: torch.Tensor) -> Any:
        """What the network says of crops, or what it says of several views of them."""
        if self.tta:
            return estimate_from_views(self.model, pixels, intrinsics)
        return self.model(pixel_values=pixels.to(self.model.dtype), intrinsics=intrinsics)


@contextmanager
def at_rest(model: Any) -> Iterator[None]:
    """A network that predicts, whatever it did before: one in training would take the statistics of these crops, keep
    them, and leave out the fit. Its parts are as they were afterwards."""
    modes = [(part, part.training) for part in model.modules()] if getattr(model, "training", False) else []
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _request(item: Any) -> HandRequest:
    """An image, or a dict with an image and what is known about its hands."""
    if isinstance(item, HandRequest):
        return item
    if not isinstance(item, dict):
        return HandRequest(item)
    unknown = set(item) - {"image", "boxes", "handedness", "intrinsics"}
    if unknown or "image" not in item:
        raise InputError(f"an item must have 'image' and may have boxes, handedness, intrinsics; got {sorted(item)}")
    return HandRequest(**item)


def _refined(job: Job, hands: list[dict[str, Any]]) -> Job:
    """The same picture, to be cropped around what was found in the last pass."""
    boxes = [hand_box(hand, job.image.pixels) for hand in hands]
    return Job(job.image, np.array(boxes).reshape(-1, 4), job.sides, job.intrinsics, job.intrinsics_source)


def hand_box(hand: dict[str, Any], image: np.ndarray) -> np.ndarray:
    """The box around an estimated hand, cut at the picture's border; the old box where the estimate makes no sense.

    It is at least `MIN_REFINED_PART` as large as the old one, before it is cut.

    Returns:
        (4,) float64 xyxy, image pixels.
    """
    old, points = hand["box"].astype(np.float64), hand["keypoints_2d"].astype(np.float64)
    if not np.isfinite(points).all():
        return old
    box = clip_box(box_around(points, JOINT_MARGIN), image)
    if box is None:
        return old
    growth = MIN_REFINED_PART * (old[2:] - old[:2]).max() / (box[2:] - box[:2]).max()
    return clip_box(scaled(box[None], growth)[0], image) if growth > 1 else box


def better(early: dict[str, Any], late: dict[str, Any]) -> dict[str, Any]:
    """Of two estimates of a hand the one with the higher score; without scores the later one."""
    if early["score"] is None or late["score"] is None:
        return late
    return late if late["score"] >= early["score"] else early


def distinct(hands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A picture's hands, each once: boxes that lay apart may lead to one hand.

    Of two of the same side whose joints' boxes are those of one hand (`SAME_HAND`, `PART_OF_HAND`) the one with the
    higher score stays; without scores the one that the detector is surer of.
    """

    def are_one(box: np.ndarray, other: np.ndarray) -> bool:
        return overlap_of(box, other) > SAME_HAND or held_part(box, other) > PART_OF_HAND

    boxes = [box_around(hand["keypoints_2d"].astype(np.float64)) for hand in hands]
    kept: list[int] = []
    for row in sorted(range(len(hands)), key=lambda row: -(hands[row]["score"] or 0.0)):
        same = (other for other in kept if hands[other]["handedness"] == hands[row]["handedness"])
        if not any(are_one(boxes[row], boxes[other]) for other in same):
            kept.append(row)
    return [hands[row] for row in sorted(kept)]


def scaled(boxes: np.ndarray, factor: float) -> np.ndarray:
    """Boxes (N, 4) xyxy made larger or smaller about their centres."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    reach = (boxes[:, 2:] - boxes[:, :2]) * (factor / 2)
    return np.concatenate([centre - reach, centre + reach], 1)


__all__ = ["HandMeshPipeline"]
