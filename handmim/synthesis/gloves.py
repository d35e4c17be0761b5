"""Gloves of cloth, leather or rubber: another colour, and no nails, veins or pores."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .backgrounds import colours
from .hand_mesh import HandMesh
from .random import SampleRandom
from .skin import Skin

_RUBBER = 0.4  # share that is thin, vivid and shiny: for household, laboratory, workshop
_TWO_COLOURS = 0.35  # share whose palm is of another stuff than the back
_DARK = 0.4  # share of the others that is nearly black
_OVER_SLEEVE = 0.5


def put_on_gloves(random: SampleRandom, skin: Skin, mesh: HandMesh, share: float) -> Skin:
    """The surface of the same hands, a share of them in gloves.

    Args:
        random: Draws of one sample for each hand; the hands of a pair that share a sample have a pair of gloves.
        skin: Of bare hands.
        mesh: Of all hands.
        share: Of the samples, in [0, 1].
    """
    worn, rubber = random.bernoulli(share), random.bernoulli(_RUBBER)
    end = torch.where(rubber, random.uniform((), 0.01, 0.14), random.uniform((), 0.005, 0.08))
    thickness = torch.where(rubber, random.uniform((), 3e-4, 1.2e-3), random.uniform((), 8e-4, 4e-3))
    gloss = torch.where(rubber, random.uniform((), 0.04, 0.35), random.uniform((), 0.0, 0.12))
    over = worn & random.bernoulli(_OVER_SLEEVE)
    stuff = _stuff(random, mesh, rubber)
    on, each = worn[:, None], worn[:, None, None]
    wrinkles = random.uniform((1, 1), 0.0, 0.7)  # they lie where skin has its creases
    tight = random.uniform((), 0.0, 1.0)
    smooth = torch.stack([tight, torch.zeros_like(tight), torch.zeros_like(tight)], 1)
    return replace(
        skin,
        albedo=torch.where(each, stuff, skin.albedo),
        # A nail is varnish on the hand's colour: with the glove's own it cannot be seen.
        nail=torch.where(on, stuff.index_select(2, mesh.dorsal.argmax().view(1)).squeeze(2), skin.nail),
        detail=torch.where(each, skin.detail * wrinkles, skin.detail),
        relief_strength=torch.where(on, skin.relief_strength * smooth, skin.relief_strength),
        sleeve_start=torch.where(over, torch.maximum(skin.sleeve_start, end), skin.sleeve_start),
        ring_finger=skin.ring_finger.masked_fill(worn, 0),
        glove_end=torch.where(worn, end, float("inf")),
        glove_thickness=thickness * worn,
        gloss=torch.where(worn, gloss, skin.gloss),
    )


def _stuff(random: SampleRandom, mesh: HandMesh, rubber: Tensor) -> Tensor:
    """(B, 3, Vr) linear albedo."""
    vivid = random.uniform((3,), 0.03, 0.95)
    cloth = colours(random, ()) * torch.where(random.bernoulli(_DARK, (1,)), 0.25, 1.0)
    back = torch.where(rubber[:, None], vivid, cloth)
    palm = torch.where(random.bernoulli(_TWO_COLOURS, (1,)), colours(random, ()), back)
    rim = random.uniform((1,), 0.3, 0.7)  # where palm becomes back; stuff has an edge there, skin has none
    coated = ((rim - mesh.dorsal) / 0.08 + 0.5).clamp(0, 1)  # (B, Vr)
    colour = torch.lerp(back[..., None], palm[..., None], coated[:, None])
    worn_out = mesh.noise[random.integers((), 0, len(mesh.noise))] * random.uniform((1,), 0.0, 0.10)
    return (colour * (1 + worn_out[:, None])).clamp(0.03, 0.98).square_()
