"""Views: eq. 3 and 4, what the pixels show, the two renderers against each other and against Pillow, the draws."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from handmim.losses_pretraining import align_points, warp_points
from handmim.training import view_rendering
from handmim.training.view_rendering import blur_matrix, finish_on_device, render_on_cpu, render_on_device
from handmim.training.views import (
    ViewAugmentation,
    ViewDraws,
    colour_matrix,
    draw_views,
    normalised,
    reductions,
    sampling_matrix,
)

SIZE = 64
PLAIN = ViewAugmentation(size=SIZE, jitter=0.0, grayscale=0.0, blur=(0.0, 0.0), solarise=(0.0, 0.0))
FULL = ViewAugmentation(size=SIZE)
NOTHING = (1.0, 1.0, 1.0, 0.0, 0.0, 0.0)  # appearance
WHOLE = (0.0, 1.0, 0.0, 0.0)  # transform


def photo(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with edges, (height, width, 3) uint8."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    random = np.random.default_rng(seed)
    waves = [np.sin(x * random.uniform(0.02, 0.3) + y * random.uniform(0.02, 0.3) + k) for k in range(3)]
    picture = 127 + 90 * np.stack(waves, -1)
    picture[height // 3 : height // 2, width // 4 : width // 2] += 35
    return picture.clip(0, 255).astype(np.uint8)


def draws_of(images: list[np.ndarray], augmentation: ViewAugmentation = FULL, epoch: int = 0) -> ViewDraws:
    sizes = torch.tensor([(image.shape[1], image.shape[0]) for image in images])
    return draw_views(augmentation, 3, epoch, torch.arange(len(images)), sizes)


def both(images: list[np.ndarray], draws: ViewDraws) -> dict[str, Tensor]:
    """(B, 2, 3, S, S) levels, as float64, of either renderer."""
    side = max(max(image.shape[:2]) for image in images)
    padded = torch.full((len(images), side, side, 3), view_rendering.FILL, dtype=torch.uint8)
    for place, image in zip(padded, images, strict=True):
        place[: image.shape[0], : image.shape[1]] = torch.from_numpy(image)
    device = (render_on_device(padded, draws, SIZE).double() + 1) * 127.5
    return {"cpu": render_on_cpu(images, draws, SIZE).double(), "device": device}


def given_draws(appearance: tuple[float, ...], transform: tuple[float, ...] = WHOLE, side: int = SIZE) -> ViewDraws:
    """Both views of one square image."""
    return ViewDraws(
        torch.tensor(transform).expand(1, 2, 4),
        torch.tensor(appearance).expand(1, 2, 6),
        torch.full((1, 2), float(side)),
    )


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 2**40), st.integers(0, 10**6), st.integers(8, 5000), st.integers(8, 5000), st.integers(0, 2**31 - 1)
)
def test_points_return_to_themselves(seed: int, epoch: int, width: int, height: int, points_seed: int) -> None:
    draws = draw_views(FULL, seed, epoch, torch.tensor([0, 7]), torch.tensor([(width, height)] * 2))
    points = torch.rand(2, 2, 50, 2, generator=torch.Generator().manual_seed(points_seed)) * 2 - 1
    back = align_points(warp_points(points, draws.transforms), draws.transforms)
    assert (back - points).abs().max() < 1e-5
    # and the pixels are fetched where eq. 4 says: corners of the view, in pixels of the image
    matrix = sampling_matrix(draws.transforms, draws.sizes[:, None], SIZE)
    corners = torch.tensor([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0)]).expand(2, 2, 3, 2)
    fetched = ((corners.double() + 1) * SIZE / 2) @ matrix[..., :2].transpose(-1, -2) + matrix[..., None, :, 2]
    expected = align_points(corners, draws.transforms)
    assert torch.allclose(normalised(fetched - 0.5, draws.sizes[:, None].double()), expected.double(), atol=1e-5)


@pytest.mark.parametrize(("width", "height"), [(80, 80), (100, 70), (200, 300)])
def test_the_picture_agrees_with_the_points(width: int, height: int) -> None:
    random = np.random.default_rng(width)
    y, x = np.mgrid[:height, :width]
    spread = max(width, height) / 25
    places = [(random.uniform(0.2, 0.8) * width, random.uniform(0.2, 0.8) * height) for _ in range(24)]
    images = []
    for px, py in places:
        dot = 250 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * spread**2))
        images.append(np.repeat(dot[..., None], 3, 2).astype(np.uint8))
    draws = draws_of(images, PLAIN)
    points = normalised(torch.tensor(places, dtype=torch.float32)[:, None, None], draws.sizes[:, None])
    expected = (warp_points(points, draws.transforms)[..., 0, :] + 1) * SIZE / 2 - 0.5
    grid = torch.arange(SIZE, dtype=torch.float64)
    seen = 0
    for views in both(images, draws).values():
        for number, view in np.ndindex(len(images), 2):
            level = views[number, view, 0] - 128
            level = level.clamp_min(0)
            reach = float(draws.transforms[number, view, 1]) * 3 * spread * SIZE / max(width, height)
            target = expected[number, view].double()
            if target.min() < reach or target.max() > SIZE - 1 - reach:
                continue  # cut by the edge: its centroid lies elsewhere
            centroid = torch.stack([(level * grid).sum(), (level * grid[:, None]).sum()]) / level.sum()
            assert (centroid - target).abs().max() < 0.15
            seen += 1
    assert seen > 10


@pytest.mark.parametrize("reduction", [1, 2, 4])
def test_renderers_agree(reduction: int) -> None:
    pytest.importorskip("cv2")
    images = [photo(72 * reduction, 72 * reduction, k) for k in range(12)]
    images += [photo(90 * reduction, 60 * reduction, 12), photo(61 * reduction, 95 * reduction, 13)]
    draws = draws_of(images)
    assert (int(reductions(sampling_matrix(draws.transforms, draws.sizes[:, None], SIZE)).max()) > 0) == (reduction > 1)
    views = both(images, draws)
    difference = (views["cpu"] - views["device"]).abs()
    # Rounding to uint8 after each step, weights of 1/32 pixel: half a level in the mean, the rest at edges.
    assert difference.mean() < 0.6
    assert difference.flatten(2).mean(-1).max() < 1.5
    assert np.quantile(difference.numpy(), 0.999) < 6


def test_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [photo(90, 60, 1), photo(64, 64, 2)]
    draws = draws_of(images)
    expected = both(images, draws)["device"]
    monkeypatch.setattr(view_rendering, "has_opencv", lambda: False)
    found = render_on_cpu(images, draws, SIZE)
    assert found.dtype == torch.uint8
    assert (found.double() - expected).abs().max() < 0.502


def test_opencv_that_does_not_load_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cv2").mkdir()
    (tmp_path / "cv2" / "__init__.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match="libGL"):
        assert not view_rendering.has_opencv()


def test_a_view_of_everything_is_the_picture() -> None:
    image = photo(SIZE, SIZE)
    for views in both([image], given_draws(NOTHING)).values():
        assert (views[0, 0].permute(1, 2, 0) - torch.from_numpy(image)).abs().max() < 0.01


@pytest.mark.parametrize(
    ("column", "enhance"), [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)]
)
@pytest.mark.parametrize("factor", [0.6, 1.3])
def test_colours_are_those_of_pillow(column: int, enhance: type, factor: float) -> None:
    image = photo(SIZE, SIZE)
    appearance = tuple(factor if k == column else value for k, value in enumerate(NOTHING))
    expected = np.asarray(enhance(Image.fromarray(image)).enhance(factor)).astype(np.float64)
    for views in both([image], given_draws(appearance)).values():
        # Pillow rounds the mean, the grey picture and the result, and cuts the digits
        assert np.abs(views[0, 0].permute(1, 2, 0).numpy() - expected).max() < 2.1


def test_contrast_is_about_the_mean_of_the_brighter_picture() -> None:
    matrix, gain = colour_matrix(torch.tensor([1.2, 0.7, 1.0, 0.0, 0.0, 0.0]))
    colour, mean = torch.tensor([40.0, 90.0, 200.0]), 110.0
    torch.testing.assert_close(matrix @ colour + gain * mean, 1.2 * mean + 0.7 * (1.2 * colour - 1.2 * mean))


def test_pictures_are_halved_until_a_pixel_covers_about_one() -> None:
    scales = torch.tensor([0.3, 1.0, 1.4, 1.45, 2.0, 2.8, 2.9, 6.0])
    matrix = torch.stack([torch.tensor([[0.6, -0.8, 3], [0.8, 0.6, 5]]) * scale for scale in scales])
    assert reductions(matrix).tolist() == [0, 0, 0, 1, 1, 1, 2, 3]


def test_grayscale_hue_and_solarise() -> None:
    image = photo(SIZE, SIZE)
    grey = np.asarray(Image.fromarray(image).convert("L")).astype(np.float64)
    for views in both([image], given_draws((1, 1, 0, 0, 0, 0))).values():
        assert np.abs(views[0, 0].numpy() - grey).max() < 1.1
    solarised = np.asarray(ImageOps.solarize(Image.fromarray(image))).astype(np.float64)
    for views in both([image], given_draws((1, 1, 1, 0, 0, 1))).values():
        assert np.abs(views[0, 0].permute(1, 2, 0).numpy() - solarised).max() < 0.01
    for views in both([image], given_draws((1, 1, 1, 0.5, 0, 0))).values():  # half a turn, about mid-grey colours
        luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
        muted = (image.max(-1) < 165) & (image.min(-1) > 90)
        assert np.abs((views[0, 0].permute(1, 2, 0) @ luma).numpy() - image @ luma.numpy())[muted].max() < 1
        turned = views[0, 0].permute(1, 2, 0).numpy() - grey[..., None]
        before = image - grey[..., None]
        assert (turned * before).sum() < -0.5 * (before**2).sum()


@pytest.mark.parametrize("sigma", [0.5, 1.3, 2.0])
def test_blur_is_gaussian(sigma: float) -> None:
    image = photo(SIZE, SIZE)
    picture = torch.from_numpy(image).permute(2, 0, 1).float()
    width = 2 * math.ceil(3 * sigma) + 1
    expected = TF.gaussian_blur(picture, [width, width], [sigma, sigma]).double()
    for views in both([image], given_draws((1, 1, 1, 0, sigma, 0))).values():
        assert (views[0, 0] - expected).abs().max() < 1
    assert torch.allclose(blur_matrix(torch.tensor([sigma]), SIZE).sum(-1), torch.ones(1, SIZE))


def test_draws_belong_to_the_sample() -> None:
    index, sizes = torch.arange(20), torch.full((20, 2), 100.0)
    together = draw_views(FULL, 1, 2, index, sizes)
    alone = draw_views(FULL, 1, 2, index[7:8], sizes[:1])
    for name in ("transforms", "appearance"):
        assert torch.equal(getattr(together, name)[7:8], getattr(alone, name))
    for other in (draw_views(FULL, 1, 3, index, sizes), draw_views(FULL, 2, 2, index, sizes)):
        assert not torch.isclose(other.transforms, together.transforms).any()
    assert not torch.isclose(together.transforms[:, 0], together.transforms[:, 1]).any()


def test_distribution_of_the_draws() -> None:
    count = 20_000
    sizes = torch.tensor([(200.0, 200.0), (300.0, 120.0)]).repeat(count // 2, 1)
    draws = draw_views(FULL, 0, 0, torch.arange(count), sizes)
    angle, gamma, offset = draws.transforms[..., 0], draws.transforms[..., 1], draws.transforms[..., 2:]
    turn = torch.rad2deg(angle)
    assert 0 <= turn.min() < 0.1
    assert 149.9 < turn.max() <= 150.0001
    assert abs(turn.mean() - 75) < 1
    side = 2 / gamma  # in normalised units
    share = side[::2] ** 2 / 4
    assert torch.allclose(share.quantile(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([0.08, 0.54, 1.0]), atol=0.01)
    assert side[1::2].max() <= 2 * 120 / 300 + 1e-5  # the largest square of 300 x 120
    reach = (offset / gamma[..., None]).abs() + side[..., None] / 2
    assert (reach <= sizes[:, None] / sizes.amax(-1)[:, None, None] + 1e-5).all()
    brightness, _, saturation, hue, sigma, solarise = draws.appearance.unbind(-1)
    shares = {
        "jitter": ((brightness != 1).float().mean(0), (0.8, 0.8)),
        "grayscale": ((saturation == 0).float().mean(0), (0.2, 0.2)),
        "blur": ((sigma > 0).float().mean(0), (1.0, 0.1)),
        "solarise": (solarise.mean(0), (0.0, 0.2)),
    }
    for name, (found, expected) in shares.items():
        assert torch.allclose(found, torch.tensor(expected), atol=0.012), name
    assert 0.6 <= brightness.min() < 0.61
    assert 1.39 < brightness.max() <= 1.4
    assert hue.abs().max() <= 0.1


def test_finish_on_device_keeps_what_it_does_not_use() -> None:
    images = [photo(60, 60), photo(60, 60, 1)]
    draws = draws_of(images)
    batch = {
        "images": torch.from_numpy(np.stack(images)),
        "sizes": draws.sizes,
        "transforms": draws.transforms,
        "appearance": draws.appearance,
        "bool_masked_pos": torch.ones(2, 2, 4, dtype=torch.bool),
    }
    done = finish_on_device(batch, "cpu", SIZE)
    assert set(done) == {"pixel_values", "transforms", "bool_masked_pos"}
    assert done["pixel_values"].shape == (2, 2, 3, SIZE, SIZE)
    assert done["pixel_values"].abs().max() <= 1 + 1e-5
    # Chunks and batches do not matter.
    one = ViewDraws(draws.transforms[1:], draws.appearance[1:], draws.sizes[1:])
    assert torch.allclose(render_on_device(batch["images"][1:], one, SIZE)[0], done["pixel_values"][1], atol=1e-5)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_cpu() -> None:
    images = [photo(200, 200, k) for k in range(6)]
    draws, stacked = draws_of(images), torch.from_numpy(np.stack(images))
    difference = render_on_device(stacked.cuda(), draws, SIZE).cpu() - render_on_device(stacked, draws, SIZE)
    assert difference.abs().max() < 0.01


@pytest.mark.parametrize(
    "option",
    [
        {"size": 0},
        {"area": (0.5, 0.1)},
        {"area": (0.0, 1.0)},
        {"rotation": (10.0, -10.0)},
        {"blur": (0.5,)},
        {"solarise": (0.0, 1.5)},
        {"jitter": -0.1},
        {"hue": 0.6},
        {"blur_sigma": (0.1, 90.0)},
    ],
)
def test_unfit_strengths_are_refused(option: dict) -> None:
    (name,) = option
    with pytest.raises(ValueError, match=name):
        ViewAugmentation(**option)
