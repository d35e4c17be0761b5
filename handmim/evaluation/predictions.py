"""A network's answers for every sample of a data set, in the camera frame of the pictures, in chunks that are kept.

A long run may be stopped at any time: each finished chunk is a file, and the next run with the same model, data and
options starts behind the last one. The folder's name is a fingerprint of all three, so that nothing else reuses it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..atomic_files import atomic_file
from ..errors import NPZ_ERRORS, DataError, HandMIMError, ModelError
from ..hand_maps import restore_maps
from ..training.datasets.boxes import sample_box, whole_picture
from ..training.datasets.files import image_size
from ..training.datasets.sample import HandReader, HandSample
from ..tta import View, estimate_from_views, widen

FIELDS = ("keypoints_2d", "joints", "vertices")
# What `post_process_hand_mesh` reads of a network's answer, beside the score.
_HAND = (*FIELDS, "global_orient", "hand_pose", "betas", "translation")
CHUNK = 256
# Crops that wait for the network, in batches: enough to hide the reading, little memory.
AHEAD = 2


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a method says about N hands, in the frame of their pictures; NaN for a hand it did not find.

    Attributes:
        keypoints_2d: (N, 21, 2) float32 or float64, pixels of the picture; None of a network without a mesh.
        joints: (N, 21, 3) metres (or any unit, if only measured after alignment), camera frame; None if not given.
        vertices: (N, V, 3) metres, camera frame; None if not given.
        intrinsics: (N, 3, 3) pixels: the camera that the predictions belong to; None if not given.
        faces: (F, 3) int64 of `vertices`, of the right hand; None without vertices.
        hand_model: "mano", "open", or None.
        heatmap_keypoints: (N, 21, 2) pixels of the picture, by the heat maps of HIU-DMTL; None without.
        mask: (N, h, w) uint8, 255 times the probability that a cell is hand; None without such maps.
        crop_box: (N, 4) xyxy pixels of the picture: what the cells of `mask` cover.
        stacks: The same of the stacks before the last.
    """

    keypoints_2d: np.ndarray | None
    joints: np.ndarray | None = None
    vertices: np.ndarray | None = None
    intrinsics: np.ndarray | None = None
    faces: np.ndarray | None = None
    hand_model: str | None = None
    heatmap_keypoints: np.ndarray | None = None
    mask: np.ndarray | None = None
    crop_box: np.ndarray | None = None
    stacks: tuple[Predictions, ...] = ()

    def __len__(self) -> int:
        return next(len(value) for name in _ROWS if (value := getattr(self, name)) is not None)

    def select(self, rows: Sequence[int]) -> Predictions:
        """The predictions of some of the hands."""
        rows = list(rows)
        stacks = tuple(stack.select(rows) for stack in self.stacks)
        return replace(self, stacks=stacks, **{n: None if (v := getattr(self, n)) is None else v[rows] for n in _ROWS})


_ROWS = (*FIELDS, "intrinsics", "heatmap_keypoints", "mask", "crop_box")


