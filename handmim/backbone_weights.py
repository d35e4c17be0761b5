"""Weights of other vision transformers in our backbone, and ours as a timm model's.

What a file may be (`KINDS`): timm's models, and the checkpoints that MAE, DINO, iBOT and DINOv2 publish or their
training code writes. All of them name a block's weights as timm does; they differ in what surrounds them, in what the
pixels are normalised with, and in parts that a plain transformer has not. A checkpoint loads whole or not at all, and a
`WeightReport` says what became of every key.

Nothing here changes what the source computes:
- Pixels. Our crops have mean and deviation 0.5; most sources want ImageNet's. The difference is a scale and an offset
  for each channel, and goes into the patch projection.
- Layer scale (DINOv2) multiplies the outputs of two linear layers, and goes into their weights.
- A position embedding without a row for the class token adds nothing to it: that row is 0.
Only another grid of positions or another patch size is resampled, as timm does, and the report says so.
"""

import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ModelError

KINDS = ("timm", "mae", "dino", "ibot", "dinov2")
Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: Normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# timm's own transformers (augreg) are trained on pixels in [-1, 1]; by name timm says what each model wants.
NORMALISATION = {"timm": HALF, "mae": IMAGENET, "dino": IMAGENET, "ibot": IMAGENET, "dinov2": IMAGENET}
# Weights that timm finds by name, for {size} small, base, large; there is no iBOT among them.
TIMM_NAMES = {
    "timm": "vit_{}_patch16_224.augreg_in21k",
    "mae": "vit_{}_patch16_224.mae",
    "dino": "vit_{}_patch16_224.dino",
    "dinov2": "vit_{}_patch14_dinov2.lvd142m",
}
MAX_WEIGHT_BYTES = 8 << 30
# The part of a training checkpoint with the backbone to use: the teacher, which DINO, iBOT and DINOv2 evaluate.
CONTAINERS = ("model", "state_dict", "teacher")
PREFIXES = ("module.", "_orig_mod.", "backbone.", "encoder.")
# Parts that follow the tokens or serve pre-training only; (pattern, why it is not used).
SKIPPED = (
    (r"((dino|ibot)_head|head\.(mlp|last_layer)|head2|projection|predictor)\b", "head of pre-training"),
    (r"head(_drop|_dist)?\.|pre_logits\.|fc_norm\.", "classifier"),
    (r"decoder", "decoder"),
    (r"(mask_token|masked_embed)$", "token of masked patches"),
)
LAYER_SCALE = re.compile(r"(blocks\.\d+)\.ls([12])\.gamma$")
SCALED_LAYER = {"1": "attn.proj", "2": "mlp.fc2"}
CHUNKED_BLOCK = re.compile(r"blocks\.\d+\.(\d+)\.")


class WeightsError(ModelError):
    """Weights that do not fit, or a file that holds none; the message names file, weight and what to do."""


