"""The sections of a model card in Markdown, from facts; the order and the headings are the template's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoints import EMBEDDED_CHECKPOINT
from .evaluation.report import marks, own_data
from .model_card_comparisons import belongs_to
from .model_card_detections import detection_results
from .model_card_metadata import has_mesh, is_repository, kind
from .model_card_reports import cell, checksum, figures, groups, link_to, one_line, report_name, table

if TYPE_CHECKING:
    from .model_card import CardFacts

SUMMARIES = {
    "mesh": "3D hand meshes from single RGB images: one hand crop in, the mesh of the {hand} out.",
    "backbone": "A backbone for 3D hand mesh estimation, pre-trained on pictures of hands; it has no mesh head yet.",
    "detector": "Finds hands in photos: a whole photo in, boxes, sides and scores of its hands out.",
}
HANDS = {"open": "open hand (CC0)", "mano": "MANO hand"}
HAND_MODELS = {
    "open": "`open`: 1649 vertices, MANO's joints and parameter layout, not MANO's parameters (CC0-1.0)",
    "mano": "MANO: 778 vertices; not in this repository, bring your own file (not for commercial use)",
}
STEMS = {"residual": "a residual stem", "efficientnet": "EfficientNet-Lite0 up to stride 16"}
INTENDED = {
    "mesh": "For research on hands, for starting points of fine-tuning, and for trying out what hand meshes can do. "
    "Not for measuring people, medical use or identification. The scale is that of the hand model's shape, and depth "
    "follows the assumed focal length: one picture does not tell a small near hand from a large far one.",
    "backbone": "For research on hands: a starting point of fine-tuning, and features of pictures of hands.",
    "detector": "For finding hands in photos before a mesh is fitted, and as a starting point of fine-tuning. Not for "
    "identifying or watching people.",
}
NOT_EVALUATED = "Not evaluated yet: no figures are known of these weights."
LICENCES = {
    "open": "the open hand CC0-1.0",
    "mano": "MANO its own licence (<https://mano.is.tue.mpg.de/license.html>), not for commercial use, and no part of "
    "it is in this repository",
}
HANDMIM_PAPER = """\
```bibtex
@article{liu2023handmim,
  title   = {HandMIM: Pose-Aware Self-Supervised Learning for 3D Hand Mesh Estimation},
  author  = {Liu, Zuyan and Lin, Gaojie and Wang, Congyi and Zheng, Min and Zhu, Feida},
  journal = {arXiv preprint arXiv:2307.16061},
  year    = {2023}
}
```"""
HIU_DMTL_PAPER = """\
```bibtex
@inproceedings{zhang2021hand,
  title     = {Hand Image Understanding via Deep Multi-Task Learning},
  author    = {Zhang, Xiong and Huang, Hongsheng and Tan, Jianchao and Xu, Hongmin and Yang, Cheng and Peng, Guozhu and Wang, Lei and Liu, Ji},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision (ICCV)},
  year      = {2021}
}
```"""  # noqa: E501
PAPERS = {"handmim": HANDMIM_PAPER, "hiu_dmtl": HIU_DMTL_PAPER}


def sections(facts: CardFacts) -> dict[str, str]:
    """Markdown by the names of the template's fields; "" is left out of the card."""
    notes = facts.notes
    return {
        "title": cell(facts.name),
        "summary": notes.get("summary") or summary(facts.config),
        "pictures": pictures(facts),
        "facts": facts_table(facts),
        "use": use(facts),
        "use_without": use_without(facts),
        "reports": "\n\n".join(measured(facts) or [NOT_EVALUATED]),
        "results": notes.get("results", ""),
        "training": notes.get("training", ""),
        "recipe": recipe(facts.recipe),
        "limits": notes.get("limits", ""),
        "intended": notes.get("intended use") or INTENDED[kind(facts.config)],
        "licences": "\n\n".join(filter(None, [licences(facts), notes.get("licences", "")])),
        "citation": PAPERS.get(facts.config["model_type"], ""),
    }


def summary(config: Mapping[str, Any]) -> str:
    """One sentence about a checkpoint that nobody wrote about."""
    hand = HANDS.get(config.get("hand_model"), "hand")
    return SUMMARIES[kind(config)].format(hand=hand)


def pictures(facts: CardFacts) -> str:
    """What the notes say in this place, and the pictures that they do not show anywhere."""
    written = facts.notes.get("pictures", "")
    everywhere = "\n".join(facts.notes.values())
    links = [link_to(Path(picture).name) for picture in facts.pictures]
    added = [
        f"![{cell(facts.name)}]({link})" for link in links if not re.search(rf"\]\({re.escape(link)}[ )]", everywhere)
    ]
    return "\n\n".join(filter(None, [written, *added]))


# ---------------------------------------------------------------------------------------------------------------------
# Facts


