"""Which checkpoints are found and accepted, and what is said of the others."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from stub_network import TINY

import handmim.checkpoints
from handmim import HandMIM, HandMIMConfig, HandMIMForMeshEstimation, InputError, ModelError
from handmim.checkpoints import EMBEDDED_CHECKPOINT, checkpoint_source, embedded_checkpoints
from handmim.mano_files import ManoFileNotFoundError


def copy(source: Path, target: Path) -> Path:
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_bad_checkpoints(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="no checkpoint could be loaded"):
        HandMIM.from_pretrained(tmp_path / "nowhere")
    folder = copy(tiny_checkpoint, tmp_path)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="damaged"):
        HandMIM.from_pretrained(folder)
    weights.write_bytes(whole)
    tensors = load_file(weights)
    del tensors["rectifiers.0.reduce1.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 weights .*rectifiers.0.reduce1.weight"):
        HandMIM.from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"damaged config\.json"):
        HandMIM.from_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="'bert'"):
        HandMIM.from_pretrained(folder)
    monkeypatch.setattr(handmim.checkpoints, "EMBEDDED_CHECKPOINT", tmp_path / "none")
    with pytest.raises(ModelError, match="carries no checkpoint"):
        HandMIM.from_pretrained()


def test_the_package_s_checkpoint_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (None, "handmim-tiny-open", Path("handmim-tiny-open")):
        assert checkpoint_source(name) == EMBEDDED_CHECKPOINT
    assert list(embedded_checkpoints())[0] == "handmim-tiny-open"
    for name, folder in embedded_checkpoints().items():
        assert checkpoint_source(name) == folder and (folder / "model.safetensors").is_file()
    assert checkpoint_source("org/handmim-tiny-open") == "org/handmim-tiny-open"
    (tmp_path / "handmim-tiny-open").mkdir()  # the user's own folder comes first
    assert checkpoint_source("handmim-tiny-open") == "handmim-tiny-open"


def test_missing_mano_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HANDMIM_MANO_DIR", raising=False)
    monkeypatch.setenv("HANDMIM_CACHE", str(tmp_path / "cache"))
    HandMIMForMeshEstimation(HandMIMConfig(**TINY | {"hand_model": "mano"})).save_pretrained(tmp_path / "model")
    with pytest.raises(ManoFileNotFoundError):
        HandMIM.from_pretrained(tmp_path / "model")
    with pytest.raises(ManoFileNotFoundError, match="here"):
        HandMIM.from_pretrained(tmp_path / "model", hand_model_path=tmp_path / "here")


def test_hand_model_path_is_for_mano(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="open hand"):
        HandMIM.from_pretrained(tiny_checkpoint, hand_model_path=tmp_path)


def test_a_folder_without_a_processor(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny_checkpoint / name).read_bytes())
    with pytest.warns(UserWarning, match=r"has no preprocessor_config\.json: crops are taken 1\.2 times as large"):
        model = HandMIM.from_pretrained(tmp_path, device="cpu")
    assert model.image_processor.size["height"] == TINY["image_size"]


def test_a_processor_that_cannot_be_read_is_not_replaced(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = copy(tiny_checkpoint, tmp_path)
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"has a damaged preprocessor_config\.json"):
        HandMIM.from_pretrained(folder, device="cpu")
