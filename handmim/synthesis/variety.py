"""How much the pictures of a series differ, beside what always does: pose, shape, skin, light and background."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variety:
    """What makes pictures hard to read. The defaults are meant for photographs from anywhere.

    Attributes:
        views: share of each family of views: uniform over SO(3); upright before the camera (selfie, gesture); lying in
            the picture plane at any angle (tables, close-ups); the wearer's own view; pointing at the camera.
        loose: share of crops in which the hand is small.
        negatives: share of pictures that do not show a right hand: three in ten are empty, the others show a left one.
        second_hands: share of pictures with another hand.
        things: share of pictures with an object in or before the hand; those without a hand always have one.
        degradation: blur, low resolution, colour casts, noise of the sensor, JPEG artefacts.
        borders: grey bands, as where a crop reaches beyond its picture.
    """

    views: tuple[float, float, float, float, float] = (0.25, 0.4, 0.15, 0.12, 0.08)
    loose: float = 0.08
    negatives: float = 0.17
    second_hands: float = 0.10
    things: float = 0.25
    degradation: bool = True
    borders: bool = True


# By the names that recipes and the command use. A scene is for finding hands: many are small, two, left, or none. In a
# plain picture one right hand is held up before a camera of ideal
# optics: small budgets learn something from these, and a network that fails on them need not be shown others.
VARIETIES = {
    "full": Variety(),
    "scene": Variety(loose=0.5, negatives=0.5, second_hands=0.35, things=0.3, borders=False),
    "plain": Variety((0.0, 1.0, 0.0, 0.0, 0.0), 0.0, 0.0, 0.0, 0.0, degradation=False, borders=False),
}


def find_variety(variety: Variety | str) -> Variety:
    """One of `VARIETIES` by its name.

    Raises:
        ValueError: There is none of that name.
    """
    if isinstance(variety, Variety):
        return variety
    if variety not in VARIETIES:
        raise ValueError(f"variety must be one of {', '.join(VARIETIES)}, got {variety!r}")
    return VARIETIES[variety]