def facts_table(facts: CardFacts) -> str:
    """Network, sizes, hand model, data; the rows of the notes come last."""
    config, hand = facts.config, facts.config.get("hand_model")
    rows = [("network", network(config))]
    rows.append(("parameters, size", f"{millions(facts.parameters)}, {size(facts.size_bytes)} ({cell(facts.dtype)})"))
    if (flops := known_flops(facts)) is not None:
        picture = "photo" if kind(config) == "detector" else "crop"
        rows.append(("arithmetic", f"{flops / 1e9:.2g} GFLOPs a {picture}, two for each multiply-add"))
    if has_mesh(config) and hand:
        rows.append(("hand model", HAND_MODELS.get(hand, cell(hand))))
    if facts.datasets:
        rows.append(("trained on", ", ".join(f"`{cell(name)}`" for name in facts.datasets)))
    if facts.base_model:
        rows.append(("starts from", linked(facts.base_model)))
    licence = f"| licence | {cell(facts.licence or 'not stated')} |"
    return "\n".join(filter(None, [table([("", ""), *rows]), facts.notes.get("facts", ""), licence]))


def network(config: Mapping[str, Any]) -> str:
    """The network in a few words."""
    if kind(config) == "detector":
        return f"EfficientNet-Lite0 with a feature pyramid; whole photos, {config.get('image_size', '?')} px"
    crop = f"{config.get('image_size', '?')} px crops, the hand a right one (left hands are mirrored)"
    stem = STEMS.get(config.get("stem"))
    if config["model_type"] == "hiu_dmtl":
        words = f"HIU-DMTL, {config.get('num_stacks', '?')} stacks"
        return f"{words} behind {stem}; {crop}" if stem else f"{words}; {crop}"
    words = f"vision transformer, {config.get('num_hidden_layers', '?')} blocks of width {config.get('hidden_size')}"
    if stem:
        words = f"hybrid {words} behind {stem}"
    if has_mesh(config):
        words += f", {config.get('num_feedback', '?')} feedback steps"
    return f"HandMIM: {words}; {crop}"


def known_flops(facts: CardFacts) -> int | None:
    """What the zoo counted, if this is a checkpoint of the zoo."""
    from .zoo import zoo

    entry = zoo().get(facts.name)
    return entry.flops if entry and entry.parameters == facts.parameters else None


def millions(count: int) -> str:
    """A number of parameters."""
    return f"{count / 1e6:.1f} M parameters" if count >= 100_000 else f"{count:,} parameters"


def size(count: int) -> str:
    """A number of bytes."""
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def linked(base: str) -> str:
    """A checkpoint's name, with a link if it is on the Hub."""
    return f"[{base}](https://huggingface.co/{base})" if is_repository(base) else cell(base)


# ---------------------------------------------------------------------------------------------------------------------
# Use


def use(facts: CardFacts) -> str:
    """Code for users of the package, which a test runs."""
    if kind(facts.config) == "detector":
        return use_detector(facts)
    if not has_mesh(facts.config):
        return fenced(
            "import handmim  # registers the model with transformers\n"
            "from transformers import AutoModel\n\n"
            f"backbone = AutoModel.from_pretrained({where(facts)})",
        )
    place = "" if facts.name == EMBEDDED_CHECKPOINT.name and in_the_wheel(facts) else where(facts)
    code = (
        "from handmim import HandMIM\n\n"
        f"model = HandMIM.from_pretrained({place})\n"
        'hands = model("photo.jpg")  # boxes=[[x0, y0, x1, y1]] where you know them, a little larger than the hand\n'
        "for hand in hands:\n"
        "    print(hand.handedness, hand.vertices.shape, hand.joints.shape)  # metres, in the camera of the picture\n"
        'hands[0].export("hand.glb")'
    )
    if in_the_wheel(facts):
        return fenced(code)
    pipe = (
        "import handmim  # registers the task\n"
        "from transformers import pipeline\n\n"
        f'hands = pipeline("hand-mesh-estimation", model={where(facts)})("photo.jpg")\n'
        'print(hands[0]["vertices"].shape)'
    )
    mano = "The hand model is yours to bring: `handmim mano install MANO_RIGHT.pkl`, once.\n\n"
    needs = mano if facts.config.get("hand_model") == "mano" else ""
    return f"{needs}{fenced(code)}\n\nThe same as a pipeline of transformers:\n\n{fenced(pipe)}"


def use_detector(facts: CardFacts) -> str:
    """Code for users of the package: as what finds the hands of a mesh model, and by itself."""
    name = '"open"' if in_the_wheel(facts) else where(facts)
    code = (
        "from handmim import HandMIM\n\n"
        f"model = HandMIM.from_pretrained(detector={name})\n"
        'for hand in model("photo.jpg"):\n'
        "    print(hand.box, hand.handedness)"
    )
    alone = (
        "from handmim.detection import resolve_detector\n"
        "from handmim.images import load_image\n\n"
        f'for hand in resolve_detector({name}).detect(load_image("photo.jpg").pixels):\n'
        "    print(hand.box, hand.handedness, hand.score)  # xyxy, pixels; a side or None"
    )
    return f"{fenced(code)}\n\nBoxes alone:\n\n{fenced(alone)}"


