"""The card of a detector holds the figures of its weights and no others."""

import hashlib
import json
from pathlib import Path

import pytest

from handmim.configuration_hand_detector import HandDetectorConfig
from handmim.detector_card import FIGURES, FORMAT, detector_card
from handmim.model_card_weights import CardError
from handmim.modeling_hand_detector import HandDetectorForObjectDetection
from handmim.zoo import find

ENTRY = find("hand-detector-tiny-open")
NOTES = "# detector\n\n{facts}\n\nbetween\n\n{results}\n\nafter\n"


@pytest.fixture()
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Weights and sources."""
    weights, sources = tmp_path / "weights", tmp_path / "sources"
    small = HandDetectorConfig(image_size=64, widths=(4, 8, 8, 8, 8), depths=(1, 1, 1, 1), neck_width=8)
    HandDetectorForObjectDetection(small).save_pretrained(weights)
    sources.mkdir()
    (sources / "notes.md").write_text(NOTES)
    figures = {
        "format": FORMAT,
        "weights": hashlib.sha256((weights / "model.safetensors").read_bytes()).hexdigest(),
        "data": {"split": "dev", "photos": 5, "hands": 6, "empty": 2},
        "min_score": 0.3,
        "methods": {"open": {"recall": 0.8765, "pictures_s": 31.7}, "MediaPipe": {"recall": 0.9}},
    }
    (sources / FIGURES).write_text(json.dumps(figures))
    return weights, sources


def test_facts_and_figures_are_filled_in(folders: tuple[Path, Path]):
    text = detector_card(ENTRY, *folders)
    assert text.startswith("---\nlibrary_name: handmim\npipeline_tag: object-detection\nlicense: apache-2.0\n")
    assert "| recall, overlap 0.5 ↑ | 0.88 | 0.90 |" in text and "| photos a second ↑ | 32 | - |" in text
    assert "5 photos with 6 known hands, 2 without hands; scores from 0.3 on." in text
    assert f"{ENTRY.parameters / 1e6:.1f} M parameters" in text and "float32" in text
    assert "{" not in text and text.index("between") < text.index("recall") < text.index("after")


def test_figures_of_other_weights_are_refused(folders: tuple[Path, Path]):
    weights, sources = folders
    data = (weights / "model.safetensors").read_bytes()
    (weights / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CardError, match="is of other weights"):
        detector_card(ENTRY, weights, sources)


@pytest.mark.parametrize("missing", ["notes.md", FIGURES])
def test_what_is_missing_is_named(folders: tuple[Path, Path], missing: str):
    (folders[1] / missing).unlink()
    with pytest.raises(CardError, match="must hold notes.md and detection.json"):
        detector_card(ENTRY, *folders)


def test_notes_without_room_for_the_figures_are_refused(folders: tuple[Path, Path]):
    (folders[1] / "notes.md").write_text(NOTES.replace("{results}", ""))
    with pytest.raises(CardError, match=r"the word \{results\} once"):
        detector_card(ENTRY, *folders)
