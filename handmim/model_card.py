"""The card of a checkpoint: what the README.md of its Hub repository says, made from facts and never from memory.

Sizes come from the weights' header, the network from `config.json`, figures from the reports of `handmim evaluate`,
and only sentences from people: a Markdown file of notes. What nobody knows is left out, and a checkpoint without
reports is said to be not evaluated. The wording stands in `assets/card_template.md` and `model_card_sections`, the
metadata in `model_card_metadata`. Nothing here needs torch.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from string import Template
from typing import Any

from .model_card_comparisons import belongs_to, is_comparison, load_comparison
from .model_card_detections import check_detection, is_detection, load_detection
from .model_card_reports import link_to, report_name
from .model_card_settings import difference, processor_values
from .model_card_weights import CardError, weights_checksum, weights_facts
from .zoo import ZooEntry, zoo

ASSETS = Path(__file__).parent / "assets"
TEMPLATE = ASSETS / "card_template.md"
MAX_CONFIG_BYTES = 1 << 20
MAX_NOTES_BYTES = 1 << 20
# What people may write about; a heading of another name is more likely a slip than a wish.
NOTE_SECTIONS = ("summary", "pictures", "facts", "results", "training", "limits", "intended use", "licences")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
_HEADING = re.compile(r"## +(.+?)\s*$")
# ![words](file.png), also with a title, and with <a name in angle brackets>.
_IMAGE = re.compile(r"""!\[([^\]\n]*)\]\([ \t]*(?:<([^>\n]+)>|([^)<\s]+))([ \t]+(?:"[^"\n]*"|'[^'\n]*'))?[ \t]*\)""")
_IMAGE_TAG = re.compile(r"<img\b", re.IGNORECASE)
_FIELD = re.compile(r"\$(\w+)")


