"""The version of config.json: written, read, and refused with instructions where it is newer."""

import json
from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, pipeline

from handmim import HandMIM, HandMIMConfig, HIUDMTLConfig, ModelError
from handmim.config_format import FORMAT_VERSION, change_field

CONFIGS = pytest.mark.parametrize("config_class", [HandMIMConfig, HIUDMTLConfig])
NEWER = rf"config\.json of .*newer.* has format version {FORMAT_VERSION + 1}.* pip install -U handmim$"


def saved(config_class: type, folder: Path, **changes: object) -> Path:
    """A folder whose config.json has changed; None takes a field out."""
    config_class().save_pretrained(folder)
    file = folder / "config.json"
    values = {key: value for key, value in (json.loads(file.read_text()) | changes).items() if value is not None}
    file.write_text(json.dumps(values))
    return folder


@CONFIGS
def test_it_is_written_and_read(config_class: type, tmp_path: Path) -> None:
    folder = saved(config_class, tmp_path)
    assert json.loads((folder / "config.json").read_text())["format_version"] == FORMAT_VERSION
    assert AutoConfig.from_pretrained(folder).format_version == FORMAT_VERSION


@CONFIGS
def test_files_from_before_are_of_version_1(config_class: type, tmp_path: Path) -> None:
    folder = saved(config_class, tmp_path, format_version=None)
    assert "format_version" not in (folder / "config.json").read_text()
    assert config_class.from_pretrained(folder).format_version == 1


@CONFIGS
def test_a_newer_one_is_told_whatever_else_it_holds(config_class: type, tmp_path: Path) -> None:
    """Also where a field has a value that this package does not know: its strict check would speak of that."""
    newer = saved(
        config_class, tmp_path / "newer", format_version=FORMAT_VERSION + 1, hand_model="mano2", image_size="auto"
    )
    for load in (AutoConfig.from_pretrained, AutoModel.from_pretrained, HandMIM.from_pretrained):
        with pytest.raises(ModelError, match=NEWER):
            load(newer)
    with pytest.raises(ModelError, match=NEWER):
        pipeline("hand-mesh-estimation", model=str(newer))
    with pytest.raises(ModelError, match=r"^config\.json has format version"):
        config_class.from_pretrained(newer)


@CONFIGS
@pytest.mark.parametrize("wrong", [0, -1, 1.5, "1", True, FORMAT_VERSION + 1])
def test_what_is_no_version(config_class: type, wrong: object) -> None:
    with pytest.raises((StrictDataclassError, TypeError), match="format_version"):
        config_class(format_version=wrong)


@CONFIGS
@pytest.mark.parametrize(
    "name, value, message",
    [
        ("image_size", 90, "^image_size must be a multiple of"),
        ("image_size", "large", "^Field 'image_size' expected int"),
        ("fit_steps", 101, "^fit_steps must be from 0 to 100, got 101"),
    ],
)
def test_a_field_that_cannot_be_changed_stays(config_class: type, name: str, value: object, message: str) -> None:
    config = config_class()
    with pytest.raises(ValueError, match=message):
        change_field(config, name, value)
    assert config.to_dict() == config_class().to_dict()
    change_field(config, "image_size", 448)
    assert config.image_size == 448
