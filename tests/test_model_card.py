"""Cards say what files say: metadata as the Hub reads it, figures as reports hold them, code that runs."""

import ast
import dataclasses
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from conversion.build_model_cards import CARDS, SOURCES, WEIGHTS, facts, names, write_cards
from handmim.errors import DataError
from handmim.evaluation import report as reports
from handmim.evaluation.scores import Scores
from handmim.model_card import CardError, CardFacts, card_text, collect_facts, filled, read_notes
from handmim.model_card_comparisons import FORMAT
from handmim.model_card_detections import file_checksum
from handmim.model_card_metadata import LICENCES, clean, is_repository, licence
from handmim.model_card_reports import checksum, report_bytes, report_name
from handmim.model_card_weights import weights_checksum, weights_facts
from handmim.open_detector import OpenHandDetector
from handmim.synthesis import generate
from handmim.training.recipe import recipe_names
from handmim.zoo import zoo

REPOSITORY = Path(__file__).parents[1]
HINT = "run python conversion/build_model_cards.py"
FIGURES = {"pa_mpjpe": 13.472804, "mean_2d": 0.0936152, "found": 5}
HOSTILE = [
    "colon: \"quoted\" and 'single'",
    "first\n---\nsecond: injected",
    "---",
    "日本語, Grüße, \N{WAVING HAND SIGN}",
    "$metadata ${name} $$",
    "| a | b |\n|---|---|",
    "<script>alert(1)</script> [link](http://example.org) ![x](y) `code` ```",
    "\ud800 \x00 \x1b[0m \u2028 \u200b \x85",
    "- item\n# heading",
    "null",
    "x" * 300 + " --- " + "y" * 300,
]


