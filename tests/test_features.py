"""Tests of what a backbone sees."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stub_network import TINY, picture

from handmim.errors import ModelError
from handmim.features import Features, extract_features, load_backbone


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-training checkpoint without a processor, as a Trainer leaves it."""
    from handmim import HandMIMConfig, HandMIMForPreTraining
    from handmim.configuration_pretraining_handmim import HandMIMPreTrainingConfig

    folder = tmp_path_factory.mktemp("pretrained")
    config = HandMIMConfig(
        **TINY, pretraining_config=HandMIMPreTrainingConfig.from_method("handmim_without_reconstruction")
    )
    HandMIMForPreTraining(config).save_pretrained(folder)
    return folder


def test_attention_is_what_the_last_block_computes(tiny_checkpoint: Path) -> None:
    backbone, processor = load_backbone(tiny_checkpoint)
    (features,) = extract_features(backbone, processor, picture())
    assert features.attention.shape == (1, 4, 4) and features.patch_tokens.shape == (4, 4, 64)
    assert 0 < features.attention.sum() < 1  # the class token keeps the rest
    layer = backbone.encoder.blocks[-1].attn
    layer.fused_attn = False
    weights = []
    hook = layer.attn_drop.register_forward_hook(lambda module, arguments, output: weights.append(output))
    for block in backbone.encoder.blocks:
        block.attn.fused_attn = False
    backbone.config._attn_implementation = "eager"
    with torch.no_grad():
        output = backbone(processor(picture(), return_tensors="pt")["pixel_values"])
    hook.remove()
    torch.testing.assert_close(features.attention.flatten(1), weights[0][0, :, 0, 1:])
    torch.testing.assert_close(features.class_token, output.pooler_output[0])


def test_a_hand_a_box_and_its_crop(tiny_checkpoint: Path) -> None:
    backbone, processor = load_backbone(tiny_checkpoint)
    found = extract_features(backbone, processor, picture(), [[5, 5, 60, 60], [40, 10, 100, 80]], ["left", "right"])
    assert len(found) == 2 and found[0].crop.shape == (64, 64, 3) and found[0].crop.dtype == np.uint8
    assert found[0].crop.std() > 5 and not torch.equal(found[0].class_token, found[1].class_token)


def test_components_separate_what_differs() -> None:
    tokens = torch.randn(8, 8, 16) * 0.01
    tokens[2:4, 2:4, 3] += 5  # four patches of another kind
    first = Features(np.zeros((8, 8, 3), np.uint8), torch.zeros(16), tokens, torch.ones(1, 8, 8)).components()[..., 0]
    assert first[2:4, 2:4].min() > 0.9 and first.sum() < 10


def test_a_picture_shows_every_head(tiny_checkpoint: Path) -> None:
    backbone, processor = load_backbone(tiny_checkpoint)
    sheet = extract_features(backbone, processor, picture())[0].picture()
    assert sheet.size == (3 * 260 + 4, 2 * 260 + 4)
    assert np.asarray(sheet)[4:260, 4:260].std() > 5


def test_pre_trained_and_wrong_checkpoints(pretrained: Path, tmp_path: Path) -> None:
    backbone, processor = load_backbone(pretrained)
    assert extract_features(backbone, processor, picture())[0].patch_tokens.isfinite().all()
    with pytest.raises(ModelError, match="no checkpoint"):
        load_backbone(tmp_path)


def test_command_writes_a_picture_for_each_hand(pretrained: Path, photo: Path, tmp_path: Path) -> None:
    from handmim.cli import main

    arguments = ["features", str(photo), "--model", str(pretrained), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--box", "5,5,60,60", "40,10,100,80"]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["photo.0.features.png", "photo.1.features.png"]
    assert Image.open(tmp_path / "out" / names[0]).size[0] > 500
    first_box = ["features", "--box", "5,5,60,60", str(photo), "--model", str(pretrained)]
    assert main([*first_box, "--out", str(tmp_path / "again")]) == 0 and len(list((tmp_path / "again").iterdir())) == 1
    assert main(["features", str(tmp_path / "none.jpg"), "--model", str(pretrained), "--out", str(tmp_path)]) == 1
