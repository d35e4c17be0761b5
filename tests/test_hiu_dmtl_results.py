"""From picture to results with a HIU-DMTL checkpoint: pipeline, `Hand`, files; its network has random weights."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stub_network import TINY_HIU, picture, stub_model
from transformers import pipeline

from handmim import Hand, HandMIM, HandMIMImageProcessor, HIUDMTLConfig, HIUDMTLForHandUnderstanding, ModelError
from handmim.cli import main
from handmim.errors import ImageError, InputError
from handmim.hand_drawing import overlay
from handmim.images import list_images
from handmim.maps_drawing import OUTLINE_COLOR

BOX = [20, 10, 90, 70]
WIDTH, HEIGHT = 120, 90
MAPS = ("heatmaps", "pof", "mask", "heatmap_keypoints", "crop_box")
OTHER = {"left": "right", "right": "left"}


@pytest.fixture(scope="module")
def model(hiu_checkpoint: Path) -> HandMIM:
    return HandMIM.from_pretrained(hiu_checkpoint, device="cpu", detector="whole-image")


@pytest.fixture(scope="module")
def hand(model: HandMIM) -> Hand:
    return model(picture(), boxes=BOX, handedness="left")[0]


def test_results_carry_maps(model: HandMIM) -> None:
    (hand,) = model(picture(), boxes=BOX, handedness="right")
    shapes = dict(zip(MAPS, [(21, 16, 16), (20, 3, 16, 16), (16, 16), (21, 2), (4,)], strict=True))
    for name, shape in shapes.items():
        value = getattr(hand, name)
        assert (value.shape, value.dtype) == (shape, np.float32) and np.isfinite(value).all(), name
    np.testing.assert_allclose(hand.crop_box, [13, -2, 97, 82], atol=1e-4)  # the box's longer side and a margin
    assert 0 <= hand.mask.min() < 0.5 < hand.mask.max() <= 1
    inside = hand.heatmap_keypoints
    assert (inside > hand.crop_box[:2]).all() and (inside < hand.crop_box[2:]).all()
    (lean,) = model(picture(), boxes=BOX, handedness="right", maps=False)
    assert lean.heatmaps is None and lean.pof is None
    np.testing.assert_array_equal(lean.mask, hand.mask)
    np.testing.assert_array_equal(lean.heatmap_keypoints, hand.heatmap_keypoints)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mirrored_picture_gives_mirrored_maps(model: HandMIM, side: str) -> None:
    image, (x0, y0, x1, y1) = picture(), BOX
    (one,) = model(image, boxes=BOX, handedness=side)
    flipped = np.ascontiguousarray(image[:, ::-1])
    (two,) = model(flipped, boxes=[WIDTH - 1 - x1, y0, WIDTH - 1 - x0, y1], handedness=OTHER[side])
    turn = np.array([-1, 1, 1])[:, None, None]
    for name, expected in (("heatmaps", one.heatmaps), ("mask", one.mask), ("pof", one.pof * turn)):
        assert np.ptp(expected) > 0.1
        np.testing.assert_allclose(getattr(two, name), expected[..., ::-1], atol=1e-3, err_msg=name)
    x0, y0, x1, y1 = one.crop_box
    np.testing.assert_allclose(two.crop_box, [WIDTH - 1 - x1, y0, WIDTH - 1 - x0, y1], atol=1e-4)
    expected = one.heatmap_keypoints * [-1, 1] + [WIDTH - 1, 0]
    np.testing.assert_allclose(two.heatmap_keypoints, expected, atol=1e-2)
    middle = np.median(one.mask)
    found, expected = two.image_mask(threshold=middle), one.image_mask(threshold=middle)[:, ::-1]
    assert found.shape == (HEIGHT, WIDTH) and 0.1 < expected.mean() < 0.6 and (found == expected).mean() > 0.99


def test_a_side_that_is_found_brings_its_own_maps(model: HandMIM) -> None:
    (found,) = model(picture(), boxes=BOX)
    tried = {side: model(picture(), boxes=BOX, handedness=side)[0] for side in OTHER}
    best = max(tried.values(), key=lambda hand: hand.score)
    assert found.handedness == best.handedness
    for name in MAPS:
        np.testing.assert_allclose(getattr(found, name), getattr(best, name), atol=1e-4, err_msg=name)
    assert not np.allclose(tried["left"].mask, tried["right"].mask, atol=1e-3)


def test_maps_stay_with_the_step_that_is_kept(model: HandMIM) -> None:
    (hand,) = model(picture())  # the whole picture first, then nearer
    centre, reach = (hand.box[:2] + hand.box[2:]) / 2, (hand.box[2:] - hand.box[:2]).max() * 0.6
    np.testing.assert_allclose(hand.crop_box, [*(centre - reach), *(centre + reach)], atol=1e-3)
    (again,) = model(picture(), boxes=hand.box, handedness=hand.handedness)
    np.testing.assert_allclose(again.mask, hand.mask, atol=1e-3)


def test_the_pipeline_gives_the_same(model: HandMIM, hiu_checkpoint: Path) -> None:
    task = pipeline("hand-mesh-estimation", model=str(hiu_checkpoint), detector="whole-image", device="cpu")
    hands = model(picture(), boxes=[BOX, [5, 5, 60, 60]], handedness=["left", "right"])
    results = task(picture(), boxes=[BOX, [5, 5, 60, 60]], handedness=["left", "right"])
    for result, hand in zip(results, hands, strict=True):
        assert set(MAPS) <= set(result)
        for name in MAPS:
            np.testing.assert_allclose(result[name], getattr(hand, name), atol=1e-4)
    (lean,) = task([picture()], boxes=[BOX], maps=False)[0]
    assert not {"heatmaps", "pof"} & set(lean) and {"mask", "crop_box"} <= set(lean)
    assert task(picture(), boxes=np.zeros((0, 4))) == []


@pytest.mark.parametrize(
    ("tasks", "there"),
    [(("mask",), {"mask", "crop_box"}), (("pof",), {"pof", "crop_box"}), ((), set())]
    + [(("heatmaps",), {"heatmaps", "heatmap_keypoints", "crop_box"})],
)
def test_networks_without_some_of_the_tasks(tasks: tuple[str, ...], there: set[str], tmp_path: Path) -> None:
    HIUDMTLForHandUnderstanding(HIUDMTLConfig(**TINY_HIU | {"tasks": tasks})).save_pretrained(tmp_path)
    (hand,) = HandMIM.from_pretrained(tmp_path, device="cpu")(picture(), boxes=BOX, handedness="left")
    assert {name for name in MAPS if getattr(hand, name) is not None} == there
    assert set(hand.map_pictures()) == there & {"heatmaps", "pof"}
    assert hand.overlay().height == HEIGHT
    json.dumps(hand.to_dict())
    if "mask" not in tasks:
        with pytest.raises(InputError, match="'mask'"):
            hand.image_mask()


def test_to_dict_holds_what_json_is_for(hand: Hand) -> None:
    data = json.loads(json.dumps(hand.to_dict()))
    assert {"heatmap_keypoints", "crop_box"} <= set(data) and not {"heatmaps", "mask", "pof", "image"} & set(data)
    np.testing.assert_allclose(data["heatmap_keypoints"], hand.heatmap_keypoints, rtol=1e-6)
    plain = stub_model()(picture(), boxes=BOX, handedness="left")[0].to_dict()
    assert set(data) - set(plain) == {"heatmap_keypoints", "crop_box"}


def drawn(hand: Hand, **options: object) -> np.ndarray:
    return np.asarray(hand.overlay(**options))


def test_layers_of_the_overlay(hand: Hand) -> None:
    everything, mesh = drawn(hand), drawn(hand, layers="mesh")
    assert everything.shape == mesh.shape and mesh.shape[1] > WIDTH
    np.testing.assert_array_equal(everything[:, WIDTH:], mesh[:, WIDTH:])
    np.testing.assert_array_equal(drawn(hand, layers=("skeleton", "mesh", "mask")), everything)
    np.testing.assert_array_equal(drawn(hand, layers=()), picture())
    outline = drawn(hand, layers=["mask"])
    assert outline.shape == (HEIGHT, WIDTH, 3)
    yellow = np.abs(outline.astype(int) - OUTLINE_COLOR).sum(-1) < 30
    inside = hand.image_mask()
    edge = inside ^ np.roll(inside, 1, 0)
    assert yellow.any() and edge[1:][yellow[1:]].mean() > 0.2
    skeleton = drawn(hand, layers="skeleton")
    x, y = hand.heatmap_keypoints[0].round().astype(int)
    assert skeleton[y, x].min() > 200 and (skeleton != picture()).any(-1).mean() < 0.5
    with pytest.raises(InputError, match="'bones'"):
        hand.overlay(layers=("mesh", "bones"))


def test_hands_without_maps_are_drawn_as_ever() -> None:
    (plain,) = stub_model()(picture(), boxes=BOX, handedness="right")
    np.testing.assert_array_equal(drawn(plain), drawn(plain, layers=("mesh",)))
    assert (drawn(plain, layers="skeleton") != picture()).any() and plain.map_pictures() == {}
    assert [getattr(plain, name) for name in MAPS] == [None] * 5
    for call in (plain.image_mask, lambda: plain.overlay(layers=("mask",))):
        with pytest.raises(InputError, match="HIU-DMTL"):
            call()
    np.testing.assert_array_equal(np.asarray(overlay([], picture())), picture())


def test_a_picture_that_has_gone(model: HandMIM, photo: Path) -> None:
    (hand,) = model(photo, boxes=BOX, handedness="right")
    assert hand.image_mask().shape == (HEIGHT, WIDTH) and set(hand.map_pictures()) == {"heatmaps", "pof"}
    photo.unlink()
    for call in (hand.image_mask, hand.map_pictures, hand.overlay):
        with pytest.raises(ImageError):
            call()
    assert hand.image_mask(picture()).shape == (HEIGHT, WIDTH)


# ---------------------------------------------------------------------------------------------------------------------
# Files


@pytest.fixture()
def predict(photo: Path) -> Callable[..., tuple[int, set[str]]]:
    """`handmim predict photo.png ...` -> (exit code, names of the files in the folder of results)."""

    def run(checkpoint: Path, *options: str) -> tuple[int, set[str]]:
        out = photo.parent / "out"
        arguments = ["predict", str(photo), "--model", str(checkpoint), "--device", "cpu", "--out", str(out)]
        code = main([*arguments, "--hand", "left", *options])
        return code, set(os.listdir(out)) if out.exists() else set()

    return run


ONE, TWO = ("--box", "20,10,90,70"), ("--box", "20,10,90,70", "5,5,60,60")


def test_predict_writes_masks_and_pictures_of_maps(
    predict: Callable, hiu_checkpoint: Path, photo: Path, model: HandMIM
) -> None:
    code, files = predict(hiu_checkpoint, *TWO, "--maps")
    masks = ["photo.0.mask.png", "photo.1.mask.png"]
    maps = [f"photo.{number}.{name}.png" for number in (0, 1) for name in ("heatmaps", "pof")]
    plain = {"photo.json", "photo.overlay.png"}
    assert code == 0 and files == plain | {"photo.0.glb", "photo.1.glb", *masks, *maps}
    assert predict(hiu_checkpoint, *TWO, "--maps") == (0, files)  # a second run leaves what it writes itself
    out = photo.parent / "out"
    report = json.loads((out / "photo.json").read_text())
    assert report["masks"] == masks and report["maps"] == maps
    (hand,) = model(photo, boxes=[5, 5, 60, 60], handedness="left")
    picture = Image.open(out / "photo.1.mask.png")
    assert picture.mode == "L" and set(np.unique(picture)) == {0, 255}
    assert ((np.asarray(picture) > 0) == hand.image_mask()).mean() > 0.999
    np.testing.assert_allclose(report["hands"][1]["heatmap_keypoints"], hand.heatmap_keypoints, atol=0.01)
    assert (out / "photo.json").stat().st_size < 500_000
    for name in ("heatmaps", "pof"):
        seen = np.asarray(Image.open(out / f"photo.1.{name}.png"), int)
        assert np.abs(seen - np.asarray(hand.map_pictures()[name])).mean() < 1
    assert list_images(photo.parent) == [photo]
    with pytest.raises(ImageError, match="holds no image"):
        list_images(out)  # nothing that was drawn is taken for a photo

    code, files = predict(hiu_checkpoint, *ONE)
    assert code == 0 and files == plain | {"photo.0.glb", "photo.0.mask.png"}


def test_files_of_an_earlier_run_go_only_if_it_lists_them(
    predict: Callable, hiu_checkpoint: Path, tiny_checkpoint: Path, photo: Path
) -> None:
    predict(hiu_checkpoint, *TWO, "--maps")
    out = photo.parent / "out"
    kept = {"photo.5.mask.png", "photo.5.pof.png", "other.0.mask.png", "photo.mask.png"}
    for name in kept:
        (out / name).write_text("the user's own")
    report = json.loads((out / "photo.json").read_text())
    report["masks"] += ["other.0.mask.png", "photo.mask.png", "../photo.png", 3]
    report["maps"] += ["photo.5.mask.png", None]
    (out / "photo.json").write_text(json.dumps(report))
    _, files = predict(tiny_checkpoint, *ONE)
    assert files == {"photo.json", "photo.overlay.png", "photo.0.glb"} | kept and photo.is_file()
    for listed in ("1", '{"photo.5.mask.png": 1}'):
        (out / "photo.json").write_text(f'{{"hands": [], "meshes": [], "masks": 1, "maps": {listed}}}')
        assert predict(tiny_checkpoint, *ONE)[0] == 0
    assert kept <= set(os.listdir(out))


def test_maps_of_turned_looks(predict: Callable, hiu_checkpoint: Path, capsys: pytest.CaptureFixture) -> None:
    assert predict(hiu_checkpoint, *ONE, "--maps", "--tta") == (1, set())
    assert "--maps shows what one look sees: leave --tta out" in capsys.readouterr().err


def test_maps_of_a_checkpoint_that_draws_none(
    predict: Callable, tiny_checkpoint: Path, capsys: pytest.CaptureFixture
) -> None:
    assert predict(tiny_checkpoint, *ONE, "--maps") == (1, set())
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--maps needs a HIU-DMTL checkpoint" in error


def test_checkpoints_that_give_no_mesh(hiu_checkpoint: Path, tmp_path: Path) -> None:
    config = HIUDMTLConfig(**TINY_HIU | {"mesh": False, "score_head": False})
    HIUDMTLForHandUnderstanding(config).save_pretrained(tmp_path / "maps")
    HandMIMImageProcessor(size=64).save_pretrained(tmp_path / "maps")
    with pytest.raises(ModelError, match="without a mesh head"):
        HandMIM.from_pretrained(tmp_path / "maps")
    network = HIUDMTLForHandUnderstanding.from_pretrained(hiu_checkpoint)
    network.save_pretrained(
        tmp_path / "part", state_dict={k: v for k, v in network.state_dict().items() if not k.startswith("score.")}
    )
    with pytest.raises(ModelError, match=r"lacks 2 weights .*score\."):
        HandMIM.from_pretrained(tmp_path / "part")


def test_sixteen_hands_keep_nothing_of_the_pictures_size(model: HandMIM) -> None:
    """A map a hand, not a picture a hand."""
    image = np.zeros((1200, 1600, 3), np.uint8)
    hands = model(image, boxes=[[50 * i, 40 * i, 50 * i + 400, 40 * i + 400] for i in range(16)], handedness="left")
    largest = max(
        value.base.untyped_storage().nbytes() if torch.is_tensor(value.base) else value.nbytes
        for hand in hands
        for value in (getattr(hand, name) for name in MAPS)
    )
    assert len(hands) == 16 and largest == 20 * 3 * 16 * 16 * 4
