"""Colours of training crops, by hand: what each strength changes, and what it leaves alone."""

import numpy as np
import pytest

from handmim.training.augmentation import LUMINANCE, Augmentation, random_generator

COLOURS = np.random.default_rng(0).uniform(0, 255, (20, 3))
MEAN = 90.0
NONE = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


class Draws:
    """A generator whose next numbers are known."""

    def __init__(self, *values: float) -> None:
        self.values = np.array(values)

    def uniform(self, low: float, high: float, count: int) -> np.ndarray:
        assert (low, high, count) == (-1.0, 1.0, len(self.values))
        return self.values


def recoloured(draws: tuple[float, ...], **strengths: float) -> np.ndarray:
    matrix = Augmentation(**NONE | strengths).draw_colour(Draws(*draws), MEAN)
    return COLOURS @ matrix[:, :3].T + matrix[:, 3]


def test_brightness_and_contrast() -> None:
    """Contrast is about the picture's mean; of a brighter picture about the brighter mean."""
    np.testing.assert_allclose(recoloured((0.5, 1, 1, 1), brightness=0.4), 1.2 * COLOURS)
    np.testing.assert_allclose(recoloured((1, -0.5, 1, 1), contrast=0.4), MEAN + 0.8 * (COLOURS - MEAN), atol=1e-2)
    both = recoloured((0.5, -0.5, 1, 1), brightness=0.4, contrast=0.4)
    np.testing.assert_allclose(both, 1.2 * (MEAN + 0.8 * (COLOURS - MEAN)), atol=1e-2)


def test_saturation_leaves_luminance() -> None:
    grey = (COLOURS @ LUMINANCE)[:, None]
    np.testing.assert_allclose(recoloured((1, 1, -1, 1), saturation=0.5), grey + 0.5 * (COLOURS - grey), atol=0.1)
    np.testing.assert_allclose(recoloured((1, 1, -1, 1), saturation=1.0), np.broadcast_to(grey, (20, 3)), atol=0.1)


@pytest.mark.parametrize("draw", [-1.0, 0.3, 1.0])
def test_hue_turns_colours_about_the_greys(draw: float) -> None:
    turned = recoloured((1, 1, 1, draw), hue=0.5)
    np.testing.assert_allclose(turned @ LUMINANCE, COLOURS @ LUMINANCE, atol=0.1)
    assert np.abs(turned - COLOURS).max() > 20
    there, back = (
        Augmentation(**NONE | {"hue": 0.5}).draw_colour(Draws(1, 1, 1, x), MEAN)[:, :3] for x in (draw, -draw)
    )
    np.testing.assert_allclose(back @ there, np.eye(3), atol=1e-9)
    if abs(draw) == 1:  # half a turn: the complement
        grey = (COLOURS @ LUMINANCE)[:, None]
        np.testing.assert_allclose(turned, 2 * grey - COLOURS, atol=0.2)


def test_nothing_is_drawn_without_strength() -> None:
    np.testing.assert_allclose(recoloured((1, -1, 1, -1)), COLOURS, atol=1e-9)


def test_a_share_of_crops_is_from_afar() -> None:
    """Enlarged without a shift, from a few pixels; of the others, and without a share, nothing changes."""
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    blurred = 0
    for index in range(60):
        crop = Augmentation(far=0.5).take_far(random_generator(0, 0, index), noise)
        blurred += crop.std() < 0.75 * noise.std()
        assert crop is noise or crop.std() < 0.75 * noise.std()
    assert 15 < blurred < 45
    generator = random_generator(0, 0, 0)
    assert Augmentation().take_far(generator, noise) is noise
    assert generator.random() == random_generator(0, 0, 0).random()  # nothing was drawn
    ramp = np.broadcast_to(np.arange(96, dtype=np.uint8)[None, :, None], (96, 96, 3))
    far = Augmentation(far=1.0).take_far(generator, ramp)
    np.testing.assert_allclose(far[:, 8:-8], ramp[:, 8:-8], atol=1)
    small = noise[:24, :24]
    assert Augmentation(far=1.0).take_far(generator, small).tolist() == small.tolist()