def make_report(model: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    """A report as `handmim evaluate` builds it."""
    scores = Scores(
        metrics=dict(FIGURES),
        omitted={"vertices": "not labelled"},
        groups={"indoors": {"samples": 3, "mean_2d": 0.08}, "outdoors": {"samples": 2, "mean_2d": 0.11}},
    )
    values: dict[str, Any] = {
        "benchmark": "real-photos",
        "title": "annotated photographs",
        "protocol": "2D errors relative to the box.",
        "split": "dev",
        "samples": 5,
        "scores": scores,
        "baselines": {"mean hand": Scores(metrics={"mean_2d": 0.25, "found": 5})},
        "model": model,
        "data": {"checksum": "0123456789abcdef"},
        "options": {"tta": None, "limit": None, "trained_on": None},
        "notes": ["2 hands are left out"],
        "command": "handmim evaluate real-photos --model tiny",
    }
    return reports.build(**values | changes)


@pytest.fixture(scope="module")
def described(tiny_checkpoint: Path) -> dict[str, Any]:
    """The tiny checkpoint as reports describe models."""
    from handmim import HandMIMForMeshEstimation, HandMIMImageProcessor

    model = HandMIMForMeshEstimation.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    return reports.describe_model(model, HandMIMImageProcessor(size=64), str(tiny_checkpoint))


@pytest.fixture()
def save(tmp_path: Path, described: dict[str, Any]) -> Callable[..., Path]:
    """Writes a report on the tiny checkpoint, with changes, and gives its file."""

    def write(name: str = "report.json", **changes: Any) -> Path:
        reports.save(make_report(**{"model": described} | changes), tmp_path / name)
        return tmp_path / name

    return write


def plain_facts(**changes: Any) -> CardFacts:
    """Facts of nothing in particular."""
    config = {"model_type": "handmim", "architectures": ["HandMIMForMeshEstimation"], "hand_model": "open"}
    values = dict(
        name="tiny", repo_id="me/tiny", config=config, parameters=5, size_bytes=9, dtype="float32", licence="MIT"
    )
    return CardFacts(**values | changes)


def loaded(text: str) -> ModelCard:
    """A card as the Hub's client reads it; its metadata say the same when they are written again."""
    card = ModelCard(text)
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    return card


# ---------------------------------------------------------------------------------------------------------------------
# Facts


def test_facts_come_from_the_files(tiny_checkpoint: Path) -> None:
    from handmim import HandMIMForMeshEstimation

    found = collect_facts(tiny_checkpoint, repo_id="me/my-tiny")
    model = HandMIMForMeshEstimation.from_pretrained(tiny_checkpoint)
    assert found.name == "my-tiny" and found.config["hand_model"] == "open" and not found.carries_code
    assert found.parameters == sum(value.numel() for value in model.parameters())
    assert found.size_bytes == (tiny_checkpoint / "model.safetensors").stat().st_size and found.dtype == "float32"
    assert found.licence == "" and found.recipe is None and found.datasets == () and found.base_model is None


def test_sharded_weights_count_as_whole_ones(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from handmim import HandMIMForMeshEstimation

    model = HandMIMForMeshEstimation.from_pretrained(tiny_checkpoint)
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    whole, shards = weights_facts(tiny_checkpoint), weights_facts(tmp_path)
    assert shards | {"size_bytes": 0} == whole | {"size_bytes": 0}
    assert weights_checksum(tmp_path, "float32") == weights_checksum(tiny_checkpoint, "float32")


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_have_the_checksum_of_reports(stored: torch.dtype, tiny_checkpoint: Path, tmp_path: Path) -> None:
    from handmim import HandMIMForMeshEstimation

    HandMIMForMeshEstimation.from_pretrained(tiny_checkpoint, dtype=stored).save_pretrained(tmp_path)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        model = HandMIMForMeshEstimation.from_pretrained(tmp_path, dtype=dtype)
        assert weights_checksum(tmp_path, str(dtype).removeprefix("torch.")) == reports.weights_checksum(model)
    assert weights_checksum(tmp_path, "int8") is None


def test_a_report_of_other_bfloat16_weights_is_refused(
    tiny_checkpoint: Path, save: Callable[..., Path], tmp_path: Path, described: Any
) -> None:
    """Their checksum was not looked at."""
    from handmim import HandMIMForMeshEstimation

    folder = shutil.copytree(tiny_checkpoint, tmp_path / "tiny")
    HandMIMForMeshEstimation.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    model = HandMIMForMeshEstimation.from_pretrained(folder, dtype=torch.float32)
    same = described | {"weights_checksum": reports.weights_checksum(model)}
    assert collect_facts(folder, reports=[save(model=same)]).dtype == "bfloat16"
    with pytest.raises(CardError, match="of another model: its weights_checksum is"):
        collect_facts(folder, reports=[save()])


def test_what_is_no_checkpoint_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CardError, match="no config.json"):
        collect_facts(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CardError, match="no model_type"):
        collect_facts(tmp_path)
    (tmp_path / "config.json").write_bytes((tiny_checkpoint / "config.json").read_bytes())
    with pytest.raises(CardError, match="no model.safetensors"):
        collect_facts(tmp_path)
    weights = (tiny_checkpoint / "model.safetensors").read_bytes()
    for damaged in (b"", weights[:100], weights[:-10], b"\xff" * 100):
        (tmp_path / "model.safetensors").write_bytes(damaged)
        with pytest.raises(CardError, match="damaged"):
            collect_facts(tmp_path)


def test_a_run_gives_its_recipe_without_places(tiny_checkpoint: Path, tmp_path: Path) -> None:
    release = tmp_path / "run" / "release"
    release.parent.mkdir()
    release.symlink_to(tiny_checkpoint)
    recipe = {
        "name": "my-run",
        "model": {"checkpoint": "org/start"},
        "data": [{"name": "freihand", "root": "/home/somebody/data/FreiHAND"}, {"name": "folder", "root": "~/mine"}],
        "training": {"learning_rate": 1e-4, "output": "C:\\Users\\somebody\\out"},
    }
    (release.parent / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    found = collect_facts(release)
    assert found.name == "my-run" and found.base_model == "org/start" and found.datasets == ("freihand", "folder")
    text = card_text(found)
    assert "somebody" not in text and "FreiHAND" in text and "learning_rate: 0.0001" in text
    block = re.search(r"<details><summary>Recipe my-run</summary>\n\n```yaml\n(.*?)\n```\n\n</details>", text, re.S)
    assert yaml.safe_load(block[1]) == json.loads(json.dumps(found.recipe))
    (tmp_path / "start").mkdir()
    recipe["model"]["checkpoint"] = str(tmp_path / "start")
    assert collect_facts(release, recipe=recipe).base_model == "start"


def test_a_local_start_is_no_id_of_the_hub(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "small").mkdir(parents=True)
    for start in ("runs/small", "other/release"):
        found = collect_facts(tiny_checkpoint, recipe={"model": {"checkpoint": start}})
        assert "base_model" not in loaded(card_text(found)).data.to_dict()
        assert start in card_text(found)


# ---------------------------------------------------------------------------------------------------------------------
# Metadata


def test_metadata_are_those_that_the_hub_knows(tiny_checkpoint: Path, save: Callable[..., Path]) -> None:
    options = {"licence": "CC-BY-NC-4.0", "base_model": "org/start", "datasets": ["freihand", "org/hands"]}
    found = collect_facts(tiny_checkpoint, reports=[save()], repo_id="me/tiny", **options)
    card = loaded(card_text(found))
    data = card.data.to_dict()
    assert data["license"] == "cc-by-nc-4.0" and data["pipeline_tag"] == "image-to-3d"
    assert data["library_name"] == "handmim" and data["datasets"] == ["org/hands"]
    assert data["base_model"] == "org/start" and data["base_model_relation"] == "finetune"
    assert {"handmim", "hand-mesh-estimation", "trained-on-freihand"} <= set(data["tags"])
    with_code = loaded(card_text(dataclasses.replace(found, carries_code=True))).data
    assert with_code.library_name == "transformers"


def test_results_are_those_of_the_report(tiny_checkpoint: Path, save: Callable[..., Path]) -> None:
    path = save()
    report = reports.load(path)
    found = collect_facts(tiny_checkpoint, reports=[path], repo_id="me/tiny")
    card = loaded(card_text(found))
    figures = {result.metric_type: result for result in card.data.eval_results}
    assert set(figures) == {"pa_mpjpe", "mean_2d"}  # the number of hands found is no measure
    assert figures["pa_mpjpe"].metric_value == 13.473 and figures["pa_mpjpe"].metric_name == "PA-MPJPE, mm"
    for result in figures.values():
        assert math.isclose(result.metric_value, FIGURES[result.metric_type], rel_tol=1e-3)
        assert result.verified is False and result.dataset_type == "real-photos" and result.dataset_split == "dev"
        assert result.source_url == "https://huggingface.co/me/tiny/blob/main/evaluation/real-photos-dev.json"
    assert report_bytes(report) == path.read_bytes(), "the check sum is not that of the file"
    assert f"`real-photos-dev.json` (SHA-256 {reports.file_checksum(path)[:12]})" in card.text
    for row in (
        "| **tiny** | 13.47 | 0.094 | 5 of 5 |",
        "| mean hand | - | 0.250 | 5 of 5 |",
        "| indoors | 3 | 0.080 |",
        "- not measured: vertices, not labelled",
        "- 2 hands are left out",
        "5 hands. 2D errors relative to the box.",
    ):
        assert row in card.text


def test_reports_of_several_runs_stay_apart(tiny_checkpoint: Path, save: Callable[..., Path]) -> None:
    turned = {"options": {"tta": ["views"], "limit": None}}
    part = {"options": {"tta": None, "limit": 5}}
    paths = [save("a.json"), save("b.json", **turned), save("c.json", **part)]
    text = card_text(collect_facts(tiny_checkpoint, reports=paths, repo_id="me/tiny"))
    results = loaded(text).data.to_dict()["model-index"][0]["results"]
    assert [result["dataset"].get("config") for result in results] == [None, "TTA"], "a part of the samples is shown"
    assert "**tiny (TTA)**" in text and "**tiny (first 5 samples)**" in text
    with pytest.raises(CardError, match="real-photos-dev.json; give the one that counts"):
        collect_facts(tiny_checkpoint, reports=[save("a.json"), save("d.json")])


def test_reports_on_two_data_sets_of_ones_own_stay_apart(tiny_checkpoint: Path, save: Callable[..., Path]) -> None:
    """They were taken for two reports of the same run."""
    names = ("kitchen", "My <Garage>")
    folder = {"benchmark": "folder", "title": "labelled folder", "split": "labels"}
    paths = [save(f"{i}.json", **folder, data={"root_name": name}) for i, name in enumerate(names)]
    found = collect_facts(tiny_checkpoint, reports=paths, repo_id="me/tiny")
    text = card_text(found)
    assert [report_name(report) for report in found.reports] == [
        "folder-kitchen-labels.json",
        "folder-my-garage-labels.json",
    ]
    assert "### labelled folder, kitchen, labels" in text and r"### labelled folder, My \<Garage\>, labels" in text
    results = loaded(text).data.to_dict()["model-index"][0]["results"]
    assert [result["dataset"]["config"] for result in results] == list(names)


@pytest.mark.parametrize(
    ("benchmark", "root_name", "name"),
    [("real-photos", "kitchen", "kitchen"), ("real-photos", "Real_photos", None), ("freihand", "x", None),
     ("real-photos", "real", None), ("real-photos", "real photos", None), ("folder", "folder", None),
     ("folder", None, None), ("folder", "日", "日")],
)  # fmt: skip
def test_whose_name_is_said(benchmark: str, root_name: str | None, name: str | None) -> None:
    assert reports.own_data({"benchmark": benchmark, "data": {"root_name": root_name}}) == name


def test_without_reports_no_figure_is_invented(tiny_checkpoint: Path) -> None:
    card = loaded(card_text(collect_facts(tiny_checkpoint, repo_id="me/tiny")))
    assert "Not evaluated yet" in card.text and card.data.eval_results is None
    assert "license" not in card.data.to_dict() and "| licence | not stated |" in card.text
    assert not re.search(r"\d mm\b|PCK|MPJPE", card.text), "figures out of nowhere"
    assert "## Training" not in card.text and "## Limits" not in card.text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_texts(text: str) -> None:
    report = make_report(
        {"name": text},
        title=text,
        split=text,
        protocol=text,
        notes=[text],
        command=text,
        scores=Scores(metrics=FIGURES, omitted={text: text}, groups={text: {"samples": 1, "mean_2d": 0.1}}),
        baselines={text: Scores(metrics={"mean_2d": 0.2})},
    )
    other = {"benchmark": "real-photos", "data": report["data"], "methods": {text: {"metrics": {}}}, "notes": [text]}
    found = plain_facts(
        name=text,
        repo_id=None,
        licence=text,
        datasets=(text, "org/hands"),
        base_model=text,
        recipe={"name": text, "training": {text: text}},
        reports=(report,),
        comparisons=(other,),
        dtype=text,
    )
    card = loaded(card_text(found).encode().decode())
    data = card.data.to_dict()
    keys = {"library_name", "pipeline_tag", "license", "license_name", "datasets", "tags", "model-index"}
    assert set(data) - {"license_name"} == keys - {"license_name"}
    assert data["datasets"] == ["org/hands"] and data["license"] == "other"
    assert data["model-index"][0]["name"] == clean(text) or not clean(text)
    assert card.text.count("\n## ") == card_text(plain_facts(reports=(make_report({}),))).count("\n## ") + 1
    outside = re.sub(r"```.*?```|`[^`\n]*`", "", card.text, flags=re.S)
    assert "<script>" not in outside.replace("\\<", "") and "](http://example.org)" not in outside.replace("\\]", "")
    tables = re.findall(r"(?:^\|.*\|\n?)+", card.text, re.M)
    for table in tables:
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in table.strip().splitlines()]
        assert len(set(cells)) == 1, table


def test_licences_have_the_hubs_names() -> None:
    assert licence("Apache-2.0") == {"license": "apache-2.0"} and licence("") == {"license": ""}
    assert licence("LicenseRef-My Own 2") == {"license": "other", "license_name": "licenseref-my-own-2"}
    assert {entry.licence.lower() for entry in zoo().values()} <= LICENCES


@pytest.mark.parametrize("name", ["org/name", "o-r.g/na_me-2"])
def test_ids_of_the_hub(name: str) -> None:
    assert is_repository(name)


@pytest.mark.parametrize("name", ["name", "a/b/c", "../x", "a/..b", "/abs", "a b/c", "org/", "org/name\n", "runs/a--b"])
def test_other_names_are_none(name: str) -> None:
    assert not is_repository(name)


def test_evaluation_reads_the_training_data_of_a_card(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card_text(plain_facts(datasets=("freihand", "org/hands"))))

    class Model:
        config = object()

    assert reports.training_set(Model, str(tmp_path)) == ["org/hands", "freihand"]


# ---------------------------------------------------------------------------------------------------------------------
# Reports and comparisons


def test_a_report_of_other_weights_is_refused(tiny_checkpoint: Path, save: Callable[..., Path], described: Any) -> None:
    for key, value in (("weights_checksum", "0" * 64), ("parameters", 7), ("hand_model", "mano")):
        with pytest.raises(CardError, match=f"of another model: its {key} is {value}"):
            collect_facts(tiny_checkpoint, reports=[save(model=described | {key: value})])
    with pytest.raises(CardError, match="is of a submission"):
        collect_facts(tiny_checkpoint, reports=[save(model=None, submission={"file": "pred.json"})])


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("config.json", "num_feedback", 2),
        ("config.json", "fit_steps", 9),
        ("config.json", "fit_turn", 0.7),
        ("config.json", "orientation_frame", "ray"),
        ("config.json", "mean_camera", [1.0, 0.0, 0.5]),
        ("preprocessor_config.json", "box_scale", 2.0),
        ("preprocessor_config.json", "image_mean", [0.4, 0.5, 0.5]),
        ("preprocessor_config.json", "size", {"height": 96, "width": 96}),
    ],
)
def test_a_report_made_with_other_settings_is_refused(
    tiny_checkpoint: Path, save: Callable[..., Path], tmp_path: Path, file: str, field: str, value: object
) -> None:
    """The same weights predict something else with them."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "tiny")
    settings = json.loads((folder / file).read_text())
    assert settings[field] != value
    (folder / file).write_text(json.dumps(settings | {field: value}))
    with pytest.raises(CardError, match=f"made with another (config|processor): its {field} is .*handmim evaluate"):
        collect_facts(folder, reports=[save()])


def test_reports_without_settings_and_settings_of_training_are_no_matter(
    tiny_checkpoint: Path, save: Callable[..., Path], tmp_path: Path, described: Any
) -> None:
    older = {key: value for key, value in described.items() if key not in ("config", "processor")}
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"drop_path_rate": 0.3, "transformers_version": "5.0.0"}))
    assert collect_facts(folder, reports=[save()]).reports
    (folder / "config.json").write_text(json.dumps(config | {"fit_steps": 9}))
    assert collect_facts(folder, reports=[save(model=older)]).reports
    (folder / "preprocessor_config.json").write_text("[1")
    with pytest.raises(CardError, match="preprocessor_config.json cannot be read"):
        collect_facts(folder, reports=[save(model=older)])


def test_a_damaged_report_is_refused(tiny_checkpoint: Path, save: Callable[..., Path]) -> None:
    report = json.loads(save().read_text())
    path = save()
    for group in ({"mean_2d": "0.1"}, {"mean_2d": None}, {"mean_2d": {"value": "0.1"}}):
        path.write_text(json.dumps(report | {"groups": {"part": group}}))
        with pytest.raises(DataError, match="'mean_2d' has no number"):
            collect_facts(tiny_checkpoint, reports=[path])
    path.write_text(json.dumps(report | {"metrics": {"mean_2d": {"value": math.nan}}}))
    with pytest.raises(CardError, match="figures that are no numbers"):
        collect_facts(tiny_checkpoint, reports=[path])
    path.write_text("{")
    with pytest.raises(DataError, match="not a report"):
        collect_facts(tiny_checkpoint, reports=[path])


def test_other_methods_stand_beside_the_report(
    tiny_checkpoint: Path, save: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "comparison.json"
    comparison = {
        "format": FORMAT,
        "benchmark": "real-photos",
        "data": {"checksum": "0123456789abcdef"},
        "methods": {"another method": {"metrics": {"mean_2d": 0.053, "found": 4}, "groups": {}}},
        "notes": ["a hand it misses counts as error 1"],
    }
    path.write_text(json.dumps(comparison, indent=1))
    text = card_text(collect_facts(tiny_checkpoint, reports=[save(), path], repo_id="me/tiny"))
    assert "| another method | - | 0.053 | 4 of 5 |" in text and "- a hand it misses counts as error 1" in text
    assert f"and `real-photos-comparison.json` (SHA-256 {reports.file_checksum(path)[:12]})" in text
    assert len(loaded(text).data.eval_results) == 2, "another method's figures are not the model's"
    path.write_text(json.dumps(comparison | {"data": {"checksum": "other"}}))
    with pytest.raises(CardError, match="on other samples"):
        collect_facts(tiny_checkpoint, reports=[save(), path])
    for wrong in ({"methods": []}, {"methods": {"m": {"metrics": {"mean_2d": "0"}}}}, {"notes": None}):
        path.write_text(json.dumps(comparison | wrong))
        with pytest.raises(CardError, match="must be"):
            collect_facts(tiny_checkpoint, reports=[save(), path])


def test_names_of_reports_are_names_of_files() -> None:
    assert report_name(make_report(None, benchmark="../../x", split="A b/c")) == "x-a-b-c.json"
    assert report_name(make_report(None, benchmark="日", split="..")) == "report.json"
    assert len(checksum(make_report(None))) == 12


# ---------------------------------------------------------------------------------------------------------------------
# Notes and template


NOTES = """# For readers of the file

