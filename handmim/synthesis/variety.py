"""How much the pictures of a series differ, beside what always does: shape, skin, light and the bank of backgrounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

# What lens, sensor and compression do, in this order; see `degradation`.
FAULTS = ("blur", "resolution", "colour", "noise", "compression")


@dataclass(frozen=True)
class Variety:
    """What makes pictures hard to read. The defaults are meant for photographs from anywhere.

    Attributes:
        poses: share of each family of poses: named gestures and grasps; between two of them; each finger from another
            of them; each finger straight or curled by its own coin; any angles within the joints' ranges.
        collisions: keep poses whose fingers run into each other, in place of the nearest without.
        views: share of each family of views: uniform over SO(3); upright before the camera (selfie, gesture); lying in
            the picture plane at any angle (tables, close-ups); the wearer's own view; pointing at the camera.
        loose: share of crops in which the hand is small.
        jitter: how far the crop's centre may be from the hand's, share of its side, each way.
        negatives: share of pictures that do not show a right hand: three in ten are empty, the others show a left one,
            and perhaps another left one; those of people show both.
        second_hands: share of pictures with another hand.
        together: share of those with a right hand and no person whose two hands lie palm to palm (`pairs`). Not of the
            negatives: such a pair shows a right hand as much as a left one.
        persons: share of pictures of people, who have both hands; in a share `loose` of these the crop is of the
            person, not of a hand. For finding hands: a hand that is cropped may lie behind the trunk or out of sight.
        things: share of pictures with an object in or before the hand; those without a hand always have one.
        relief: share of hands whose skin shows tendons, veins and wrinkles.
        sleeves: share of arms with a sleeve.
        jewellery: share of hands with a ring, and of wrists with a bracelet or watch.
        gloves: share of hands in a glove.
        shadows: share of pictures in which the hand darkens what is behind it.
        photos: share of pictures with a photo behind the hand, where `generate` is given any.
        faults: some of `FAULTS`; without "colour" the camera has an ideal curve.
        far: share of pictures that are of 24 to 64 pixels, and enlarged.
        borders: grey bands, as where a crop reaches beyond its picture.
    """

    poses: tuple[float, ...] = (0.28, 0.17, 0.16, 0.14, 0.25)
    collisions: bool = False
    views: tuple[float, ...] = (0.25, 0.4, 0.15, 0.12, 0.08)
    loose: float = 0.08
    jitter: float = 0.15
    negatives: float = 0.17
    second_hands: float = 0.10
    together: float = 0.3
    persons: float = 0.0
    things: float = 0.25
    relief: float = 1.0
    sleeves: float = 0.55
    jewellery: float = 0.0
    gloves: float = 0.0
    shadows: float = 0.33
    photos: float = 0.5
    faults: tuple[str, ...] = FAULTS
    far: float = 0.0
    borders: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value, default = getattr(self, field.name), field.default
            if isinstance(default, bool):
                good, wanted = isinstance(value, bool), "true or false"
            elif isinstance(default, float):
                good, wanted = _is_share(value), "a number in [0, 1]"
            elif field.name == "faults":
                value = tuple(value) if isinstance(value, list) else value
                good, wanted = isinstance(value, tuple) and set(value) <= set(FAULTS), f"some of {', '.join(FAULTS)}"
            else:
                value = tuple(value) if isinstance(value, list) else value
                good = isinstance(value, tuple) and len(value) == len(default) and all(map(_is_share, value))
                good, wanted = good and sum(value) > 0, f"{len(default)} shares in [0, 1] that are not all 0"
            if not good:
                raise ValueError(f"variety: {field.name} must be {wanted}, got {value!r}")
            object.__setattr__(self, field.name, value)


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


# By the names that recipes and the command use. A scene is for finding hands: many are small, two, left, or none. In a
# plain picture one right hand is held up before a camera of ideal optics: small budgets learn something from these, and
# a network that fails on them need not be shown others.
VARIETIES = {
    "full": Variety(),
    "scene": Variety(loose=0.5, negatives=0.5, second_hands=0.35, things=0.3, borders=False),
    "plain": Variety(
        views=(0.0, 1.0, 0.0, 0.0, 0.0),
        loose=0.0,
        negatives=0.0,
        second_hands=0.0,
        things=0.0,
        faults=(),
        borders=False,
    ),
}


def find_variety(variety: Variety | str | Mapping[str, Any]) -> Variety:
    """One of `VARIETIES` by its name, or one that is changed: `{"base": "plain", "things": 0.2}`; without base "full".

    Raises:
        ValueError: There is none of that name, a field is unknown, or its value is none it may have.
    """
    if isinstance(variety, Variety):
        return variety
    if isinstance(variety, Mapping):
        changes = dict(variety)
        base = find_variety(changes.pop("base", "full"))
        unknown = changes.keys() - {field.name for field in fields(Variety)}
        if unknown:
            known = ", ".join(field.name for field in fields(Variety))
            raise ValueError(f"variety has unknown fields {', '.join(sorted(map(str, unknown)))}; there are {known}")
        return replace(base, **changes)
    if not isinstance(variety, str) or variety not in VARIETIES:
        raise ValueError(f"variety must be one of {', '.join(VARIETIES)}, got {variety!r}")
    return VARIETIES[variety]
