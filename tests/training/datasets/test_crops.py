"""Labels follow the warp to a thousandth of a pixel, pictures agree with labels, parameters with the warped mesh."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fabricate_datasets.given import ListReader
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from handmim import HandMIMImageProcessor, HandModel
from handmim.geometry import axis_angle_to_matrix, project
from handmim.training.augmentation import Augmentation
from handmim.training.datasets.crops import HandCrops, Placement
from handmim.training.datasets.sample import DataError, HandSample

SIZE = 96
CAMERA = np.array([[400.0, 0, 150], [0, 430.0, 110], [0, 0, 1]], np.float32)  # pixels that are not square
WIDE = Augmentation(scale=0.5, translation=0.2, rotation=180)


def hand_labels(side: str, seed: int = 0) -> dict[str, np.ndarray]:
    """A posed open hand in front of CAMERA, with all labels."""
    generator = torch.Generator().manual_seed(seed)
    orient = axis_angle_to_matrix(torch.randn(1, 3, generator=generator))
    pose = axis_angle_to_matrix(0.3 * torch.randn(1, 15, 3, generator=generator))
    betas = torch.randn(1, 10, generator=generator)
    hand = HandModel("open", side)(orient, pose, betas, torch.tensor([[0.02, 0.03, 0.7]]))
    labels = {"global_orient": orient, "hand_pose": pose, "betas": betas}
    labels |= {"joints": hand.joints, "vertices": hand.vertices}
    labels["keypoints_2d"] = project(hand.joints, torch.from_numpy(CAMERA))
    return {name: value[0].numpy() for name, value in labels.items()}


def sample_of(tmp_path: Path, pixels: np.ndarray, side: str | None = "right", **fields) -> HandSample:
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    labels = fields.pop("labels", None) or hand_labels(side or "right")
    return HandSample(id="one", image=path, handedness=side, intrinsics=CAMERA, labels=labels, **fields)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["left", "right"]), st.booleans())
def test_labels_follow_the_warp(seed, side, augmented):
    labels = hand_labels(side, seed % 7)
    box = np.array([60.0, 50.0, 200.0, 170.0])
    turn = WIDE.draw_turn(np.random.default_rng(seed), SIZE) if augmented else None
    place = Placement(box, CAMERA, SIZE, side == "left", 1.2, turn)
    warped = place.labels(labels)
    projected = project(warped["joints"].double(), place.intrinsics)
    assert (projected - warped["keypoints_2d"]).abs().max() < 1e-3
    # and the pixel of the picture where a vertex is seen goes to the pixel of the crop where it is seen
    seen = project(torch.from_numpy(labels["vertices"]).double(), torch.from_numpy(CAMERA).double())
    carried = seen @ place.affine[:, :2].T + place.affine[:, 2]
    assert (project(warped["vertices"].double(), place.intrinsics) - carried).abs().max() < 1e-3
    hand = HandModel("open")(*(warped[name][None] for name in ("global_orient", "hand_pose", "betas")))
    shift = warped["joints"][0] - hand.joints[0, 0]
    assert (hand.vertices[0] + shift - warped["vertices"]).abs().max() < 1e-5
    assert (hand.joints[0] + shift - warped["joints"]).abs().max() < 1e-5
    assert torch.linalg.det(warped["global_orient"]) == pytest.approx(1, abs=1e-5)
    # a pinhole camera with square pixels once it is turned
    assert not augmented or place.intrinsics[0, 0] == pytest.approx(place.intrinsics[1, 1].item())


def dots(points: np.ndarray, width: int, height: int, sigma: float) -> np.ndarray:
    """A dark picture with one bright blob a point."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    distance = (x[..., None] - points[:, 0]) ** 2 + (y[..., None] - points[:, 1]) ** 2
    light = np.exp(-distance / (2 * sigma**2)).max(-1)
    return np.repeat((20 + 230 * light)[..., None], 3, -1).astype(np.uint8)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("suffix, enlarge", [("png", 1), ("png", 5), ("jpg", 9)])