## Summary

Hands of *robots*.

## Pictures

![two hands](pictures/hands.png)

## facts

| hardware | one GPU |

## Limits

```yaml
## not a heading
```

- Gloves.
"""


def test_notes_are_sections_by_name(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "hands.png").write_bytes(b"png")
    path = tmp_path / "notes.md"
    path.write_text(NOTES)
    found = collect_facts(tiny_checkpoint, notes=path)
    assert set(found.notes) == {"summary", "pictures", "facts", "limits"}
    assert found.pictures == (str(tmp_path / "pictures" / "hands.png"),)
    text = card_text(found)
    assert "Hands of *robots*." in text and "![two hands](hands.png)" in text and text.count("hands.png") == 1
    assert "\n| hardware | one GPU |\n| licence | not stated |\n" in text
    assert "## Limits\n\n```yaml\n## not a heading\n```\n\n- Gloves." in text
    assert "![tiny](more.png)" in card_text(dataclasses.replace(found, pictures=("/somewhere/more.png",)))


def test_pictures_in_all_ways_of_markdown_go_along(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Those with a title or in angle brackets stayed behind, and the card showed nothing."""
    for name in ("a.png", "b c.png", "d.png"):
        (tmp_path / name).write_bytes(b"png")
    path = tmp_path / "notes.md"
    path.write_text("![a](a.png \"of A\") and ![b](<b c.png>)\n\n![d]( <d.png> 'of D' )\n\nUse `<img>` elsewhere.\n")
    found = collect_facts(tiny_checkpoint, notes=path)
    assert [Path(picture).name for picture in found.pictures] == ["a.png", "b c.png", "d.png"]
    text = card_text(found)
    assert "![a](a.png \"of A\") and ![b](<b c.png>)\n\n![d](d.png 'of D')" in text and text.count(".png") == 3
    assert "![tiny](<e f.png>)" in card_text(dataclasses.replace(found, pictures=("/somewhere/e f.png",)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('x\n\n<IMG src="t.png">', "line 3: the file of an <img> would stay behind; write ![words](file.png)"),
        ('![x](missing.png "title")', "missing.png must be"),
        ("![x](<missing one.png>)", "missing one.png must be"),
        ("## Limit\n\nx", "line 1: section 'Limit' must be one of summary"),
        ("## limits\n\nx\n## Limits\n\ny", "each once"),
        ("![x](missing.png)", "missing.png must be"),
        ("![x](/etc/passwd.png)", "relative name"),
        ("![x](https://example.org/x.png)", "relative name"),
        ("![x](notes.md)", "must be a .png"),
    ],
)
def test_wrong_notes_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text(text)
    with pytest.raises(CardError, match=re.escape(message)):
        read_notes(path)


