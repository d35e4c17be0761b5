"""`handmim convert` and `handmim export`: weights of other transformers in, weights and graphs for other programs out.

Nothing heavy is imported before a command runs.
"""

import argparse
from pathlib import Path
from typing import Any

from .command_line import add_revision_option

PRECISIONS = ("float32", "float16", "int8")


def add_commands(commands: Any) -> None:
    """Add these commands to the command line (the sub-parsers of `handmim`)."""
    _add_convert(commands)
    _add_export(commands)


# ---------------------------------------------------------------------------------------------------------------------
# convert


def _add_convert(commands: Any) -> None:
    convert = commands.add_parser(
        "convert",
        help="weights of a timm, MAE, DINO, iBOT or DINOv2 transformer in, or a backbone out to timm",
        description="Writes a backbone to fine-tune (model.pretrained of a recipe), or with --to timm the weights for "
        "timm.create_model(..., num_classes=0). Prints what became of every weight.",
    )
    convert.add_argument(
        "source", metavar="SOURCE", help="a .safetensors or .pth file, a timm name, dinov2-base, ...; or our checkpoint"
    )
    convert.add_argument("--out", type=Path, required=True, metavar="PATH", help="folder; with --to timm a file")
    add_revision_option(convert)
    convert.add_argument("--to", choices=("handmim", "timm"), default="handmim", help="default: handmim")
    convert.add_argument("--kind", choices=("timm", "mae", "dino", "ibot", "dinov2"), help="default: found out")
    convert.add_argument("--size", choices=("tiny", "small", "base", "large"), help="of the backbone, to convert in")
    convert.add_argument("--image-size", type=int, default=224, metavar="PX", help="side of the crop (default: 224)")
    convert.add_argument("--patch-size", type=int, default=16, metavar="PX", help="DINOv2 has 14 (default: 16)")
    convert.set_defaults(run=run_convert, parser=convert)


def run_convert(args: argparse.Namespace) -> int:
    """`handmim convert`."""
    from .commands import quiet_loaders

    quiet_loaders(args)
    if args.to == "timm":
        return _convert_to_timm(args.source, args.out, args.revision)
    if args.revision is not None:
        args.parser.error("--revision is for our checkpoints, with --to timm")
    if args.size is None:
        args.parser.error("--size is needed: tiny, small, base or large")
    from . import register
    from .backbone_weights import load_backbone_weights
    from .configuration_handmim import HandMIMConfig
    from .image_processing_handmim import HandMIMImageProcessor
    from .modeling_handmim import HandMIMModel

    register()
    config = HandMIMConfig.from_size(args.size, image_size=args.image_size, patch_size=args.patch_size)
    backbone = HandMIMModel(config)
    print(load_backbone_weights(backbone, args.source, args.kind))
    backbone.save_pretrained(args.out)
    HandMIMImageProcessor(size=args.image_size).save_pretrained(args.out)
    print(f"wrote {args.out}: a backbone to fine-tune, model.pretrained of a recipe")
    return 0


def _convert_to_timm(source: str, out: Path, revision: str | None) -> int:
    from safetensors.torch import save

    from . import register
    from .atomic_files import atomic_file
    from .backbone_weights import HALF, timm_state_dict
    from .checkpoints import checkpoint_source, load_network
    from .commands import hub_options
    from .errors import InputError

    if out.suffix != ".safetensors":
        raise InputError(f"--out must be a .safetensors file, got {out.name!r}")
    register()
    options = hub_options(source, revision)
    model = load_network(checkpoint_source(source), mesh="any", **options)
    state = timm_state_dict(model)
    mean, deviation = (" ".join(map(str, values)) for values in HALF)
    with atomic_file(out) as file:
        file.write(save(state, metadata={"format": "pt", "pixel_mean": mean, "pixel_std": deviation}))
    print(f"wrote {out}: {len(state)} weights; pixels are to be normalised with mean and deviation 0.5")
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# export


def _add_export(commands: Any) -> None:
    export = commands.add_parser(
        "export",
        help="a mesh model as an ONNX graph or a torch.export program",
        description="The batch stays open, the crop's size is the model's. MANO's arrays never enter a file.",
    )
    export.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="Hub id, folder, or a checkpoint in the package (default: handmim-tiny-open)",
    )
    add_revision_option(export)
    target = export.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--onnx", type=Path, metavar="FOLDER", help="for HandMIM.from_pretrained(FOLDER, backend='onnx')"
    )
    target.add_argument("--torch-export", type=Path, metavar="FILE.pt2", help="for torch.export.load")
    export.add_argument("--precision", choices=PRECISIONS, default="float32", help="default: float32")
    export.set_defaults(run=run_export)


def run_export(args: argparse.Namespace) -> int:
    """`handmim export`."""
    import torch

    from . import register
    from .atomic_files import atomic_file
    from .checkpoints import checkpoint_source, load_network, load_processor
    from .commands import hub_options, quiet_loaders
    from .onnx_export import OPSET, export_onnx, export_program

    quiet_loaders(args)
    register()
    source = checkpoint_source(args.model)
    options = hub_options(args.model, args.revision)
    model = load_network(source, mesh="head", **options)
    if getattr(model.config, "fit_steps", 0):
        print(
            "the fit to heat maps is not in the graph: backend='onnx' and handmim.fitting.fit_output do it afterwards"
        )
    if args.torch_export is not None:
        program = export_program(model, args.precision)
        with atomic_file(args.torch_export) as file:
            torch.export.save(program, file)
        print(f"wrote {args.torch_export}: {args.precision}, open batch")
        return 0
    processor = load_processor(source, model.config.image_size, **options)
    path = export_onnx(model, args.onnx, args.precision, processor)
    print(f"wrote {path}: {args.precision}, opset {OPSET}, open batch, {path.stat().st_size / 1e6:.1f} MB")
    return 0