def test_content_agrees_with_labels(tmp_path, side, suffix, enlarge):
    """Blobs drawn at keypoints are found at the warped keypoints, also where the picture is shrunk or half decoded."""
    width, height = 300 * enlarge + 3, 220 * enlarge + 1  # no multiple of the decoder's blocks
    points = np.array([[90, 60], [200, 70], [110, 150], [190, 165]], np.float32) * enlarge
    labels = {"keypoints_2d": np.full((21, 2), np.nan, np.float32)}
    labels["keypoints_2d"][:4] = points
    path = tmp_path / f"dots.{suffix}"
    Image.fromarray(dots(points, width, height, 2.5 * enlarge)).save(path, quality=95)
    # a camera with pixels 3 % out of square, and none
    camera = None if side == "left" else np.diag([515.0, 500.0, 1.0]) @ np.diag([enlarge, enlarge, 1.0])
    sample = HandSample("dots", path, side, np.array([80, 50, 210, 175]) * enlarge, camera, labels)
    crops = HandCrops(ListReader([sample]), SIZE, augmentation=Augmentation(rotation=180, brightness=0, contrast=0))
    found = 0
    for epoch in range(6):
        crops.set_epoch(epoch)
        item = crops[0]
        grey = item["pixel_values"].mean(0).numpy()
        for x, y in item["labels"]["keypoints_2d"][:4].numpy():
            left, top = round(x) - 5, round(y) - 5
            if min(left, top) < 1 or max(left, top) + 12 > SIZE:
                continue
            window = grey[top : top + 11, left : left + 11]
            weight = np.clip(window - np.median(grey) - 0.1, 0, None)
            rows, columns = np.mgrid[top : top + 11, left : left + 11]
            centre = [(weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()]
            assert np.hypot(centre[0] - x, centre[1] - y) < 0.35, (epoch, x, y, centre)
            found += 1
    assert found >= 10


def test_without_augmentation_equals_the_image_processor(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (220, 300, 3), np.uint8)
    sample = sample_of(tmp_path, pixels, "left", box=np.array([100.0, 60.0, 250.0, 190.0]))
    item = HandCrops(ListReader([sample]), SIZE)[0]
    inputs = HandMIMImageProcessor(size=SIZE)(pixels, sample.box, "left", CAMERA)
    torch.testing.assert_close(item["pixel_values"], inputs["pixel_values"][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(item["intrinsics"], inputs["intrinsics"][0])


def test_mask_is_warped_with_the_picture(tmp_path):
    pixels = np.zeros((220, 300, 3), np.uint8)
    pixels[70:150, 80:180] = 255
    sample = sample_of(tmp_path, pixels, "left", load_mask=lambda: pixels[..., 0] > 0)
    plain = Augmentation(brightness=0, contrast=0, saturation=0, hue=0)
    crops = HandCrops(ListReader([sample]), SIZE, augmentation=plain, labels=["mask"])
    item = crops[0]
    shown = item["pixel_values"].mean(0)
    inside = shown > 0.02  # the surroundings of the picture are grey
    assert set(item["labels"]) == {"mask", "hand"}
    assert item["labels"]["mask"].dtype == torch.bool
    assert (item["labels"]["mask"] != inside).float().mean() < 0.01 and inside.float().mean() > 0.05


def test_a_mask_of_another_size_is_named(tmp_path):
    sample = sample_of(tmp_path, np.zeros((220, 300, 3), np.uint8), load_mask=lambda: np.ones((110, 150), bool))
    with pytest.raises(DataError, match="sample one of list: its mask is 150 x 110 px, but the picture 300 x 220"):
        HandCrops(ListReader([sample]), SIZE, labels=["mask"])[0]


def test_a_single_keypoint_is_no_box(tmp_path):
    points = np.full((21, 2), np.nan, np.float32)
    points[3] = 40, 50
    sample = sample_of(tmp_path, np.zeros((220, 300, 3), np.uint8), labels={"keypoints_2d": points})
    for augmentation in (None, Augmentation()):
        item = HandCrops(ListReader([sample]), SIZE, augmentation=augmentation)[0]  # of the whole picture
        assert item["labels"]["keypoints_2d"][3].isfinite().all()


def test_draws_depend_on_seed_epoch_and_index_alone(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (220, 300, 3), np.uint8)
    reader = ListReader([sample_of(tmp_path, pixels)] * 3)
    crops = HandCrops(reader, SIZE, augmentation=Augmentation(), seed=3)
    crops.set_epoch(2)
    first = crops[1]["pixel_values"]
    torch.rand(5), np.random.rand(5), crops[0]
    assert torch.equal(crops[1]["pixel_values"], first)
    assert torch.equal(
        HandCrops(reader, SIZE, augmentation=Augmentation(), seed=3).visit([1], [2])[0]["pixel_values"], first
    )
    others = [crops[0], crops.visit([1], [3])[0], HandCrops(reader, SIZE, augmentation=Augmentation(), seed=4)[1]]
    assert not any(torch.equal(other["pixel_values"], first) for other in others)


def test_negatives_show_the_hand_as_a_left_one(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    points = np.random.default_rng(1).uniform(10, 50, (21, 2)).astype(np.float32)
    samples = [
        HandSample(str(row), tmp_path / "picture.png", labels={"keypoints_2d": points}, handedness=side)
        for row, side in enumerate(["right", "left", None] * 20)
    ]
    reader = ListReader(samples, tmp_path)
    plain, mixed = HandCrops(reader, 32), HandCrops(reader, 32, negatives=0.4)
    shown = [item["labels"]["hand"].item() for item in mixed.visit(range(60), [0] * 60)]
    known = [value for value, sample in zip(shown, samples, strict=True) if sample.handedness]
    assert 8 < known.count(0.0) < 28 and np.isnan(shown[2::3]).all()
    for row in range(60):
        item, same = mixed[row], plain[row]
        if item["labels"]["hand"] == 0:
            assert set(item["labels"]) == {"hand"} and torch.equal(item["pixel_values"], same["pixel_values"].flip(2))
        else:
            assert torch.equal(item["pixel_values"], same["pixel_values"]) and "keypoints_2d" in item["labels"]
    with pytest.raises(ValueError, match="share in"):
        HandCrops(reader, 32, negatives=2.0)


def test_crops_need_not_teach_sides(tmp_path):
    Image.new("RGB", (60, 60)).save(tmp_path / "picture.png")
    points = np.random.default_rng(1).uniform(10, 50, (21, 2)).astype(np.float32)
    sample = HandSample("a", tmp_path / "picture.png", labels={"keypoints_2d": points}, handedness="left")
    reader = ListReader([sample], tmp_path)
    labels, plain = (HandCrops(reader, 32, sides=sides)[0]["labels"] for sides in (False, True))
    assert plain["hand"] == 1 and labels["hand"].isnan() and labels["keypoints_2d"].equal(plain["keypoints_2d"])
    with pytest.raises(ValueError, match="0 without sides"):
        HandCrops(reader, 32, sides=False, negatives=0.1)


def test_persistent_workers_see_the_epoch(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (220, 300, 3), np.uint8)
    crops = HandCrops(ListReader([sample_of(tmp_path, pixels)] * 2), SIZE, augmentation=Augmentation())
    loader = torch.utils.data.DataLoader(crops, batch_size=2, num_workers=1, persistent_workers=True, collate_fn=list)
    for epoch in (0, 5, 1):
        crops.set_epoch(epoch)
        (batch,) = loader
        assert torch.equal(batch[1]["pixel_values"], crops[1]["pixel_values"])


def test_boxes_come_from_what_is_labelled(tmp_path):
    pixels = np.zeros((220, 300, 3), np.uint8)
    labels = hand_labels("right")
    boxes = {}
    for name in ("keypoints_2d", "joints", "vertices"):
        item = HandCrops(ListReader([sample_of(tmp_path, pixels, labels={name: labels[name]})]), SIZE)[0]
        boxes[name] = item["intrinsics"]
    assert torch.allclose(boxes["keypoints_2d"], boxes["joints"], atol=0.02)
    assert not torch.allclose(boxes["vertices"], boxes["joints"], atol=1)
    nothing = HandSample("none", sample_of(tmp_path, pixels).image)
    whole = HandCrops(ListReader([nothing]), SIZE)[0]
    assert whole["intrinsics"][0, 2] == pytest.approx((SIZE - 1) / 2)
    assert torch.isnan(whole["labels"]["hand"])


def test_bad_samples_are_named(tmp_path):
    good = sample_of(tmp_path, np.zeros((220, 300, 3), np.uint8))
    bad = [HandSample("lost", tmp_path / "missing.png"), HandSample("camera", good.image, intrinsics=np.zeros((3, 3)))]
    bad.append(HandSample("box", good.image, box=np.array([5.0, 5.0, 5.0, np.nan])))
    bad.append(HandSample("box", good.image, box=np.array([5.0, 5.0, 1e19, 9.0])))  # once asked for exabytes
    for augmentation in (None, Augmentation()):
        crops = HandCrops(ListReader(bad), SIZE, augmentation=augmentation)
        with pytest.raises(DataError, match="sample lost of list.*missing.png"):
            crops[0]
        with pytest.raises(DataError, match="sample camera of list.*intrinsics"):
            crops[1]
        for index in (2, 3):
            with pytest.raises(DataError, match="sample box of list.*box"):
                crops[index]
    with pytest.raises(ValueError, match="depth"):
        HandCrops(ListReader([]), SIZE, labels=["depth"])


def test_a_hand_outside_of_its_picture_is_named(tmp_path):
    """Labels made on larger pictures gave grey crops, from which a run learned without a word."""
    pixels = np.zeros((96, 96, 3), np.uint8)
    points = np.random.default_rng(0).uniform(30, 60, (21, 2)).astype(np.float32)
    far = np.array([5000.0, 5000.0, 5100.0, 5100.0])
    samples = [sample_of(tmp_path, pixels, labels={"keypoints_2d": 4 * points})]
    samples += [sample_of(tmp_path, pixels, labels={"keypoints_2d": points}, box=far)]
    edge = sample_of(tmp_path, pixels, labels={"keypoints_2d": points}, box=np.array([95.0, 40.0, 150.0, 90.0]))
    for augmentation in (None, Augmentation()):
        crops = HandCrops(ListReader([*samples, edge]), SIZE, augmentation=augmentation, negatives=0.5)
        for index in range(2):
            with pytest.raises(DataError, match="sample one of list: box .* lies outside the image of 96 x 96 pixels"):
                crops[index]
        assert crops[2]["pixel_values"].isfinite().all()  # it touches the picture
