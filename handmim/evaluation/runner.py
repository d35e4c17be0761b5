"""`handmim evaluate`: from a model or a submission to a table, a report and the files beside it."""

from __future__ import annotations

import argparse
import copy
import inspect
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from . import report as reports
from .benchmarks import Benchmark, baselines, benchmark, default_split, measure, measure_stacks, open_reader
from .kept_reports import REPORT, Measured, check_places, refuse_other_report

if TYPE_CHECKING:
    from ..training.datasets.sample import HandReader
    from .predictions import Predictions
    from .scoring import Truth

EMBEDDED = "embedded"  # another name of the default checkpoint
CHUNKS = "predictions"


def evaluate(args: argparse.Namespace) -> int:
    """Run the command: options as `commands` declares them -> exit code."""
    chosen = benchmark(args.benchmark)
    out = args.out if args.pred is not None else output_folder(args)
    check_places(out, args.report)
    if args.pred is not None:
        from .official_report import score_file

        report, per_sample = score_file(chosen, args, command(args), _private(args))
    else:
        report, per_sample = _model(chosen, args)
    print(reports.text(report))
    written = write(report, per_sample, out, args.report)
    if written:
        print("wrote " + ", ".join(str(path) for path in written))
    return 0


def output_folder(args: argparse.Namespace) -> Path:
    """Where the files of a model's evaluation go: what the user says, or a folder named after what is measured."""
    if args.out is not None:
        return args.out
    revision = None if args.revision is None else args.revision.replace("/", "-")
    model = reports.public_name(model_name(args))
    model = model.replace("/", "-") if reports.is_folder(model_name(args)) else Path(model).name
    data = _data_name(args.data) if args.benchmark in reports.USER_FOLDERS else None
    parts = [args.benchmark, data, args.split, model, revision]
    parts += [None if args.image_size is None else f"{args.image_size}px"]
    parts += ["tta" if args.tta else None, None if args.fit_steps is None else f"fit{args.fit_steps}"]
    parts += [None if args.limit is None else f"first{args.limit}"]
    return Path("-".join(part for part in parts if part))


def _data_name(root: Path) -> str:
    """Of a data set's folder, which may be named by its manifest."""
    root = root.resolve()
    return root.parent.name if root.is_file() else root.name


def model_name(args: argparse.Namespace) -> str:
    """The model as the user named it."""
    from ..commands import model_name as named

    return named(argparse.Namespace(model=checkpoint(args)))


def checkpoint(args: argparse.Namespace) -> str | None:
    """Hub id or folder; None: the checkpoint in the package."""
    return None if args.model == EMBEDDED else args.model


def write(
    report: Mapping[str, Any], per_sample: tuple[list[str], Mapping[str, Any]], out: Path | None, extra: Path | None
) -> list[Path]:
    """Report, curves and figures of each sample into a folder, and the report to another place as well."""
    written = []
    if out is not None:
        reports.save(report, out / REPORT)
        reports.save_samples(out / "samples.csv", *per_sample)
        written += [out / REPORT, out / "samples.csv"]
    if extra is not None:
        reports.save(report, extra)
        written.append(extra)
    if out is None:
        return written
    from .curves import PlotError, plot

    try:
        plot([report], out / "curves.png")
        written.append(out / "curves.png")
    except PlotError as error:  # the figures are there all the same
        print(f"handmim: no curves.png: {error}", file=sys.stderr)
    except ValueError:  # nothing has a curve
        pass
    return written


def command(args: argparse.Namespace) -> str:
    """The command line without paths: of folders and files only their names."""
    parts = ["handmim", "evaluate", args.benchmark]
    if args.pred is not None:
        parts += ["--pred", args.pred.name]
    else:
        parts += ["--model", reports.public_name(args.model)]
    parts += ["--data", args.data.resolve().name]
    for name in ("revision", "split", "limit", "batch_size", "image_size", "fit_steps", "device"):
        value = getattr(args, name)
        if value is not None and value != args.parser.get_default(name):
            parts += [f"--{name.replace('_', '-')}", str(value)]
    parts += ["--tta"] if args.tta else []
    return shlex.join(parts)


