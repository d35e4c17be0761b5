"""The metadata at the top of a model card, as the Hub reads it.

The Hub checks `license`, `datasets` and `model-index` when a card is pushed, and knows identifiers of its own for
libraries, tasks and licences (hub-docs: modelcard.md, repositories-licenses.md; huggingface.js: packages/tasks). What
it has no identifier for goes into the tags.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .evaluation.measures import MEASURES, heading
from .evaluation.report import marks, own_data
from .model_card_reports import checksum, one_line, report_name

if TYPE_CHECKING:
    from .model_card import CardFacts

HUB = "https://huggingface.co"
REPORTS_FOLDER = "evaluation"
# Of the Hub's tasks the one nearest to a mesh. Its pages offer no transformers pipeline of this name, which would fail.
TASKS = {"mesh": "image-to-3d", "backbone": "image-feature-extraction", "detector": "object-detection"}
KIND_TAGS = {
    "mesh": ("hand-mesh-estimation", "hand-pose-estimation", "3d-hand-pose"),
    "backbone": ("hand-features",),
    "detector": ("hand-detection",),
}
# SPDX names that the Hub knows, in lower case, as everything there.
LICENCES = frozenset(
    "apache-2.0 mit bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 isc zlib unlicense wtfpl mpl-2.0 epl-1.0 "
    "epl-2.0 gpl-2.0 gpl-3.0 lgpl-2.1 lgpl-3.0 agpl-3.0 afl-3.0 artistic-2.0 ecl-2.0 etalab-2.0 eupl-1.1 ms-pl ncsa "
    "ofl-1.1 osl-3.0 postgresql cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 "
    "cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 "
    "cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 other unknown".split()
)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def metadata_yaml(facts: CardFacts) -> str:
    """The block between the dashes, without them."""
    from huggingface_hub.utils import yaml_dump

    return yaml_dump(clean(metadata(facts)), sort_keys=False).strip()


def metadata(facts: CardFacts) -> dict[str, Any]:
    """The metadata as the Hub's specification has it; entries that say nothing are left out."""
    what = kind(facts.config)
    values: dict[str, Any] = {
        # The Hub shows code for transformers as soon as a card says so: AutoModel, with trust_remote_code where there
        # is code. Without code in the repository this fails; a library it does not know gets no code from it.
        "library_name": "transformers" if facts.carries_code and what != "backbone" else "handmim",
        "pipeline_tag": TASKS[what],
        **licence(facts.licence),
        "datasets": [name for name in facts.datasets if is_repository(name)],
        "tags": tags(facts),
    }
    if facts.base_model and is_repository(facts.base_model):
        values |= {"base_model": facts.base_model, "base_model_relation": "finetune"}
    results = [result(report, facts) for report in facts.reports if is_comparable(report)]
    if results:
        values["model-index"] = [{"name": facts.name, "results": results}]
    return {name: value for name, value in values.items() if value}


def kind(config: Mapping[str, Any]) -> str:
    """What a model gives: "mesh", "detector" (boxes) or "backbone" (features)."""
    names = [str(name) for name in config.get("architectures") or []]
    if any(name.endswith("ForObjectDetection") for name in names):
        return "detector"
    return "backbone" if any(name.endswith(("Model", "ForPreTraining")) for name in names) else "mesh"


def has_mesh(config: Mapping[str, Any]) -> bool:
    """Whether a model gives meshes."""
    return kind(config) == "mesh"


def is_repository(name: str) -> bool:
    """Whether this can be an id on the Hub, "org/name"."""
    return _REPOSITORY.fullmatch(name) is not None and ".." not in name and "--" not in name


def licence(spdx: str) -> dict[str, str]:
    """`license`, and `license_name` for one that the Hub has no identifier for; nothing where nobody said."""
    name = spdx.strip().lower()
    if not name or name in LICENCES:
        return {"license": name}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", name).strip("-")}


def tags(facts: CardFacts) -> list[str]:
    """Words to search for; also the data that the Hub has no id of."""
    known = ["handmim", "hand", *KIND_TAGS[kind(facts.config)]]
    known.append(str(facts.config["model_type"]).replace("_", "-"))
    if facts.config.get("hand_model") and has_mesh(facts.config):
        known.append({"open": "open-hand"}.get(facts.config["hand_model"], str(facts.config["hand_model"])))
    known += [f"trained-on-{name}" for name in facts.datasets if not is_repository(name)]
    return list(dict.fromkeys(known))


def is_comparable(report: Mapping[str, Any]) -> bool:
    """Whether the Hub may show a report's figures beside others: not those of a part of the samples."""
    return not report["options"].get("limit")


def result(report: Mapping[str, Any], facts: CardFacts) -> dict[str, Any]:
    """One entry of the `model-index`: its figures are those of the report, counts left out."""
    figures = {
        name: entry["value"] for name, entry in report["metrics"].items() if name in MEASURES and MEASURES[name].better
    }
    dataset = {"name": report["title"], "type": report["benchmark"], "split": report["split"]}
    apart = [*filter(None, [own_data(report)]), *marks(report)]
    if apart:
        dataset["config"] = ", ".join(apart)  # else figures of one data set are taken for the same
    dataset["args"] = {"samples": report["samples"], "report": report_name(report)}
    dataset["args"]["checksum"] = f"sha256:{checksum(report)}"  # bare digits with one e among them would be a number
    entry = {
        "task": {"type": TASKS["mesh"], "name": "Hand mesh estimation"},
        "dataset": dataset,
        "metrics": [
            {"type": name, "name": heading(name), "value": round(value, MEASURES[name].digits + 1), "verified": False}
            for name, value in figures.items()
        ],
    }
    if facts.repo_id:
        branch = quote(facts.revision or "main", safe="")  # "refs/pr/1" is one part of an address
        url = f"{HUB}/{facts.repo_id}/blob/{branch}/{REPORTS_FOLDER}/{report_name(report)}"
        entry["source"] = {"name": "report of handmim evaluate", "url": url}
    return entry


def clean(value: Any) -> Any:
    """The same nested value with every text on one line and of characters that YAML and UTF-8 have."""
    if isinstance(value, Mapping):
        return {clean(key): clean(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [clean(entry) for entry in value]
    return one_line(value) if isinstance(value, str) else value
