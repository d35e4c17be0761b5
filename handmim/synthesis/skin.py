"""The colour of skin, nails and sleeves, vertex by vertex. Colours are linear in the sense of `generator`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..constants import constant
from .hand_mesh import HandMesh
from .random import SampleRandom
from .relief import NUM_RELIEFS
from .variety import VARIETIES, Variety

# From very light to very dark, sRGB; judged by eye against the ten tones of the Monk scale.
TONES = (
    (0.95, 0.79, 0.70),
    (0.92, 0.72, 0.60),
    (0.85, 0.63, 0.50),
    (0.74, 0.52, 0.39),
    (0.56, 0.38, 0.28),
    (0.38, 0.25, 0.18),
    (0.24, 0.16, 0.12),
)
RING_PLACE = 0.5  # between knuckle and middle joint
PALE_PALM = (0.76, 0.56, 0.47)  # towards which the palm of dark skin tends, sRGB


@dataclass
class Skin:
    """The surface of B hands.

    Attributes:
        albedo: (B, 3, Vr) linear.
        tone: (B, 3) linear, of bare skin on the whole.
        nail: (B, 3) linear. detail: (B, 2, 3) share of light that a full crease and a full knuckle fold swallow.
        relief: (B,) int64, which of the mesh's maps of what is fine. relief_strength: (B, 3) of light from the side on
            it, either side; of the veins' colour; of dark skin over the fingers' joints.
        sleeve_start: (B,) m along the forearm (rest x); infinite without a sleeve.
        sleeve_thickness: (B,) m.
        sleeve_colour: (B, 2, 3) linear, cloth and stripes.
        sleeve_stripes: (B,) stripes per metre, 0 for plain cloth.
        ring_finger: (B,) int64, 1 to 4 for index to little finger, 0 without a ring.
        ring_width: (B,) half of it, share of the first phalanx.
        band: (B, 2) m along the forearm, from where to where a bracelet or watch reaches; both infinite without.
        metal: (B, 2, 3) linear, of ring and band.
        glove_end: (B,) m along the forearm up to which a glove reaches, `albedo` being its colour; infinite without.
        glove_thickness: (B,) m, 0 without.
        gloss: (B,) strength of the highlight. roughness: (B,) its exponent.
    """

    albedo: Tensor
    tone: Tensor
    nail: Tensor
    detail: Tensor
    relief: Tensor
    relief_strength: Tensor
    sleeve_start: Tensor
    sleeve_thickness: Tensor
    sleeve_colour: Tensor
    sleeve_stripes: Tensor
    ring_finger: Tensor
    ring_width: Tensor
    band: Tensor
    metal: Tensor
    glove_end: Tensor
    glove_thickness: Tensor
    gloss: Tensor
    roughness: Tensor


def sample_tone(random: SampleRandom) -> tuple[Tensor, Tensor]:
    """Skin of the back of the hand and of the palm: two (B, 3), sRGB, balanced over the ramp of `TONES`."""
    ramp = constant(TONES, random.device)
    place = random.uniform((), 0.0, len(TONES) - 1.0)
    left = place.long().clamp(max=len(TONES) - 2)
    share = (place - left)[:, None]
    tone = ramp[left] * (1 - share) + ramp[left + 1] * share
    tone = tone * random.normal((1,), 1.0, 0.05) * random.normal((3,), 1.0, 0.025)
    paler = (0.65 * (1 - tone.mean(1, keepdim=True) / 0.6)).clamp(0, 1)
    pale = constant(PALE_PALM, random.device)
    palm = (tone * (1 - paler) + pale * paler) * constant((1.03, 0.96, 0.94), random.device)
    return tone, palm


def paint(random: SampleRandom, mesh: HandMesh, variety: Variety = VARIETIES["full"]) -> Skin:
    """Draw the surface of a batch of hands, some of them with a sleeve, some with jewellery."""
    device = random.device
    tone, palm = sample_tone(random)
    pair = torch.stack([torch.ones_like(mesh.dorsal), 1 - mesh.dorsal])
    albedo = torch.stack([tone, palm - tone], 2) @ pair * _blotches(random, mesh)
    nail = tone * 0.78 + constant((0.88, 0.64, 0.60), device) * 0.25
    nail = torch.where(random.bernoulli(0.13, (1,)), random.uniform((3,), 0.05, 0.9), nail)
    amount = torch.stack([random.uniform((), 0.4, 1.5), random.uniform((), 0.15, 1.5)], 1)
    dark = constant(((0.30, 0.46, 0.46), (0.28, 0.34, 0.34)), device) * amount[..., None]
    bare = ~random.bernoulli(variety.sleeves)
    start = random.uniform((), 0.015, 0.20).masked_fill(bare, float("inf"))
    cloth = (random.uniform((2, 1), 0.05, 0.9) * random.normal((2, 3), 1.0, 0.2)).clamp(0.03, 0.95)
    striped = random.bernoulli(0.3)
    albedo = albedo.clamp_(0.03, 0.98).square_()
    return Skin(
        albedo=albedo,
        tone=albedo.mean(2),
        nail=nail.clamp(0.03, 0.98).square(),
        detail=dark.clamp(max=0.8),
        **_relief(random.fork("relief"), variety.relief),
        sleeve_start=start,
        sleeve_thickness=random.uniform((), 0.002, 0.010),
        sleeve_colour=cloth.square(),
        sleeve_stripes=torch.where(striped, random.uniform((), 30.0, 110.0), torch.zeros_like(start)),
        **_jewellery(random.fork("jewellery"), variety.jewellery),
        glove_end=torch.full_like(start, float("inf")),
        glove_thickness=torch.zeros_like(start),
        gloss=random.uniform((), 0.0, 0.22),
        roughness=random.uniform((), 8.0, 60.0),
    )


def _relief(random: SampleRandom, share: float) -> dict[str, Tensor]:
    """Relief on a share of the hands: `Skin.relief` and `relief_strength`."""
    side = torch.where(random.bernoulli(0.5), 1.0, -1.0)
    light, vein, dark = (random.uniform((), 0.0, most) for most in (0.5, 0.25, 0.45))
    strength = torch.stack([light * side, vein, dark], 1) * random.bernoulli(share, (1,))
    return {"relief": random.integers((), 0, NUM_RELIEFS), "relief_strength": strength}


def _jewellery(random: SampleRandom, share: float) -> dict[str, Tensor]:
    """Rings on a share of the hands, bands around as many wrists: those fields of `Skin`."""
    ring, band = random.bernoulli(share), random.bernoulli(share)
    start, width = random.uniform((), 0.012, 0.05), random.log_uniform((), 0.004, 0.03)
    gold = constant((0.85, 0.68, 0.35), random.device)
    plain = random.bernoulli(0.5, (2, 1))
    colour = torch.where(plain, gold * random.uniform((2, 1), 0.7, 1.1), random.uniform((2, 1), 0.05, 0.9))
    nowhere = torch.full_like(start, float("inf"))
    ends = torch.stack([torch.where(band, end, nowhere) for end in (start, start + width)], 1)
    return {
        "ring_finger": random.integers((), 1, 5) * ring,
        "ring_width": random.uniform((), 0.03, 0.09),
        "band": ends,
        "metal": (colour * random.normal((2, 3), 1.0, 0.08)).clamp(0.03, 0.97).square(),
    }


def _blotches(random: SampleRandom, mesh: HandMesh) -> Tensor:
    """(B, 3, Vr) factors on the albedo: uneven blood and pigment, redness of knuckles and fingertips."""
    device = random.device
    third = len(mesh.noise) // 3
    field = mesh.noise[random.integers((3,), 0, third) + torch.arange(3, device=device) * third]  # (B, 3, Vr)
    strength = random.uniform((3,), 0.3, 1.5) * constant((0.05, 0.035, 0.03), device)
    # Blood more than pigment: green and blue follow more than red.
    share = constant((0.8, 1.05, 1.1), device)
    red = constant((0.02, 0.18, 0.15), device) * random.uniform((1,), 0.2, 1.5)
    return ((share[:, None] * strength[:, None]) @ field).add_(1).mul_(1 - red[..., None] * mesh.redness)


def dress(skin: Skin, mesh: HandMesh, vertices: Tensor, normals: Tensor) -> Tensor:
    """Push the vertices under a sleeve and in a glove out by its thickness: (B, 3, Vr) -> (B, 3, Vr), m."""
    along = mesh.rest[:, 0]
    under = ((along - skin.sleeve_start[:, None]) / 0.006).clamp_(0, 1).mul_(skin.sleeve_thickness[:, None])
    gloved = ((skin.glove_end[:, None] - along) / 0.006).clamp_(0, 1)
    under = under.addcmul_(gloved, skin.glove_thickness[:, None])
    return torch.addcmul(vertices, normals, under[:, None])