@dataclass(frozen=True)
class CardFacts:
    """What a card says about one checkpoint.

    Attributes:
        name: Of the checkpoint, "handmim-tiny-open".
        repo_id: "org/name" on the Hub; None: not published.
        config: Contents of `config.json`.
        parameters: Learned numbers in the weights.
        size_bytes: Of the weights' files.
        dtype: Of most of the weights, "float16".
        licence: Of the weights, as SPDX names it; "" if nobody said.
        datasets: Names in the registry of data sets ("freihand", "synthetic"), or ids of the Hub ("org/name").
        base_model: What training started from: an id of the Hub, or words; None: from scratch, or nobody said.
        recipe: The recipe as it was run; None without one.
        reports: Evaluation reports as `evaluation.report` writes them.
        notes: Markdown by name of the section, written by people; `NOTE_SECTIONS` are the names.
        pictures: Files (on this machine) that the card shows; they lie beside the card under their last names.
        carries_code: Whether the repository holds the Python files of the model.
        comparisons: Figures of other methods on the samples of a report, as tests/benchmarks/real_photos.py writes.
        detections: Figures of a detector, as tests/benchmarks/hand_detection.py writes.
        revision: Branch on the Hub that the card goes to; None: "main".
    """

    name: str
    repo_id: str | None
    config: Mapping[str, Any]
    parameters: int
    size_bytes: int
    dtype: str
    licence: str
    datasets: tuple[str, ...] = ()
    base_model: str | None = None
    recipe: Mapping[str, Any] | None = None
    reports: tuple[Mapping[str, Any], ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    pictures: tuple[str, ...] = ()
    carries_code: bool = False
    comparisons: tuple[Mapping[str, Any], ...] = ()
    detections: tuple[Mapping[str, Any], ...] = ()
    revision: str | None = None

    @property
    def measurements(self) -> tuple[Mapping[str, Any], ...]:
        """All files of figures."""
        return (*self.reports, *self.comparisons, *self.detections)


def card_text(facts: CardFacts) -> str:
    """The whole README.md of a checkpoint: metadata for the Hub, and Markdown for people."""
    from .model_card_metadata import metadata_yaml
    from .model_card_sections import sections

    return filled(TEMPLATE.read_text(encoding="utf-8"), {"metadata": metadata_yaml(facts), **sections(facts)})


def filled(template: str, fields: Mapping[str, str]) -> str:
    """A template with its fields; paragraphs whose field is empty are left out, and headings with nothing below.

    Args:
        template: Markdown; `$name` is a field. A section, from one "## " to the next, is left out if all its fields
            are empty.
        fields: Markdown by name.
    """
    kept = []
    for part in re.split(r"(?m)^(?=## )", template):
        paragraphs = [(text, _FIELD.findall(text)) for text in part.strip("\n").split("\n\n")]
        if any(fields[name] for _, names in paragraphs for name in names):
            wanted = [text for text, names in paragraphs if not names or any(map(fields.get, names))]
            kept += [Template(text).substitute(fields).strip("\n") for text in wanted]
    return "\n\n".join(kept) + "\n"


# ---------------------------------------------------------------------------------------------------------------------
# Facts from files


def collect_facts(
    folder: str | Path,
    *,
    reports: Sequence[str | Path] = (),
    notes: str | Path | None = None,
    repo_id: str | None = None,
    licence: str | None = None,
    base_model: str | None = None,
    datasets: Sequence[str] | None = None,
    name: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    revision: str | None = None,
) -> CardFacts:
    """What is known about a checkpoint. Of the weights only the header is read, unless there are reports to check.

    Args:
        folder: With `config.json` and `model.safetensors` (or its shards).
        reports: Files that `handmim evaluate` wrote, and what tests/benchmarks/real_photos.py and, of detectors,
            hand_detection.py wrote.
        notes: Markdown file with sections "## limits", ...; pictures it names lie where it says, beside it.
        repo_id: "org/name", where it is or will be on the Hub.
        licence: SPDX name; None: what the zoo says about a checkpoint in the package, or of this name and network, else
            "".
        base_model: What training started from; None: what the recipe says.
        datasets: None: those of the recipe.
        name: None: the repository's, else that of a checkpoint in the package, else the recipe's, else the folder's.
        recipe: None: `recipe.yaml` of the folder, or of the run that the folder is the result of; the zoo's for the
            checkpoint in the package.
        revision: Branch on the Hub; None: "main".

    Raises:
        CardError: A file is missing, damaged or of another kind; a report is of another model.
        DataError: A report cannot be read.
    """
    folder = Path(folder)
    config = _config(folder)
    recipe = without_places(_recipe(folder) if recipe is None else recipe)
    name = name or _name(folder, repo_id, recipe)
    texts, pictures = ({}, ()) if notes is None else read_notes(Path(notes))
    measurements = _measured(reports)
    weights = weights_facts(folder)
    facts = CardFacts(
        name=name,
        repo_id=repo_id,
        config=config,
        licence=_licence(name, folder, config, weights["parameters"]) if licence is None else licence,
        datasets=tuple(_datasets(recipe) if datasets is None else datasets),
        base_model=base_model or _base_model(recipe),
        recipe=recipe,
        notes=texts,
        pictures=pictures,
        carries_code="auto_map" in config,
        revision=revision,
        **measurements,
        **weights,
    )
    for report in facts.reports:
        _check_report(report, facts, folder)
    for figures in facts.detections:
        check_detection(figures, folder)
    return facts


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"it is larger than {MAX_CONFIG_BYTES} bytes")
        config = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CardError(
            f"{folder} is no checkpoint: it has no config.json; name the folder of a saved model"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CardError(f"{path} cannot be read ({error}); save the model again") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise CardError(f"{path} names no model_type; save the model again with save_pretrained")
    return config


def _recipe(folder: Path) -> dict[str, Any] | None:
    """`recipe.yaml` of a run, whose models are in `release` and `checkpoint-*`; the zoo's for the package's own."""
    below = folder.name == "release" or folder.name.startswith("checkpoint-")
    paths = [folder / "recipe.yaml", *([folder.parent / "recipe.yaml"] if below else [])]
    found: Path | str | None = next((path for path in paths if path.is_file()), None)
    if found is None and _is_packaged(folder):
        found = zoo()[folder.name].recipe
    if found is None:
        return None
    from .training.recipe import load_recipe

    return load_recipe(found)


def without_places(value: Any) -> Any:
    """The same nested value; of texts that are places on a machine only the last part is left."""
    if isinstance(value, Mapping):
        return {str(key): without_places(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(entry) for entry in value]
    if isinstance(value, str) and "\n" not in value:
        if value.startswith("~") or PurePosixPath(value).is_absolute():
            return PurePosixPath(value).name
        windows = PureWindowsPath(value)  # takes both slashes
        if windows.drive or ".." in windows.parts:
            return windows.name if windows.name != ".." else ""
    return value


def _name(folder: Path, repo_id: str | None, recipe: Mapping[str, Any] | None) -> str:
    if repo_id:
        return repo_id.rsplit("/", 1)[-1]
    if _is_packaged(folder):  # its last recipe may have another name
        return folder.name
    return str((recipe or {}).get("name") or folder.resolve().name)


def _is_packaged(folder: Path) -> bool:
    """Whether it is the folder of a checkpoint in the package."""
    return folder.resolve().parent == ASSETS.resolve()


def _licence(name: str, folder: Path, config: Mapping[str, Any], parameters: int) -> str:
    """The zoo's, of a checkpoint in the package, or of one of a name in the zoo that is the network it says there."""
    if _is_packaged(folder):
        return zoo()[folder.name].licence if folder.name in zoo() else ""
    entry = zoo().get(name)
    return entry.licence if entry and _is_of_the_zoo(entry, config, parameters) else ""


def _is_of_the_zoo(entry: ZooEntry, config: Mapping[str, Any], parameters: int) -> bool:
    """Whether a network can be the zoo's: anybody may give theirs its name."""
    stated = [(config.get("image_size"), entry.image_size), (parameters, entry.parameters)]
    if entry.hand_model is not None:  # configurations of backbones name one as well
        stated.append((config.get("hand_model"), entry.hand_model))
    return entry.architecture in (config.get("architectures") or ()) and all(ours == its for ours, its in stated)


def _datasets(recipe: Mapping[str, Any] | None) -> list[str]:
    """Names in a recipe's sections of data, each once; a detector's scenes are synthetic, its photos are not."""
    names: list[Any] = ["synthetic"] if (recipe or {}).get("scenes") else []
    for section in ("data", "photos"):
        entries = (recipe or {}).get(section) or []
        entries = entries if isinstance(entries, list) else [entries]
        names += [entry.get("name") for entry in entries if isinstance(entry, Mapping)]
    return list(dict.fromkeys(str(name) for name in names if name))


def _base_model(recipe: Mapping[str, Any] | None) -> str | None:
    """What a fine-tuning recipe's model section starts from."""
    model = (recipe or {}).get("model") or (recipe or {}).get("detector")
    starts = [model.get(key) for key in ("checkpoint", "pretrained", "timm")] if isinstance(model, Mapping) else []
    start = next((value for value in starts if isinstance(value, str) and value and "$" not in value), None)
    if start is None or not (Path(start).exists() or Path(start).name == "release"):
        return start
    return f"a local checkpoint ({start})"  # "runs/small" looks like an id of the Hub


# ---------------------------------------------------------------------------------------------------------------------
# Reports


def _measured(paths: Sequence[str | Path]) -> dict[str, tuple[dict[str, Any], ...]]:
    """Reports of our evaluation, comparisons with other methods, and figures of detectors, by `CardFacts`' names."""
    from .evaluation.report import load

    reports: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for path in map(Path, paths):
        if is_comparison(path):
            comparisons.append(load_comparison(path))
        elif is_detection(path):
            detections.append(load_detection(path))
        else:
            reports.append(load(path))
    names = Counter(map(report_name, [*reports, *comparisons, *detections]))
    if max(names.values(), default=0) > 1:
        raise CardError(f"two reports are of the same run, {names.most_common(1)[0][0]}; give the one that counts")
    for comparison in comparisons:
        if not any(belongs_to(comparison, report) for report in reports):
            raise CardError(f"{report_name(comparison)} is on other samples than the reports; measure it on theirs")
    return {"reports": tuple(reports), "comparisons": tuple(comparisons), "detections": tuple(detections)}


def _check_report(report: Mapping[str, Any], facts: CardFacts, folder: Path) -> None:
    """Raises a CardError if a report cannot be about these weights with these settings."""
    what = f"the report on {report['title']}, {report['split']}"
    again = f"run handmim evaluate {report['benchmark']} --model on this checkpoint"
    model = report["model"]
    if model is None:
        raise CardError(f"{what} is of a submission, which does not say which weights made it; {again}")
    stated = {"parameters": facts.parameters, "hand_model": facts.config.get("hand_model")}
    if model.get("weights_checksum"):
        stated["weights_checksum"] = weights_checksum(folder, str(model.get("dtype")))
    for key, value in stated.items():
        if value is not None and model.get(key) != value:
            raise CardError(
                f"{what} is of another model: its {key} is {model.get(key)}, {facts.name} has {value}; {again}"
            )
    for place, ours in (("config", facts.config), ("processor", processor_values(folder))):
        differing = difference(model.get(place), ours)
        if differing:
            key, value, here = differing
            raise CardError(
                f"{what} was made with another {place}: its {key} is {value}, {facts.name} has {here}; {again}"
            )
    if not all(math.isfinite(entry["value"]) for entry in _figures(report)):
        raise CardError(f"{what} holds figures that are no numbers; {again}")


def _figures(report: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All figures of a report."""
    for row in (report["metrics"], *report["baselines"].values(), *report["groups"].values()):
        yield from row.values()


# ---------------------------------------------------------------------------------------------------------------------
# Notes


def read_notes(path: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Sections and pictures of a Markdown file that people wrote.

    Args:
        path: Sections start with "## NAME"; what comes before the first one is the summary. A first line "# TITLE" is
            for readers of the file.

    Returns:
        Markdown by section, and the pictures that it shows, as absolute names of files.

    Raises:
        CardError: No such file, not Markdown, a section of an unknown name or twice, a picture that is not there.
    """
    try:
        if path.stat().st_size > MAX_NOTES_BYTES:
            raise ValueError(f"it is larger than {MAX_NOTES_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CardError(f"the notes {path} cannot be read ({error}); give a Markdown file") from error
    found: dict[str, list[str]] = {"summary": []}
    current, fenced = found["summary"], False
    for number, line in enumerate(text.splitlines()):
        fenced ^= line.lstrip().startswith("```")
        heading = None if fenced else _HEADING.match(line)
        if heading:
            section = heading[1].lower()
            if section not in NOTE_SECTIONS or (section in found and any(found[section])):
                raise CardError(
                    f"{path}, line {number + 1}: section {heading[1]!r} must be one of {', '.join(NOTE_SECTIONS)}, "
                    "each once"
                )
            current = found.setdefault(section, [])
        elif not fenced and _IMAGE_TAG.search(re.sub(r"`[^`]*`", "", line)):
            raise CardError(
                f"{path}, line {number + 1}: the file of an <img> would stay behind; write ![words](file.png)"
            )
        elif not (number == 0 and line.startswith("# ")):
            current.append(line.rstrip())
    notes = {section: "\n".join(lines).strip() for section, lines in found.items()}
    pictures = dict.fromkeys(
        str(_picture(path, _link(match))) for note in notes.values() for match in _IMAGE.finditer(note)
    )
    names = Counter(Path(picture).name for picture in pictures)
    if max(names.values(), default=0) > 1:
        raise CardError(
            f"{path}: two pictures are named {names.most_common(1)[0][0]}, and both will lie beside the card"
        )
    shown = {section: _IMAGE.sub(_beside, note) for section, note in notes.items() if note}
    return shown, tuple(pictures)


def _picture(notes: Path, link: str) -> Path:
    """The file of a picture that notes name."""
    if "://" in link or PurePosixPath(link).is_absolute() or PureWindowsPath(link).drive:
        raise CardError(f"{notes}: the picture {link} must be a file beside the notes, by its relative name")
    file = (notes.parent / link).resolve()
    if file.suffix.lower() not in PICTURE_ENDINGS or not file.is_file():
        raise CardError(f"{notes}: the picture {link} must be a {', '.join(PICTURE_ENDINGS)} file that is there")
    return file


def _beside(match: re.Match[str]) -> str:
    """A picture's link as the card has it: the file lies beside the card."""
    return f"![{match[1]}]({link_to(PurePosixPath(_link(match)).name)}{match[4] or ''})"


def _link(match: re.Match[str]) -> str:
    return match[2] or match[3]


__all__ = ["CardError", "CardFacts", "card_text", "collect_facts"]