def use_without(facts: CardFacts) -> str:
    """Code for people without the package; "" where the repository does not carry the model's files."""
    if not (facts.carries_code and has_mesh(facts.config)):
        return ""
    code = (
        "from transformers import pipeline\n\n"
        f'pipe = pipeline("hand-mesh-estimation", model={where(facts)}, trust_remote_code=True)\n'
        'hands = pipe("photo.jpg", boxes=[[x0, y0, x1, y1]])  # without boxes the photo is taken to show one hand'
    )
    text = "Without the package, by the code in this repository (read it first), which brings no detector of hands:"
    return f"{text}\n\n{fenced(code)}"


def where(facts: CardFacts) -> str:
    """What a user types to name the checkpoint: a literal of Python."""
    known = facts.name if in_the_wheel(facts) else f"path/to/{facts.name}"
    name = one_line(facts.repo_id or known).replace("`", "'")
    return json.dumps(name, ensure_ascii=False)


def in_the_wheel(facts: CardFacts) -> bool:
    """Whether it comes with the package, where its name alone stands for it."""
    from .zoo import zoo

    entry = zoo().get(facts.name)
    return facts.repo_id is None and entry is not None and entry.status == "in the wheel"


def fenced(code: str) -> str:
    """Python code in Markdown."""
    return f"```python\n{code}\n```"


# ---------------------------------------------------------------------------------------------------------------------
# Results, training, licences


def measured(facts: CardFacts) -> list[str]:
    """All that was measured, a part for each file."""
    return [results(report, facts) for report in facts.reports] + [*map(detection_results, facts.detections)]


def results(report: Mapping[str, Any], facts: CardFacts) -> str:
    """One report: what was measured and how, tables, what was left out, the notes of the run."""
    others = [comparison for comparison in facts.comparisons if belongs_to(comparison, report)]
    rows = {" ".join([facts.name, *(f"({mark})" for mark in marks(report))]): values(report["metrics"])}
    for name, metrics in report["baselines"].items():
        rows[name] = values(metrics)
    for comparison in others:
        for name, method in comparison["methods"].items():
            rows.setdefault(name, method["metrics"])  # a baseline of the report leaves out what says nothing of it
    parts = [
        f"### {', '.join(cell(part) for part in (report['title'], own_data(report), report['split']) if part)}",
        f"{report['samples']} hands. {cell(report['protocol'])}",
        figures(rows, report["samples"]),
        groups(report),
        remarks(report, others),
        origin(report, others),
    ]
    return "\n\n".join(filter(None, parts))


def values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Measure -> value."""
    return {name: entry["value"] for name, entry in metrics.items()}


def remarks(report: Mapping[str, Any], others: list[Mapping[str, Any]]) -> str:
    """What could not be measured, and what the runs noted, as a list."""
    lines = [f"not measured: {cell(name)}, {cell(reason)}" for name, reason in report["omitted"].items()]
    lines += [cell(note) for note in report["notes"]]
    lines += [cell(note) for comparison in others for note in comparison["notes"]]
    return "\n".join(f"- {line}" for line in lines)


def origin(report: Mapping[str, Any], others: list[Mapping[str, Any]]) -> str:
    """Which files the figures are from, and how to get them again."""
    files = [f"`{report_name(file)}` (SHA-256 {checksum(file)})" for file in (report, *others)]
    text = f"Figures from {' and '.join(files)}"
    command = one_line(report.get("command") or "").replace("`", "")
    return f"{text}: `{command}`" if command else f"{text}."


def recipe(content: Mapping[str, Any] | None) -> str:
    """The recipe as YAML, folded away."""
    if not content:
        return ""
    from huggingface_hub.utils import yaml_dump

    from .model_card_metadata import clean

    text = yaml_dump(clean(content), sort_keys=False).strip().replace("```", "'''")
    name = cell(content.get("name") or "as it was run")
    return f"<details><summary>Recipe {name}</summary>\n\n```yaml\n{text}\n```\n\n</details>"


def licences(facts: CardFacts) -> str:
    """Of code, weights and hand model in one sentence."""
    hand = facts.config.get("hand_model") if has_mesh(facts.config) else None
    parts = [f"these weights {cell(facts.licence)}" if facts.licence else "of these weights none is stated"]
    parts += [LICENCES[hand]] if hand in LICENCES else []
    parts.append("the code of handmim Apache-2.0")
    text = "; ".join(parts) + "."
    return text[0].upper() + text[1:]