# ---------------------------------------------------------------------------------------------------------------------
# A model


def _model(chosen: Benchmark, args: argparse.Namespace) -> tuple[dict[str, Any], tuple[list[str], Mapping[str, Any]]]:
    """Predict, measure -> report, and names and figures of the samples."""
    from ..tta import DEFAULT_VIEWS, describe
    from .posed_labels import with_posed_meshes
    from .scoring import collect

    reader = open_reader(chosen, args.data, args.split, **_reader_options(chosen, args))
    hand = _load(args)
    same_hand = reader.hand_model == hand.model.config.hand_model
    truth = collect(reader, args.limit, vertices=same_hand)
    refuse_other_report(output_folder(args), _measured(chosen, args, reader, truth))
    if same_hand and truth.vertices is None and hasattr(hand.model, "hand_model"):
        truth = with_posed_meshes(truth, reader, copy.deepcopy(hand.model.hand_model).cpu())
    views = DEFAULT_VIEWS if args.tta else ()
    about = reports.describe_model(hand.model, hand.image_processor, model_name(args))
    predicted = _predictions(reader, truth, hand, views, about, args)
    with _progress(len(truth) if truth.masks else 0, "masks") as progress:
        scores = measure(chosen, reader, truth, predicted, progress)
    stacks = measure_stacks(chosen, reader, truth, predicted)
    official, notes, checksums = {}, [*getattr(reader, "notes", ())], {}
    if chosen.official and predicted.joints is not None:
        from .official_report import score_model

        folder = output_folder(args)
        official, more, checksums = score_model(chosen, args.data, predicted, reader.split, folder, scores)
        notes += more
    sums = {"checksum": truth.checksum, "pictures_checksum": truth.files, **checksums}
    options = {name: getattr(args, name) for name in ("limit", "batch_size", "image_size", "fit_steps")}
    options["device"] = str(hand.model.device)
    trained_on = args.trained_on or reports.training_set(hand.model, checkpoint(args))
    report = reports.build(
        benchmark=chosen.name,
        title=chosen.title,
        protocol=chosen.rules,
        split=reader.split,
        samples=len(truth),
        scores=scores,
        baselines=baselines(chosen, truth),
        official=official,
        model=about,
        data={"root_name": _data_name(args.data), **sums},
        options={"tta": describe(views), "trained_on": trained_on, **options},
        notes=[*notes, *_box_notes(truth)],
        command=command(args),
        private=_private(args),
        stacks=stacks | {str(len(stacks) + 1): scores.metrics} if stacks else None,
    )
    return report, (truth.ids, scores.per_sample)


def _measured(chosen: Benchmark, args: argparse.Namespace, reader: HandReader, truth: Truth) -> Measured:
    """What tells a model's report on a reader's labels from other reports."""
    from .scoring import collect

    def checksum(limit: int | None) -> str:
        return truth.checksum if limit == args.limit else collect(reader, limit, vertices=False).checksum

    root = _data_name(args.data)
    return Measured(chosen.name, reader.split, "model", root, args.limit, len(truth), "checksum", checksum)


def _reader_options(chosen: Benchmark, args: argparse.Namespace) -> dict[str, Any]:
    """Where MANO is, and that meshes are not needed, for readers that ask."""
    if chosen.name == "real-photos":
        return {}
    from ..training.datasets.registry import reader_class

    reader = reader_class(chosen.dataset)
    known, options = inspect.signature(reader.__init__).parameters, {}
    if args.hand_model_path is not None and "hand_model_path" in known:
        options["hand_model_path"] = args.hand_model_path
    if "meshes" in known and _is_other_hand(args):
        # Vertices that are there are read all the same: the check sum of the labels is about them, too.
        vertices = args.data / f"{args.split or default_split(chosen, reader)}_verts.json"
        options["meshes"] = vertices.is_file()
    return options