@dataclass
class WeightReport:
    """What became of every key of a source.

    Attributes:
        source: File or model name.
        kind: One of `KINDS`.
        normalisation: Mean and deviation of the pixels that the source was trained on.
        used: Keys of the source that went into the backbone as they are.
        changed: Keys that went in changed, with what was done.
        skipped: Keys without a place in a backbone, with the reason.
    """

    source: str
    kind: str
    normalisation: Normalisation = HALF
    used: list[str] = field(default_factory=list)
    changed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line on all, and one for each key that is not used as it is."""
        mean, deviation = self.normalisation
        lines = [
            f"{self.source} ({self.kind}, pixels normalised by {list(mean)} and {list(deviation)}): "
            f"{len(self.used)} weights used as they are, {len(self.changed)} changed, {len(self.skipped)} not used"
        ]
        lines += [f"  changed   {name}: {what}" for name, what in self.changed.items()]
        lines += [f"  not used  {name}: {why}" for name, why in self.skipped.items()]
        return "\n".join(lines)


def load_backbone_weights(backbone: nn.Module, source: str | Path, kind: str | None = None) -> WeightReport:
    """Put a vision transformer into a backbone.

    Args:
        backbone: `HandMIMModel` with stem "patch", of the same width, depth and heads.
        source: A file (.safetensors, or .pth and the like with tensors), "KIND:FILE", the name of a timm model that
            timm finds weights for (in its cache, or the network), or "KIND-SIZE" ("dinov2-base"), which is short for
            one.
        kind: One of `KINDS`. None: what `source` says, else what the keys or the file's name show, else "timm".

    Returns:
        What was done with each key.

    Raises:
        WeightsError: Any weight of the backbone is missing or has another shape, or the source has parts that the
            backbone has not: it would then compute something else. The backbone is left as it was.
    """
    if backbone.config.stem != "patch":
        raise WeightsError(f"{source}: weights of vision transformers fit stem='patch', not {backbone.config.stem!r}")
    state, report = read_source(source, kind)
    encoder = backbone.encoder
    _check_family(state, report)
    state = _skip_known_parts(state, report)
    _fold_layer_scale(state, report)
    _fit_positions(state, report, encoder.pos_embed.shape[1] - 1)
    _fit_patches(state, report, encoder.patch_embed.proj.weight.shape[-1])
    wanted = encoder.state_dict()
    _check_complete(state, wanted, report)
    report.used = [name for name in wanted if name not in report.changed]
    _fold_normalisation(state, report)
    encoder.load_state_dict({name: state[name].to(wanted[name].dtype) for name in wanted})
    return report


def read_source(source: str | Path, kind: str | None = None) -> tuple[dict[str, Tensor], WeightReport]:
    """The flat state dict of a file or of a model by name, and the report that follows it.

    Raises:
        WeightsError: An unknown kind, no such file or model, or no state dict in it.
    """
    head, _, rest = str(source).partition(":")
    if kind is None and rest and head in KINDS:
        kind, source = head, rest
    if kind is not None and kind not in KINDS:
        raise WeightsError(f"the kind of weights must be one of {', '.join(KINDS)}, got {kind!r}")
    path = Path(source)
    if path.is_file():
        state = _without_chunks(read_weights(path))
        kind = kind or guess_kind(state, path.name)
        normalisation = NORMALISATION[kind]
    else:
        state, kind, normalisation = _from_timm(str(source), kind)
    return state, WeightReport(str(source), kind, normalisation)


def guess_kind(state: dict[str, Tensor], file_name: str) -> str:
    """Whose weights these are: by keys that only one kind has, else by the name that the file was published under."""
    if "masked_embed" in state:
        return "ibot"
    if any(name.startswith("decoder_") for name in state):
        return "mae"
    if "mask_token" in state and any(LAYER_SCALE.search(name) for name in state):
        return "dinov2"
    for kind in ("dinov2", "dino", "ibot", "mae"):
        if re.match(rf"{kind}(?![a-z])|{kind}_", file_name.lower()):
            return kind
    return "timm"


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a file, without running code from it: names without what wraps the network.

    Raises:
        WeightsError: Too large, or not such a file.
    """
    if max(path.stat().st_size, _unpacked_size(path)) > MAX_WEIGHT_BYTES:
        raise WeightsError(f"{path} is larger than {MAX_WEIGHT_BYTES >> 30} GiB; it holds no vision transformer")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = _load_pth(path)
    except Exception as error:  # the unpickler raises whatever a damaged file leads to
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{path} is no file of weights (.safetensors, or .pth with tensors only): {reason}"
        ) from error
    while isinstance(state, dict):
        inner = next((state[name] for name in CONTAINERS if isinstance(state.get(name), dict)), None)
        if inner is None:
            break
        state = inner
    if not isinstance(state, dict) or not state or not all(_is_entry(*item) for item in state.items()):
        raise WeightsError(f"{path} must hold a mapping of names to tensors, by itself or as {', '.join(CONTAINERS)}")
    return _without_prefixes(state)


def _load_pth(path: Path) -> Any:
    """`torch.load` of tensors only; and of the command line's arguments, which MAE and DINO store beside them."""
    import argparse

    with torch.serialization.safe_globals([argparse.Namespace]):  # holds attributes, and has no behaviour
        return torch.load(path, map_location="cpu", weights_only=True)


