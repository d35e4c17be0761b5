"""What the `handmim` command does once its arguments are understood; imported only when a command runs.

Torch is imported later still, when a picture is there to be predicted: a wrong path is told at once.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import DEFAULT_CHECKPOINT
from .command_line import complain, one_sentence
from .errors import HandMIMError, ImageError, InputError, ModelError
from .images import LoadedImage, is_url, list_images, load_image
from .result_files import write_results
from .versions import package_version

if TYPE_CHECKING:
    from .detection import HandDetector
    from .hand import Hand, HandMIM

DEMO_SIZE = 256


# ---------------------------------------------------------------------------------------------------------------------
# predict


@dataclass
class Item:
    """One picture of a run.

    Attributes:
        source: path or URL.
        stem: of the files written for it.
        image: its pixels, while its batch is at work.
    """

    source: str
    stem: str
    image: LoadedImage | None = None


def predict(args: argparse.Namespace) -> int:
    """`handmim predict`: every picture that can be read gets its files; the others are told and counted."""
    sources, failed = find_sources(args.images)
    if args.boxes and len(sources) + failed > 1:
        complain(f"--box is for one image, got {len(sources) + failed}")
        return 2
    items = [Item(*pair) for pair in zip(sources, output_stems(sources), strict=True)]
    first, rest = items[: args.batch_size], items[args.batch_size :]
    failed += _read(first)  # before the model is loaded: seconds that a run of unreadable pictures need not wait
    if not any(item.image for item in first) and not rest:
        return _summary(failed, failed, 0)
    model = load_model(args)
    check_maps(model, args.maps)
    if not args.boxes:
        print(f"hands are looked for by {_described(model.detector)}", file=sys.stderr)
    done = hands = 0
    from tqdm import tqdm

    with tqdm(total=len(items), unit="image", file=sys.stderr, disable=None) as bar:
        for batch in _batches(first, rest, args.batch_size):
            failed += _read(batch) if batch is not first else 0
            for item, result in predict_batch(model, [item for item in batch if item.image], args):
                try:
                    report = _written(result, item, args)
                except (HandMIMError, OSError) as error:
                    complain(f"{item.source}: {one_sentence(error)}")
                    failed += 1
                    continue
                if args.json:
                    print(json.dumps(report), flush=True)
                done, hands = done + 1, hands + len(result)
            for item in batch:
                item.image = None
            bar.update(len(batch))
    return _summary(done + failed, failed, hands)


def _written(result: "list[Hand] | Exception", item: Item, args: argparse.Namespace) -> dict[str, Any]:
    """Write the files of a picture; raises what went wrong with it before, or now."""
    if isinstance(result, Exception):
        raise result
    drawn = not args.no_overlay
    return write_results(result, item.image, args.out, item.stem, args.format, model_name(args), drawn)


def find_sources(arguments: Iterable[str]) -> tuple[list[str], int]:
    """Files, the pictures of folders, and URLs as they stand; and how many arguments lead to nothing."""
    sources: list[str] = []
    failed = 0
    for argument in arguments:
        try:
            path = Path(argument)
            sources += [str(image) for image in list_images(path)] if path.is_dir() else [argument]
        except (ImageError, OSError) as error:
            complain(one_sentence(error))
            failed += 1
    return sources, failed


def output_stems(sources: list[str]) -> list[str]:
    """A name for the files of each picture: its stem, or more of its name where stems meet.

    Compared without case, as file systems of macOS and Windows do: `a.jpg`, `A.png` -> `a.jpg`, `A.png`; the same name
    in two folders -> `a`, `a-2` (with its ending where another picture shares the stem).
    """
    paths = [source.split("?")[0] if is_url(source) else source for source in sources]
    names = [Path(path).name or "image" for path in paths]
    stems = [Path(name).stem for name in names]
    shared = Counter(stem.lower() for stem in stems)
    wanted = [name if shared[stem.lower()] > 1 else stem for name, stem in zip(names, stems, strict=True)]
    taken: set[str] = set()
    result = []
    for name in wanted:
        candidate, number = name, 1
        while candidate.lower() in taken:
            number += 1
            candidate = f"{name}-{number}"
        taken.add(candidate.lower())
        result.append(candidate)
    return result


def predict_batch(
    model: "HandMIM", items: list[Item], args: argparse.Namespace
) -> Iterator[tuple[Item, "list[Hand] | Exception"]]:
    """The hands of each picture, or what went wrong with it."""
    if not items:
        return
    side = None if args.hand == "auto" else args.hand
    boxes = None if not args.boxes else [args.boxes] * len(items)
    try:
        images = [item.image for item in items]
        results = model(images, boxes=boxes, handedness=side, batch_size=len(items), maps=args.maps)
    except HandMIMError as error:
        if len(items) == 1:
            yield items[0], error
            return
        for item in items:  # one of them is to blame: the others still get their results
            yield from predict_batch(model, [item], args)
        return
    yield from zip(items, results, strict=True)


def check_maps(model: "HandMIM", asked: bool) -> None:
    """Whether `--maps` can be served.

    Raises:
        InputError: Maps of turned looks, which would not lie over each other, are asked for.
        ModelError: The checkpoint draws no maps.
    """
    if asked and model.pipeline.tta:
        raise InputError("--maps shows what one look sees: leave --tta out")
    tasks = getattr(model.model.config, "tasks", ())
    if asked and not {"heatmaps", "pof"} & set(tasks):
        raise ModelError("--maps needs a HIU-DMTL checkpoint that learned heat maps or orientation fields")


def quiet_loaders(args: argparse.Namespace) -> None:
    """Leave out the progress bars and warnings of what reads checkpoints, but with `--debug`."""
    from transformers.utils import logging

    if not args.debug:
        logging.set_verbosity_error()
    hide_loaders_bars(args)


def hide_loaders_bars(args: argparse.Namespace) -> None:
    """The bars alone, for a run whose warnings matter and which has a bar of its own."""
    from transformers.utils import logging

    if not args.debug:
        logging.disable_progress_bar()


def load_model(args: argparse.Namespace) -> "HandMIM":
    """The model that the options name."""
    from . import register
    from .hand import HandMIM

    quiet_loaders(args)
    register()
    return HandMIM.from_pretrained(
        args.model,
        device=args.device,
        detector=getattr(args, "detector", "auto"),
        hand_model_path=args.hand_model_path,
        image_size=getattr(args, "image_size", None),
        fit_steps=getattr(args, "fit_steps", None),
        tta=getattr(args, "tta", False),
        **hub_options(args.model, args.revision),
    )


def hub_options(model: str | None, revision: str | None) -> dict[str, str]:
    """What a loader needs to find the version of a checkpoint that the options name.

    Args:
        model: As named on the command line; None: the checkpoint in the package.
        revision: A branch, tag or commit hash on the Hub; None: the newest.

    Raises:
        InputError: The checkpoint is not on the Hub, so it has no revisions.
    """
    if revision is None:
        return {}
    from .checkpoints import checkpoint_source

    if Path(checkpoint_source(model)).is_dir():
        what = f"the folder {model}" if model and Path(model).is_dir() else "one in the package"
        raise InputError(f"--revision is for a checkpoint on the Hub, got {revision!r} for {what}")
    return {"revision": revision}


def _described(detector: "HandDetector") -> str:
    """A detector's name, and why it is not a better one."""
    name, reason = getattr(detector, "name", type(detector).__name__), getattr(detector, "reason", None)
    return f"{name} ({reason})" if reason else name