def test_notes_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="cannot be read"):
        read_notes(tmp_path / "missing.md")
    (tmp_path / "notes.md").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(CardError, match="cannot be read"):
        read_notes(tmp_path / "notes.md")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes(b"png")
    (tmp_path / "notes.md").write_text("![a](a/x.png) ![b](b/x.png)")
    with pytest.raises(CardError, match="two pictures are named x.png"):
        read_notes(tmp_path / "notes.md")


def test_sections_without_content_are_left_out() -> None:
    template = "# $title\n\n$one\n\n## A\n\nalways\n\n$one\n\n$two\n\n## B\n\nnever\n\n$three\n"
    fields = {"title": "T", "one": "", "two": "x $one\n\n## y", "three": ""}
    assert filled(template, fields) == "# T\n\n## A\n\nalways\n\nx $one\n\n## y\n"


# ---------------------------------------------------------------------------------------------------------------------
# Code of the cards


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)\n```", text, re.S)


def test_the_snippets_run(
    tiny_checkpoint: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against a folder that is called as the repository is."""
    monkeypatch.setattr(OpenHandDetector, "is_here", lambda: False)  # which finds no hand in this picture
    monkeypatch.chdir(photo.parent)
    Path("photo.jpg").write_bytes(photo.read_bytes())
    Path("me").mkdir()
    Path("me/tiny").symlink_to(tiny_checkpoint)
    blocks = python_blocks(card_text(collect_facts(tiny_checkpoint, repo_id="me/tiny")))
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "card", "exec"), {})
    assert capsys.readouterr().out.count("(1649, 3)") == 2 and Path("hand.glb").stat().st_size > 10_000


def test_the_snippet_of_a_backbone_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from handmim import HandMIMConfig, HandMIMImageProcessor, HandMIMModel

    monkeypatch.chdir(tmp_path)
    size = dict(image_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=1, feature_layers=[1])
    HandMIMModel(HandMIMConfig(**size)).save_pretrained("me/backbone")
    HandMIMImageProcessor(size=32).save_pretrained("me/backbone")
    card = loaded(card_text(collect_facts("me/backbone", repo_id="me/backbone")))
    assert card.data.pipeline_tag == "image-feature-extraction" and "no mesh head" in card.text
    assert "hand model" not in card.text
    (block,) = python_blocks(card.text)
    scope: dict[str, Any] = {}
    exec(compile(block, "card", "exec"), scope)
    assert type(scope["backbone"]) is HandMIMModel


def test_code_in_the_repository_is_told_and_asked_for() -> None:
    without, with_code = (python_blocks(card_text(plain_facts(carries_code=flag))) for flag in (False, True))
    assert not any("trust_remote_code" in block for block in without)
    assert [block for block in with_code if block not in without] == [
        "from transformers import pipeline\n\n"
        'pipe = pipeline("hand-mesh-estimation", model="me/tiny", trust_remote_code=True)\n'
        'hands = pipe("photo.jpg", boxes=[[x0, y0, x1, y1]])  # without boxes the photo is taken to show one hand'
    ]


def test_a_mano_checkpoint_says_what_it_needs() -> None:
    config = {"model_type": "hiu_dmtl", "architectures": ["HIUDMTLForHandUnderstanding"], "hand_model": "mano"}
    text = card_text(plain_facts(config=config | {"num_stacks": 2, "image_size": 256}))
    assert "handmim mano install" in text and "zhang2021hand" in text and "liu2023handmim" not in text
    assert "HIU-DMTL, 2 stacks; 256 px crops" in text and "not for commercial use" in text
    text = card_text(plain_facts(config=config | {"num_stacks": 2, "stem": "efficientnet"}))
    assert "HIU-DMTL, 2 stacks behind EfficientNet-Lite0 up to stride 16; " in text


def test_cards_need_no_torch() -> None:
    for path in sorted((REPOSITORY / "handmim").glob("model_card*.py")):
        for node in ast.parse(path.read_text()).body:
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {module.split(".")[0] for module in modules} & {"torch", "transformers", "huggingface_hub"}


# ---------------------------------------------------------------------------------------------------------------------
# The cards in the repository


@pytest.mark.parametrize("name", ["handmim-tiny-open", "hiu-dmtl-tiny-open"])
def test_comparisons_are_of_the_weights_in_the_package(name: str) -> None:
    weights = json.loads((SOURCES / name / "real-photos-comparison.json").read_bytes())["weights"]
    assert weights == {name: file_checksum(WEIGHTS / name) for name in weights} != {}


def test_rebuilding_gives_the_same_cards(tmp_path: Path) -> None:
    written = [path.name for path in write_cards(tmp_path)]
    assert set(written) == {path.name for path in CARDS.glob("*.md")}, HINT
    for name in written:
        assert (tmp_path / name).read_bytes() == (CARDS / name).read_bytes(), f"{name}: {HINT}"


def test_every_checkpoint_with_weights_has_a_card_and_no_other() -> None:
    assert set(names()) == {path.stem for path in CARDS.glob("*.md")} == {path.name for path in SOURCES.iterdir()}
    assert set(names()) == {path.parent.name for path in WEIGHTS.glob("*/model.safetensors")}
    assert set(names()) == {name for name, entry in zoo().items() if entry.status in ("in the wheel", "on the Hub")}


MESH_CARDS = sorted(path.stem for path in CARDS.glob("*.md") if zoo()[path.stem].hand_model)


@pytest.mark.parametrize("name", MESH_CARDS)
def test_cards_agree_with_the_zoo(name: str) -> None:
    entry, found = zoo()[name], facts(name)
    text = (CARDS / f"{name}.md").read_text()
    config = json.loads((REPOSITORY / "hub_configs" / name / "config.json").read_text())
    assert (found.parameters, found.licence) == (entry.parameters, entry.licence)
    assert found.config["architectures"] == config["architectures"] == [entry.architecture]
    assert found.config["hand_model"] == config["hand_model"] == entry.hand_model
    assert found.config["image_size"] == config["image_size"] == entry.image_size
    assert entry.recipe in recipe_names() and found.recipe["name"] == entry.recipe
    assert f"{entry.parameters / 1e6:.1f} M parameters" in text and f"{entry.image_size} px crops" in text
    assert f"{entry.flops / 1e9:.2g} GFLOPs" in text and f"| licence | {entry.licence} |" in text
    assert loaded(text).data.license == entry.licence.lower()


@pytest.mark.parametrize("name", sorted(path.stem for path in CARDS.glob("*.md")))
def test_pictures_and_sources_of_the_cards_are_there(name: str) -> None:
    text = (CARDS / f"{name}.md").read_text()
    links = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert links and all((CARDS / link).is_file() for link in links)
    for path in (SOURCES / name).glob("*.json"):
        assert f"`{path.name}` (SHA-256 {reports.file_checksum(path)[:12]})" in text
        strings = re.findall(r'"((?:[^"\\]|\\.)*)"', path.read_text())
        assert not [value for value in strings if value.startswith(("/", "~")) or re.search(r"\w/\w+/\w", value)]


def test_the_card_in_the_wheel_runs(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(OpenHandDetector, "is_here", lambda: False)
    monkeypatch.chdir(photo.parent)
    Path("photo.jpg").write_bytes(photo.read_bytes())
    (block,) = python_blocks((CARDS / "handmim-tiny-open.md").read_text())
    exec(compile(block, "card", "exec"), {})
    assert "(1649, 3) (21, 3)" in capsys.readouterr().out


def test_the_card_of_the_second_family_loads_it(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code named no checkpoint, and loaded the first family's."""
    monkeypatch.setattr(OpenHandDetector, "is_here", lambda: False)
    monkeypatch.chdir(photo.parent)
    Path("photo.jpg").write_bytes(photo.read_bytes())
    (block,) = python_blocks((CARDS / "hiu-dmtl-tiny-open.md").read_text())
    names: dict[str, Any] = {}
    exec(compile(block, "card", "exec"), names)
    assert names["model"].model.config.model_type == "hiu_dmtl" and names["hands"][0].mask is not None


def test_the_card_of_the_detector_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("handmim.mediapipe_detector.find_spec", lambda name: None)
    batch = generate(5, range(1, 2), size=192, variety="plain")
    Image.fromarray(batch.images[0].numpy()).save("photo.jpg")
    first, second = python_blocks((CARDS / "hand-detector-tiny-open.md").read_text())
    for block in (first, second):
        exec(compile(block, "card", "exec"), {})
        assert re.search(r"^\[[\d. ]+\] (left|right|None)", capsys.readouterr().out)


def test_figures_of_the_shipped_card_are_those_of_its_reports() -> None:
    """The card says in Markdown what the JSON says, whoever wrote the Markdown."""
    text = (CARDS / "handmim-tiny-open.md").read_text()
    report = reports.load(SOURCES / "handmim-tiny-open" / "real-photos-dev.json")
    rows = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in text.splitlines() if line[:1] == "|"}
    assert np.isclose(float(rows["PA-MPJPE, mm ↓"]), report["metrics"]["pa_mpjpe"]["value"], atol=0.005)
    assert np.isclose(float(rows["2D error / box ↓"]), report["metrics"]["mean_2d"]["value"], atol=5e-4)
    assert np.isclose(float(rows["mask IoU ↑"]), report["metrics"]["mask_iou"]["value"], atol=5e-4)