def _unpacked_size(path: Path) -> int:
    """Bytes that a .pth, which is an archive, says to hold: a small file may be packed."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # another format, or damaged: told when it is read
        return 0


def _is_entry(name: Any, value: Any) -> bool:
    """Whether this is a named tensor as long as its memory: one that repeats a number may claim any size."""
    if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what wraps the backbone: DDP, torch.compile, and the pair of backbone and head of training code."""
    again = True
    while again:
        again = False
        for prefix in PREFIXES:
            inside = {name for name in state if name.startswith(prefix)}
            # beside a "backbone." there may be heads, which have no place in it anyway
            if inside and (len(inside) == len(state) or prefix == "backbone."):
                state = {name.removeprefix(prefix): value for name, value in state.items()}
                again = True
    return state


def _from_timm(name: str, kind: str | None) -> tuple[dict[str, Tensor], str, Normalisation]:
    """Weights that timm loads by name; it knows how each model's pixels are normalised."""
    import timm

    short, _, size = name.rpartition("-")
    full = TIMM_NAMES[short].format(size) if short in TIMM_NAMES else name
    if not full.startswith("hf_hub:") and not timm.is_model(full.split(".")[0]):
        choices = ", ".join(f"{key}-SIZE" for key in TIMM_NAMES)
        raise WeightsError(f"weights must be a file, a model of timm's, or one of {choices}; got {name!r}")
    try:
        model = timm.create_model(full, pretrained=True, num_classes=0)
    except (RuntimeError, OSError, ValueError) as error:
        raise WeightsError(f"timm could not load {full!r}: {error}; give a file that was downloaded before") from error
    data = model.pretrained_cfg
    normalisation = (tuple(data.get("mean", HALF[0])), tuple(data.get("std", HALF[1])))
    by_name = next((k for k in ("dinov2", "dino", "mae") if re.search(rf"[._]{k}\b", full)), "timm")
    return model.state_dict(), kind or by_name, normalisation


def _check_family(state: dict[str, Tensor], report: WeightReport) -> None:
    """Refuses, by name, transformers that compute something else."""
    registers = [name for name in state if name in ("register_tokens", "reg_token")]
    faults = {
        f"it has register tokens ({', '.join(registers)}), to which every other token attends; take the checkpoint "
        "without registers": registers,
        "its feed-forward layers are gated (SwiGLU)": [n for n in state if re.search(r"mlp\.(w12|w3|fc1_g)\.", n)],
        "it has no class token, which the first estimate is read from": [] if "cls_token" in state else ["cls_token"],
        "its last norm follows the pooling (a fine-tuned classifier); take the pre-trained checkpoint": (
            ["fc_norm"] if "norm.weight" not in state and "fc_norm.weight" in state else []
        ),
    }
    for fault, names in faults.items():
        if names:
            raise WeightsError(f"{report.source} does not fit: {fault}")