def model_name(args: argparse.Namespace) -> str:
    """The checkpoint as the user named it."""
    return args.model or DEFAULT_CHECKPOINT


def _read(items: list[Item]) -> int:
    """Read the pictures; say which cannot be, and return how many."""
    failed = 0
    for item in items:
        try:
            item.image = load_image(item.source)
        except ImageError as error:
            complain(one_sentence(error))
            failed += 1
    return failed


def _batches(first: list[Item], rest: list[Item], size: int) -> Iterator[list[Item]]:
    yield first
    for start in range(0, len(rest), size):
        yield rest[start : start + size]


def _summary(images: int, failed: int, hands: int) -> int:
    """Print how the run went (for a single good picture too, so that silence never means success) -> exit code."""
    if images > 1 or not failed:
        print(f"{images} image(s), {hands} hand(s), {failed} failed", file=sys.stderr)
    return 1 if failed else 0


# ---------------------------------------------------------------------------------------------------------------------
# demo


def demo(args: argparse.Namespace) -> int:
    """`handmim demo`: a hand whose truth is known, the estimate, and how far apart they are."""
    if args.seed < 0:
        raise InputError(f"--seed must not be negative, got {args.seed}")
    import torch

    from .geometry import similarity_align
    from .synthesis import generate

    model = load_model(args)
    sample = generate(args.seed, range(1), size=DEMO_SIZE, negatives=0.0)
    keypoints, truth = sample.labels["keypoints_2d"][0].numpy(), sample.labels["joints"][0]
    image = LoadedImage(sample.images[0].numpy(), None, "demo")
    box = np.concatenate([keypoints.min(0), keypoints.max(0)])
    (hand,) = model(image, boxes=box, handedness="right", intrinsics=sample.intrinsics[0].numpy(), maps=False)
    report = write_results([hand], image, args.out, "demo", "glb", model_name(args))
    found = torch.from_numpy(hand.joints)
    relative = millimetres(found - found[:1], truth - truth[:1])
    aligned = millimetres(similarity_align(found, truth)[0], truth)
    pixels = np.linalg.norm(hand.keypoints_2d - keypoints, axis=-1).mean()
    print(f"mean joint error: {relative:.1f} mm relative to the wrist, {aligned:.1f} mm after alignment")
    print(f"mean keypoint error: {pixels:.1f} px of {DEMO_SIZE}")
    names = ("demo.json", "demo.overlay.png", *report["meshes"], *report["masks"])
    print("wrote " + ", ".join(str(args.out / name) for name in names))
    print("next: handmim predict YOUR_PHOTO.jpg")
    return 0


