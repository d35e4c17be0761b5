"""Maps of a crop in the picture's frame: mirrored back, at their place, and no larger than need be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handmim.geometry import affine_points, crop_affine, crop_rotation
from handmim.hand_maps import image_mask, map_names, pixels_inside, restore_maps, sample_map
from handmim.image_processing_handmim import square_crop
from handmim.layers_hiu_dmtl import soft_argmax
from handmim.targets_hiu_dmtl import gaussian_heatmaps, part_orientation_fields, to_cells

SIZE, CELLS = 128, 32


def crop(box: tuple[float, ...], mirror: bool) -> dict[str, torch.Tensor]:
    """What the processor says about a crop."""
    affine = crop_affine(torch.tensor([box], dtype=torch.float64), SIZE, torch.tensor([mirror]), 1.2)
    return {
        "crop_affine": affine.float(),
        "mirrored": torch.tensor([mirror]),
        "pixel_values": torch.zeros(1, 3, SIZE, SIZE),
    }


def a_hand() -> tuple[torch.Tensor, torch.Tensor]:
    """Keypoints (21, 2) in a picture of 200 x 160, and joints (21, 3) over them."""
    generator = torch.Generator().manual_seed(0)
    keypoints = 60 + 60 * torch.rand(21, 2, generator=generator)
    return keypoints, torch.cat([keypoints / 500, 0.5 + 0.2 * torch.rand(21, 1, generator=generator)], 1)


def drawn(keypoints: torch.Tensor, joints: torch.Tensor, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a perfect network says about a crop of the hand."""
    affine = inputs["crop_affine"][0]
    cells = to_cells(affine_points(affine, keypoints)[None], SIZE, CELLS)
    heatmaps = gaussian_heatmaps(cells, 1.0, CELLS, CELLS)
    turned = (joints @ crop_rotation(affine).T)[None]
    return {
        "heatmaps": heatmaps,
        "pof": part_orientation_fields(cells, turned, 1.0, CELLS, CELLS),
        "mask": heatmaps.amax(1),
        "heatmap_keypoints": (soft_argmax(heatmaps) + 1) * (SIZE / 2) - 0.5,
    }


BOX = (50.0, 45.0, 130.0, 135.0)


def test_maps_of_a_mirrored_crop_are_those_of_the_plain_one() -> None:
    """A left hand's crop is mirrored; what comes back must be what a crop of the picture as it is would show."""
    keypoints, joints = a_hand()
    plain, mirrored = (crop(BOX, mirror) for mirror in (False, True))
    truth = drawn(keypoints, joints, plain)
    (found,) = restore_maps(drawn(keypoints, joints, mirrored), mirrored)
    for name in ("heatmaps", "pof", "mask"):
        np.testing.assert_allclose(found[name], truth[name][0], atol=1e-4, err_msg=name)
    np.testing.assert_allclose(found["heatmap_keypoints"], keypoints, atol=0.05)
    (same,) = restore_maps(truth, plain)
    for name in found:
        np.testing.assert_allclose(found[name], same[name], atol=1e-3, err_msg=name)


@pytest.mark.parametrize("mirror", [False, True])
def test_a_bone_points_where_it_points_in_the_picture(mirror: bool) -> None:
    keypoints, joints = a_hand()
    inputs = crop(BOX, mirror)
    (found,) = restore_maps(drawn(keypoints, joints, inputs), inputs)
    x0, y0, x1, y1 = found["crop_box"]
    assert x1 - x0 == pytest.approx(1.2 * 90) and (x0 + x1) / 2 == pytest.approx(90) and y1 - y0 == pytest.approx(108)
    middle, along = (keypoints[5] + keypoints[0]) / 2, keypoints[5] - keypoints[0]  # the index finger's first bone
    column, row = ((middle.numpy() - [x0, y0]) / (x1 - x0) * CELLS).astype(int)
    direction = found["pof"][4, :, row, column]
    np.testing.assert_allclose(direction[:2], along / along.norm(), atol=1e-4)
    depth = joints[5] - joints[0]
    assert direction[2] == pytest.approx(float(depth[2] / depth.norm()), abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 100), st.floats(0, 60), st.floats(40, 100), st.booleans())