def _is_other_hand(args: argparse.Namespace) -> bool:
    """Whether the model's hand is known and not MANO's, so that it has no use for MANO's vertices."""
    name = checkpoint(args)
    return name is None or getattr(_config(name, args.revision), "hand_model", "mano") != "mano"


def _load(args: argparse.Namespace) -> Any:
    """The front door's loader, which checks the checkpoint and speeds the network up; no detector is needed."""
    from ..commands import load_model

    options = {"model": checkpoint(args), "detector": "none"}
    config = _config(options["model"], args.revision)
    if not getattr(config, "mesh", True):
        return _load_maps_only(options["model"], args)
    embedded = options["model"] is None
    if args.hand_model_path is not None and (embedded or getattr(config, "hand_model", "mano") != "mano"):
        options["hand_model_path"] = None  # it is for the labels
    return load_model(argparse.Namespace(**{**vars(args), **options}))


def _config(name: str | None, revision: str | None) -> Any:
    """The configuration of a checkpoint; None if it cannot be read: whoever loads it tells why."""
    from transformers import AutoConfig

    from .. import register
    from ..checkpoints import checkpoint_source
    from ..hub_errors import LOADER_ERRORS

    register()
    try:
        return None if name is None else AutoConfig.from_pretrained(checkpoint_source(name), revision=revision)
    except LOADER_ERRORS:
        return None


def _load_maps_only(name: str, args: argparse.Namespace) -> Any:
    """A HIU-DMTL network without a mesh, which the front door has no use for: its maps can be measured all the same."""
    import torch

    from .. import HandMIMImageProcessor, HIUDMTLForHandUnderstanding
    from ..commands import hub_options

    hub = hub_options(name, args.revision)
    model = HIUDMTLForHandUnderstanding.from_pretrained(name, dtype=torch.float32, **hub).eval()
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return SimpleNamespace(model=model.to(device), image_processor=HandMIMImageProcessor.from_pretrained(name, **hub))


def _predictions(
    reader: HandReader,
    truth: Truth,
    hand: Any,
    views: tuple,
    about: Mapping[str, Any],
    args: argparse.Namespace,
) -> Predictions:
    """Chunks of an earlier run of the same model on the same samples are used."""
    from ..tta import describe
    from .predictions import Predictor, predict, run_folder

    predictor = Predictor(hand.model, hand.image_processor, views, vertices=truth.vertices is not None or truth.masks)
    description = {
        "model": {name: value for name, value in about.items() if name not in ("name", "revision")},
        "data": [reader.name, reader.split, truth.checksum, truth.states],
        "fields": predictor.fields,
        "tta": describe(views),
        "device": hand.model.device.type,
        "versions": reports.versions(),
    }
    folder = run_folder(output_folder(args) / CHUNKS, description)
    return predict(reader, predictor, count=len(truth), folder=folder, batch_size=args.batch_size, workers=args.workers)


@contextmanager
def _progress(total: int, what: str) -> Any:
    """A bar on stderr as a function of the number done; nothing is shown for a total of 0."""
    from tqdm import tqdm

    with tqdm(total=total, desc=what, file=sys.stderr, disable=None if total else True) as bar:
        update: Callable[[int], Any] = lambda done: bar.update(done - bar.n)  # noqa: E731
        yield update


def _box_notes(truth: Truth) -> list[str]:
    """Boxes from labels make the task easier than it is for a user: said in the report."""
    notes, sideless = [], sum(side is None for side in truth.sides)
    if truth.boxless:
        notes.append(f"{truth.boxless} of {len(truth)} samples have no box: it is made of their labels")
    if sideless:
        notes.append(f"the side of {sideless} of {len(truth)} hands is not labelled: the model finds it")
    return notes


def _private(args: argparse.Namespace) -> list[Path]:
    """Paths that must not reach a report: what the user named, and where the command runs."""
    named = (args.data, args.pred, args.out, args.report, args.hand_model_path, args.model)
    paths = [Path(path) for path in named if path is not None and (os.path.isabs(path) or Path(path).exists())]
    return [*paths, *(path.resolve() for path in paths), Path.cwd(), Path.home()]