def millimetres(points: Any, truth: Any) -> float:
    """Mean distance of (21, 3) points from the truth, metres -> mm."""
    return float((points - truth).norm(dim=-1).mean()) * 1000


# ---------------------------------------------------------------------------------------------------------------------
# info


def info() -> int:
    """`handmim info`: what a bug report needs."""
    import platform

    import torch

    names = ("handmim", "torch", "torchvision", "transformers", "huggingface-hub", "timm", "numpy", "pillow", "trimesh")
    versions = ((name, package_version(name) or "not installed") for name in names)
    rows = [("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"), *versions]
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows.append(("device", ", ".join(cuda) if cuda else f"cpu, {torch.get_num_threads()} threads"))
    rows.append(("checkpoint", _embedded_checkpoint()))
    rows += _hand_models()
    rows.append(("detectors", _detectors()))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    print("\n" + zoo_table())
    return 0


def zoo_table() -> str:
    """The checkpoints of the zoo, one a line."""
    from .zoo import zoo

    lines = [("checkpoint of the zoo", "crop", "parameters", "GFLOPs", "licence", "hand", "status", "recipe")]
    for entry in zoo().values():
        size = (f"{entry.image_size} px", f"{entry.parameters / 1e6:.1f} M", f"{entry.flops / 1e9:.1f}")
        lines.append((entry.name, *size, entry.licence, entry.hand_model or "-", entry.status, entry.recipe or "-"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(row.rstrip() for row in rows)


def _embedded_checkpoint() -> str:
    from .checkpoints import embedded_checkpoints

    files = {name: folder / "model.safetensors" for name, folder in embedded_checkpoints().items()}
    sizes = [f"{name} ({file.stat().st_size / 1e6:.1f} MB)" for name, file in files.items()]
    return ", ".join(sizes) or "none in this installation"


def _detectors() -> str:
    """The first is what "auto" takes; and why it is not MediaPipe."""
    from .detection import available_detectors
    from .mediapipe_detector import why_no_mediapipe

    problem = why_no_mediapipe()
    return ", ".join(available_detectors()) + (f" ({problem})" if problem else "")


def _hand_models() -> list[tuple[str, str]]:
    from .hand_model import HandModel
    from .mano_files import ManoFileNotFoundError, find_mano

    rows = [("open hand", f"{HandModel('open').num_vertices} vertices, CC0")]
    for side in ("right", "left"):
        try:
            rows.append((f"MANO {side}", str(find_mano(side))))
        except ManoFileNotFoundError:
            rows.append((f"MANO {side}", "not found; handmim mano install FILE"))
    return rows