class Predictor:
    """A mesh model and its image processor as a function of samples.

    Args:
        model: `HandMIMForMeshEstimation` or `HIUDMTLForHandUnderstanding`, or whatever is called and answers like one.
        processor: `HandMIMImageProcessor`.
        views: Of test-time augmentation (`tta`); none: the plain crop.
        vertices: Whether vertices are wanted.

    Attributes:
        fields: What an answer holds beside `intrinsics`: the last stack's under their own names, that of the stacks
            before under `stack_field`.

    Raises:
        ModelError: Views of a network without a mesh: hands are all that can be brought together.
    """

    def __init__(self, model: Any, processor: Any, views: Sequence[View] = (), vertices: bool = True) -> None:
        self.model, self.processor, self.views = model, processor, tuple(views)
        config = model.config
        self.mesh, maps = getattr(config, "mesh", True), () if views else getattr(config, "tasks", ())
        if views and not self.mesh:
            raise ModelError("test-time augmentation needs a network that estimates meshes")
        self.stacks = 1 if views else getattr(config, "num_stacks", 1)
        points = FIELDS if vertices else FIELDS[:-1]
        kinds = (points if self.mesh else ()) + (("heatmap_keypoints",) if "heatmaps" in maps else ())
        self.kinds = kinds + (("mask", "crop_box") if "mask" in maps else ())
        self.fields = tuple(self.field(kind, stack) for stack in range(self.stacks, 0, -1) for kind in self.kinds)
        self.size = int(processor.size["height"])
        self.scored = bool(getattr(model.config, "score_head", False))

    def field(self, kind: str, stack: int) -> str:
        """Name of one of `kinds` of one stack, from 1: that of the last is as it is."""
        return kind if stack == self.stacks else f"{kind}.{stack}"

    def crops(self, sample: HandSample) -> dict[str, Tensor]:
        """The network's input for one sample: one row, or one for each side where the side is unknown.

        Raises:
            DataError: naming the sample, if its picture, box or camera cannot be used.
        """
        box = evaluated_box(sample, self.processor.box_scale)
        sides = [sample.handedness] if sample.handedness else ["right", "left"] if self.scored else ["right"]
        options = widen(self.size, self.processor.box_scale) if self.views else {}
        try:
            return dict(
                self.processor(
                    sample.image,
                    boxes=np.stack([box] * len(sides)),
                    handedness=sides,
                    intrinsics=sample.intrinsics,
                    return_tensors="pt",
                    **options,
                )
            )
        except HandMIMError as error:
            raise DataError(f"sample {sample.id}: {error}") from error

    @torch.inference_mode()
    def __call__(self, crops: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        """The network on the crops of several samples -> `fields` and `intrinsics`, one row a sample."""
        inputs = {name: torch.cat([crop[name] for crop in crops]) for name in crops[0]}
        owners = [row for row, crop in enumerate(crops) for _ in range(len(crop["boxes"]))]
        answers = self._run(inputs)
        scores = answers[-1].get("score_logits")
        best: list[int | None] = [None] * len(crops)
        for place, row in enumerate(owners):
            known = best[row]
            if known is None or scores[place] > scores[known]:
                best[row] = place
        results = {}
        for stack, answer in enumerate(answers, 1):
            found = self._in_picture(answer, inputs)
            results |= {self.field(kind, stack): np.stack([found[row][kind] for row in best]) for kind in self.kinds}
        return results | {"intrinsics": inputs["image_intrinsics"].numpy()[best]}

    def _in_picture(self, answer: dict[str, Tensor], inputs: dict[str, Tensor]) -> list[dict[str, Any]]:
        """Of every crop `kinds`, in the frame of the picture; masks as 8-bit numbers."""
        hands: list[dict[str, Any]] = [{} for _ in inputs["boxes"]]
        if self.mesh:
            mesh = {name: answer[name] for name in (*_HAND, "score_logits") if name in answer}
            hands = self.processor.post_process_hand_mesh(mesh, inputs)
        if set(self.kinds) - set(FIELDS):
            maps = {name: answer[name] for name in ("heatmap_keypoints", "mask") if name in answer}
            hands = [hand | found for hand, found in zip(hands, restore_maps(maps, inputs), strict=True)]
        for hand in hands:
            if "mask" in hand:
                hand["mask"] = np.round(255 * hand["mask"]).astype(np.uint8)
        return hands

    def _run(self, inputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Outputs in the pixels and the camera of the crops, one a stack; with views of the last alone."""
        if not self.views:
            return self._forward(inputs["pixel_values"], inputs["intrinsics"])
        device = self.model.device
        pixels, intrinsics = (inputs[name].to(device) for name in ("pixel_values", "intrinsics"))
        hand = estimate_from_views(self.model, pixels, intrinsics, self.views)
        return [{name: value.float().cpu() for name, value in hand.items()}]

    def _forward(self, pixel_values: Tensor, intrinsics: Tensor) -> list[dict[str, Tensor]]:
        device, dtype = self.model.device, self.model.dtype
        every = {"return_all": True} if self.stacks > 1 else {}
        output = self.model(pixel_values=pixel_values.to(device, dtype), intrinsics=intrinsics.to(device), **every)
        before = list(output["stacks"][:-1]) if every else []
        return [
            {name: part[name].float().cpu() for name in part if torch.is_tensor(part[name])}
            for part in (*before, output)
        ]


def evaluated_box(sample: HandSample, box_scale: float = 1.0) -> np.ndarray:
    """Where a sample's hand is looked for, as in training: its box, or what its labels make of it.

    Args:
        sample: Of any data set.
        box_scale: Of the crop. A sample without any label of a place fills its picture: then the crop is all of it.

    Returns:
        (4,) float64 xyxy pixels.

    Raises:
        DataError: Its box is none, or its picture is missing.
    """
    try:
        box = sample_box(sample)
    except DataError as error:
        raise DataError(f"sample {sample.id}: {error}") from error
    box = whole_picture(image_size(sample.image), box_scale) if box is None else box
    return np.asarray(box, np.float64)


# ---------------------------------------------------------------------------------------------------------------------
# Chunks


def predict(
    reader: HandReader,
    predictor: Predictor,
    *,
    count: int,
    folder: Path | None = None,
    batch_size: int = 32,
    workers: int = 4,
    chunk: int = CHUNK,
    progress: bool = True,
) -> Predictions:
    """Predict the first samples of a reader.

    Args:
        reader: The data set.
        predictor: The network.
        count: Number of samples.
        folder: Where chunks are kept and looked for (see `run_folder`); None keeps none.
        batch_size: Samples that go through the network together.
        workers: Threads that read and crop pictures.
        chunk: Samples a file.
        progress: Whether a bar on stderr shows how far it is (on a terminal only).

    Returns:
        The predictions, in the reader's order. The same bits whether the run was interrupted or not.

    Raises:
        DataError: A sample cannot be used.
        ModelError: The network gave something that is not finite.
    """
    spans = [(start, min(start + chunk, count)) for start in range(0, count, chunk)]
    done = {span: _load_chunk(folder, span, predictor.fields) for span in spans}
    missing = [span for span in spans if done[span] is None]
    bar = _bar(count, count - sum(stop - start for start, stop in missing), progress)
    with bar, ThreadPoolExecutor(workers) as pool:
        stream = _ahead(
            pool,
            lambda index: predictor.crops(reader[index]),
            (index for span in missing for index in range(*span)),
            AHEAD * batch_size,
        )
        try:
            for span in missing:
                done[span] = _predict_span(reader, predictor, span, stream, batch_size, bar)
                _save_chunk(folder, span, done[span])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    arrays = {name: np.concatenate([done[span][name] for span in spans]) for name in (*predictor.fields, "intrinsics")}
    faces = np.asarray(predictor.model.hand_model.faces.cpu(), np.int64) if "vertices" in arrays else None
    shared = {"faces": faces, "hand_model": predictor.model.config.hand_model, "intrinsics": arrays["intrinsics"]}
    stacks = [
        Predictions(**shared, **{"keypoints_2d": None}
                    | {kind: arrays[predictor.field(kind, stack)] for kind in predictor.kinds})
        for stack in range(1, predictor.stacks + 1)
    ]  # fmt: skip
    return replace(stacks[-1], stacks=tuple(stacks[:-1]))


def _predict_span(
    reader: HandReader,
    predictor: Predictor,
    span: tuple[int, int],
    stream: Iterator[dict[str, Tensor]],
    batch_size: int,
    bar: Any,
) -> dict[str, np.ndarray]:
    parts = []
    for start in range(*span, batch_size):
        size = min(batch_size, span[1] - start)
        parts.append(predictor([next(stream) for _ in range(size)]))
        for name, values in parts[-1].items():
            bad = ~np.isfinite(values).reshape(size, -1).all(1)
            if bad.any():
                sample = reader[start + int(bad.argmax())].id
                raise ModelError(f"the model's {name} for sample {sample} are not finite; are its weights damaged?")
        bar.update(size)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _ahead(pool: ThreadPoolExecutor, work: Callable[[int], Any], items: Iterable[int], depth: int) -> Iterator[Any]:
    """Results of `work` in order, at most `depth` of them ahead of the reader."""
    waiting: deque = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _bar(total: int, initial: int, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=total, initial=initial, unit="hand", desc="predict", file=sys.stderr, disable=None if progress else True
    )


def fingerprint(description: dict[str, Any]) -> str:
    """16 hexadecimal digits of a description that JSON can hold."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]


def run_folder(root: Path, description: dict[str, Any]) -> Path:
    """The folder of the chunks of one model, data set and options, below `root`; made if need be.

    Args:
        root: Where the chunks of all runs are.
        description: All that decides about a prediction; kept beside the chunks for people to read.
    """
    folder = root / fingerprint(description)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / "run.json") as file:
        file.write(json.dumps(description, indent=1, sort_keys=True).encode())
    return folder


def _chunk_path(folder: Path, span: tuple[int, int]) -> Path:
    return folder / f"{span[0]:07d}-{span[1]:07d}.npz"


def _save_chunk(folder: Path | None, span: tuple[int, int], arrays: dict[str, np.ndarray]) -> None:
    if folder is None:
        return
    with atomic_file(_chunk_path(folder, span)) as file:
        np.savez(file, **arrays)


def _load_chunk(folder: Path | None, span: tuple[int, int], fields: Sequence[str]) -> dict[str, np.ndarray] | None:
    """The arrays of a finished chunk; None if it is not there. A damaged file is told, and made again."""
    if folder is None or not _chunk_path(folder, span).is_file():
        return None
    path = _chunk_path(folder, span)
    try:
        with np.load(path, allow_pickle=False) as file:  # the archive's check sums are compared while reading
            arrays = {name: file[name] for name in (*fields, "intrinsics")}
        for name, values in arrays.items():
            kind = np.uint8 if name.startswith("mask") else np.float32
            if len(values) != span[1] - span[0] or values.dtype != kind or not np.isfinite(values).all():
                raise ValueError(f"{name} is {values.dtype} {values.shape}")
    except NPZ_ERRORS as error:  # a crash or a full disk left it behind, or somebody put it there
        print(f"handmim: {path.name} is damaged ({error}); predicting it again", file=sys.stderr)
        return None
    return arrays
