"""The card of a detector holds the figures of its weights and no others, and is published with its code."""

import json
from pathlib import Path

import pytest
import torch

from handmim.configuration_hand_detector import HandDetectorConfig
from handmim.image_processing_hand_detector import HandDetectorImageProcessor
from handmim.model_card import CardError, card_text, collect_facts
from handmim.model_card_detections import FORMAT, file_checksum, is_detection, load_detection
from handmim.modeling_hand_detector import HandDetectorForObjectDetection
from handmim.publishing import publish

FIGURES = {
    "format": FORMAT,
    "benchmark": "real-photos",
    "split": "dev",
    "counts": {"photos": 5, "hands": 6, "empty": 2},
    "min_score": 0.3,
    "methods": {"open": {"recall": 0.8765, "pictures_s": 31.7}, "MediaPipe": {"recall": 0.9}},
}


@pytest.fixture()
def weights(tmp_path: Path) -> Path:
    """A checkpoint with random weights, and its figures beside it."""
    small = HandDetectorConfig(image_size=64, neck_width=8)
    folder = tmp_path / "my-detector"
    torch.manual_seed(0)
    HandDetectorForObjectDetection(small).save_pretrained(folder)
    HandDetectorImageProcessor(size=64, overlap=0.4).save_pretrained(folder)
    (tmp_path / "figures.json").write_text(json.dumps(FIGURES | {"weights": file_checksum(folder)}))
    return folder


def test_the_card_holds_the_figures(weights: Path):
    text = card_text(collect_facts(weights, reports=[weights.parent / "figures.json"], licence="MIT"))
    assert "pipeline_tag: object-detection" in text and "- hand-detection" in text and "- hand-mesh" not in text
    assert "| recall, overlap 0.5 ↑ | 0.88 | 0.90 |" in text and "| photos a second ↑ | 32 | - |" in text
    assert "5 photos with 6 known hands, 2 without hands; scores from 0.3 on." in text
    assert "whole photos, 64 px" in text and 'detector="path/to/my-detector"' in text and "mesh of the" not in text
    assert "Not evaluated yet" in card_text(collect_facts(weights, licence="MIT"))


def test_figures_of_other_weights_are_refused(weights: Path):
    data = (weights / "model.safetensors").read_bytes()
    (weights / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CardError, match="are of other weights"):
        collect_facts(weights, reports=[weights.parent / "figures.json"], licence="MIT")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"weights": 3}, "'weights' must be str"),
        ({"methods": {"open": {"recall": "much"}}}, "figures of 'open' must be numbers"),
        ({"methods": {"open": [1]}}, "figures of 'open' must be numbers"),
        ({"counts": {"photos": float("nan")}}, "figures of 'counts' must be numbers"),
        ({"min_score": None}, "'min_score' must be float"),
    ],
)
def test_damaged_figures_are_refused(tmp_path: Path, change: dict, problem: str):
    path = tmp_path / "figures.json"
    path.write_text(json.dumps(FIGURES | {"weights": "00"} | change))
    assert is_detection(path)
    with pytest.raises(CardError, match=problem):
        load_detection(path)


def test_other_files_are_none(tmp_path: Path):
    (tmp_path / "a.json").write_text("[1")
    assert not is_detection(tmp_path / "a.json") and not is_detection(tmp_path / "absent.json")


def test_what_is_published_names_its_classes(weights: Path, tmp_path: Path):
    reports = [weights.parent / "figures.json"]
    out = publish(weights, "me/my-detector", reports=reports, licence="MIT", dry_run=tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    processor = json.loads((out / "preprocessor_config.json").read_text())
    assert config["auto_map"]["AutoModelForObjectDetection"].endswith(".HandDetectorForObjectDetection")
    assert config["auto_map"]["AutoConfig"].endswith(".HandDetectorConfig") and "custom_pipelines" not in config
    assert processor["auto_map"]["AutoImageProcessor"].endswith(".HandDetectorImageProcessor")
    assert processor["overlap"] == 0.4
    assert (out / "modeling_hand_detector.py").is_file() and not (out / "modeling_handmim.py").exists()
    assert (out / "evaluation" / "real-photos-dev-detection.json").is_file()