def _without_chunks(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """DINOv2's training code keeps blocks in chunks, "blocks.1.7.": the second number is the block's."""
    return {CHUNKED_BLOCK.sub(r"blocks.\1.", name): value for name, value in state.items()}


def _skip_known_parts(state: dict[str, Tensor], report: WeightReport) -> dict[str, Tensor]:
    for name in state:
        reason = next((reason for pattern, reason in SKIPPED if re.match(pattern, name)), None)
        if reason is not None:
            report.skipped[name] = reason
    return {name: value for name, value in state.items() if name not in report.skipped}


def _fold_layer_scale(state: dict[str, Tensor], report: WeightReport) -> None:
    """x + gamma * (W y + b) = x + (gamma W) y + gamma b, in float64 so that nothing but the last rounding is lost."""
    for name in [name for name in state if LAYER_SCALE.match(name)]:
        block, which = LAYER_SCALE.match(name).groups()
        gamma = state.pop(name).double()
        for part in ("weight", "bias"):
            target = f"{block}.{SCALED_LAYER[which]}.{part}"
            if target not in state or len(state[target]) != len(gamma):
                raise WeightsError(f"{report.source} has layer scale {name} without a {target} of its size")
            value = state[target]
            scaled = gamma.view(-1, *[1] * (value.ndim - 1)) * value.double()
            state[target] = scaled.to(value.dtype)
            report.changed[target] = f"multiplied by {name}"
        report.changed[name] = f"folded into {block}.{SCALED_LAYER[which]}"


def _fit_positions(state: dict[str, Tensor], report: WeightReport, patches: int) -> None:
    """Position embeddings for `patches` patches and a class token."""
    table = state.get("pos_embed")
    if table is None or table.ndim != 3 or table.shape[0] != 1:
        return  # told as missing or as of another shape
    rows = table.shape[1]
    side = int(rows**0.5)
    if side * side == rows:  # for patches alone
        table = torch.cat([table.new_zeros(1, 1, table.shape[2]), table], 1)
        report.changed["pos_embed"] = "a zero row for the class token"
    else:
        side = int((rows - 1) ** 0.5)
        if side * side != rows - 1:
            raise WeightsError(f"{report.source}: pos_embed is for no square grid of patches, it has {rows} rows")
    wanted = int(patches**0.5)
    if side != wanted:
        from timm.layers import resample_abs_pos_embed

        table = resample_abs_pos_embed(table, [wanted, wanted], [side, side])
        report.changed["pos_embed"] = f"resampled from {side} x {side} to {wanted} x {wanted} patches (bicubic)"
    state["pos_embed"] = table


def _fit_patches(state: dict[str, Tensor], report: WeightReport, size: int) -> None:
    """A patch projection for patches of another size, as FlexiViT (Beyer et al. 2023) resamples it."""
    weight = state.get("patch_embed.proj.weight")
    if weight is None or weight.ndim != 4 or weight.shape[-1] == size or weight.shape[-1] != weight.shape[-2]:
        return
    from timm.layers import resample_patch_embed

    state["patch_embed.proj.weight"] = resample_patch_embed(weight.float(), [size, size])
    report.changed["patch_embed.proj.weight"] = (
        f"resampled from patches of {weight.shape[-1]} to {size} pixels: near to the source, not equal; "
        f"patch_size={weight.shape[-1]} keeps it"
    )


def _check_complete(state: dict[str, Tensor], wanted: dict[str, Tensor], report: WeightReport) -> None:
    unlike = [
        f"{name} {tuple(state[name].shape)} for {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    missing = [name for name in wanted if name not in state]
    strange = [name for name in state if name not in wanted]
    broken = [name for name in wanted if name in state and not state[name].isfinite().all()]
    for faults, word in (
        (unlike, "has weights of other shapes"),
        (missing, "lacks"),
        (strange, "has further parts"),
        (broken, "has weights that are not finite"),
    ):
        if faults:
            raise WeightsError(
                f"{report.source} does not fit this backbone: it {word}: {', '.join(faults[:3])} ({len(faults)})"
            )


def _fold_normalisation(state: dict[str, Tensor], report: WeightReport) -> None:
    """Our pixels x in [-1, 1] are the source's a x + b, by channel: W (a x + b) + c = (W a) x + (W b + c)."""
    if report.normalisation == HALF:
        return
    weight, bias = state["patch_embed.proj.weight"].double(), state["patch_embed.proj.bias"].double()
    mean, deviation = (torch.tensor(values, dtype=torch.float64) for values in report.normalisation)
    if weight.shape[1] != 3:
        raise WeightsError(f"{report.source}: pixels of {weight.shape[1]} channels have no known normalisation")
    scale, offset = 0.5 / deviation, (0.5 - mean) / deviation
    bias = bias + torch.einsum("ocij,c->o", weight, offset)
    state["patch_embed.proj.weight"] = (weight * scale[:, None, None]).float()
    state["patch_embed.proj.bias"] = bias.float()
    for name in ("patch_embed.proj.weight", "patch_embed.proj.bias"):
        before = report.changed.get(name)
        report.changed[name] = "; ".join(filter(None, [before, "for pixels in [-1, 1]"]))
        if name in report.used:
            report.used.remove(name)


def timm_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The backbone of any of our models under timm's names, for `timm.create_model(..., num_classes=0)`.

    The pixels are to be normalised with mean and deviation 0.5. Of a pre-training model it is the teacher's backbone,
    or the only one.

    Raises:
        WeightsError: The model has another stem than timm's patch projection.
    """
    backbone = getattr(model, "backbone", model)
    if not hasattr(backbone, "encoder"):
        raise WeightsError(f"a {type(model).__name__} has no vision transformer that timm knows")
    if backbone.config.stem != "patch":
        raise WeightsError(f"timm knows no stem {backbone.config.stem!r}: only networks with stem='patch' convert")
    return {name: value.detach().contiguous().clone() for name, value in backbone.encoder.state_dict().items()}