def test_a_known_mask_comes_back_within_a_pixel(x: float, y: float, side: float, mirror: bool) -> None:
    """A disc in a picture, cut out and averaged over cells as a perfect network would see it."""
    across, down = np.meshgrid(np.arange(200), np.arange(160))
    radius = 0.4 * side
    distance = np.hypot(across - x - side / 2, down - y - side / 2)
    picture = np.repeat((distance <= radius)[..., None].astype(np.uint8) * 255, 3, -1)
    inputs = crop((x, y, x + side, y + side), mirror)
    seen = square_crop(picture, inputs["crop_affine"][0].double().numpy(), SIZE, (0, 0, 0))[0] / 255
    cells = seen.reshape(CELLS, SIZE // CELLS, CELLS, SIZE // CELLS).mean((1, 3))
    (found,) = restore_maps({"mask": torch.from_numpy(cells)[None]}, inputs)
    assert set(found) == {"mask", "crop_box"}
    mask = image_mask(found["mask"], found["crop_box"], 200, 160)
    assert mask.shape == (160, 200) and mask.dtype == bool
    assert mask[distance <= radius - 1].all() and not mask[distance > radius + 1].any()


def test_large_pictures_are_filled_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    values, box = np.random.default_rng(0).random((16, 16)), np.array([-20.3, 10.2, 130.1, 150.8])
    whole = image_mask(values, box, 120, 140, 0.6)
    monkeypatch.setattr("handmim.hand_maps._STRIP_NUMBERS", 500)
    np.testing.assert_array_equal(image_mask(values, box, 120, 140, 0.6), whole)
    assert whole.any() and not whole[:11].any()
    assert not image_mask(np.ones((4, 4)), np.array([300.0, 0, 400, 100]), 120, 140).any()
    assert not image_mask(np.full((4, 4), np.nan), box, 120, 140).any()


def test_pixels_whose_centres_a_box_holds() -> None:
    assert pixels_inside(np.array([-0.5, 0.2, 9.5, 3.0]), 8, 20) == (0, 1, 8, 4)
    assert image_mask(np.ones((4, 4)), np.array([-0.5, -0.5, 7.5, 7.5]), 8, 8).all()


def test_a_map_is_read_at_its_cells_and_between() -> None:
    values = np.arange(16.0).reshape(4, 4)
    box = np.array([9.5, -0.5, 17.5, 7.5])  # two pixels a cell
    np.testing.assert_allclose(sample_map(values, box, np.array([10.5, 12.5, 11.5]), np.array([2.5])), [[4, 5, 4.5]])
    np.testing.assert_allclose(sample_map(values, box, np.array([9.5, 18]), np.array([7.5])), [[12, 15]])


def test_results_hold_nothing_but_their_own_maps() -> None:
    """Of two tries at a hand the worse is dropped, and must not stay in memory behind the better."""
    keypoints, joints = a_hand()
    inputs = {name: torch.cat([value, value]) for name, value in crop(BOX, False).items()}
    one = drawn(keypoints, joints, crop(BOX, False))
    outputs = {name: torch.cat([value, value]) for name, value in one.items()}
    for found in restore_maps(outputs, inputs):
        for name, array in found.items():
            assert array.dtype == np.float32 and array.flags.owndata is False
            assert array.base.untyped_storage().nbytes() == array.nbytes, name
    list(restore_maps(outputs, inputs))[0]["heatmaps"][:] = -1
    assert outputs["heatmaps"].min() >= 0


def test_heat_maps_without_keypoints_are_handmims_and_stay_with_it() -> None:
    inputs = crop(BOX, False)
    assert list(restore_maps({"heatmaps": torch.zeros(1, 21, 4, 4)}, inputs)) == [{}]
    everything = dict.fromkeys(("heatmaps", "mask", "pof", "heatmap_keypoints"), torch.zeros(1))
    assert set(map_names(everything)) == set(everything)
    assert set(map_names(everything, large=False)) == {"mask", "heatmap_keypoints"}
    assert map_names(everything | {"heatmap_keypoints": None, "mask": None}) == ["pof"]
