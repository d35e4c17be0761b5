"""Bodies of persons, drawn behind their hands: limbs of round cones, a head with hair and a face, clothes.

They are there so that a detector learns what is no hand, and where hands are found on people; nobody should take them
for people. The hands with their forearms are drawn by the generator.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..constants import constant
from ..scan_conversion import nonzero
from .backgrounds import colours
from .light import Light
from .persons import Persons
from .random import SampleRandom
from .samples import blend, look_at, nearer_keys, scan
from .skin import Skin

SKIN, SHIRT, TROUSERS, SHOES, HAIR, LIPS, EYES = range(7)  # rows of a palette


class Part(NamedTuple):
    """A round cone between two joints.

    Attributes:
        start, end: Names of joints; "chest" and "crown" are drawn places of trunk and head.
        radii: m, at both.
        flat: Its width and depth over its radius, along the trunk's left and back.
        kind: Row of the palette.
        mesh: Rings along it and vertices around it.
    """

    start: str
    end: str
    radii: tuple[float, float]
    flat: tuple[float, float]
    kind: int
    mesh: tuple[int, int] = (9, 12)


# Radii as of adults; the head's kind is skin, hair and face are painted on it.
HEAD = Part("chin", "crown", (0.072, 0.088), (0.95, 1.12), SKIN, (21, 28))
PARTS = (
    HEAD,
    Part("neck", "head", (0.055, 0.052), (1.0, 1.0), SKIN),
    Part("pelvis", "chest", (0.125, 0.135), (1.2, 0.85), SHIRT),
    Part("right shoulder", "left shoulder", (0.065, 0.065), (1.0, 1.0), SHIRT),
    Part("right hip", "left hip", (0.095, 0.095), (1.0, 1.0), TROUSERS),
    *(
        part
        for side in ("right", "left")
        for part in (
            Part(f"{side} shoulder", f"{side} elbow", (0.055, 0.046), (1.0, 1.0), SHIRT),
            Part(f"{side} hip", f"{side} knee", (0.085, 0.06), (1.0, 1.0), TROUSERS),
            Part(f"{side} knee", f"{side} ankle", (0.058, 0.042), (1.0, 1.0), TROUSERS),
            Part(f"{side} ankle", f"{side} toe", (0.042, 0.036), (1.1, 0.9), SHOES),
        )
    ),
)
_CAP_RINGS = 3  # of each end
_SLEEVED = tuple(number for number, part in enumerate(PARTS) if "elbow" in part.end)
_LEGS = tuple(number for number, part in enumerate(PARTS) if "ankle" in part.end)
# Directions from the middle of the head, in its frame (left, down, back), and how far they reach as the cosine of an
# angle: two eyes, two brows, the mouth.
_FEATURES = (
    ((0.36, -0.02, -0.93), 0.992, EYES),
    ((-0.36, -0.02, -0.93), 0.992, EYES),
    ((0.40, -0.22, -0.89), 0.990, HAIR),
    ((-0.40, -0.22, -0.89), 0.990, HAIR),
    ((0.12, 0.48, -0.87), 0.985, LIPS),
    ((-0.12, 0.48, -0.87), 0.985, LIPS),
)


@dataclass(frozen=True)
class BodyMesh:
    """Constant arrays of all parts, V vertices.

    Attributes:
        faces: (F, 3) int64, outward winding.
        part: (V,) int64. share: (V,) 0 at the part's start to 1 at its end. beyond: (V,) how far its cap reaches past
            an end, in radii there. around: (V, 2) cosine and sine about the axis. wide: (V,) radius over the cone's.
        face_part: (F,) int64.
    """

    faces: Tensor
    part: Tensor
    share: Tensor
    beyond: Tensor
    around: Tensor
    wide: Tensor
    face_part: Tensor


@functools.lru_cache(maxsize=4)
def load_body_mesh(device: str = "cpu") -> BodyMesh:
    """Rings of all parts, joined by two faces a cell; the first and the last ring of a part are points."""
    columns: dict[str, list[Tensor]] = {name: [] for name in BodyMesh.__dataclass_fields__}
    start = 0
    for number, part in enumerate(PARTS):
        rings, around = part.mesh
        cap = torch.linspace(math.pi / 2, 0, _CAP_RINGS + 1)
        middle = torch.linspace(0, 1, rings - 2 * _CAP_RINGS)
        share = torch.cat([torch.zeros(_CAP_RINGS), middle, torch.ones(_CAP_RINGS)])
        beyond = torch.cat([-cap[:-1].sin(), torch.zeros(len(middle)), cap[:-1].flip(0).sin()])
        wide = (1 - beyond.square()).clamp(min=0).sqrt()
        angle = torch.arange(around) * (2 * math.pi / around)
        ring, place = torch.cartesian_prod(torch.arange(rings), torch.arange(around)).unbind(1)
        columns["part"].append(torch.full_like(ring, number))
        for name, values in (("share", share), ("beyond", beyond), ("wide", wide)):
            columns[name].append(values[ring])
        columns["around"].append(torch.stack([angle.cos(), angle.sin()], 1)[place])
        a = start + ring[:-around] * around + place[:-around]
        b = start + ring[:-around] * around + (place[:-around] + 1) % around
        columns["faces"].append(torch.stack([a, b, b + around, a, b + around, a + around], 1).view(-1, 3))
        columns["face_part"].append(torch.full((2 * len(a),), number))
        start += len(ring)
    return BodyMesh(**{name: torch.cat(parts).to(device) for name, parts in columns.items()})


@dataclass(frozen=True)
class Clothes:
    """Colours of B persons, linear.

    Attributes:
        palette: (B, 7, 3) by kind. stripes: (B, 2, 3) second colours of shirt and trousers.
        stripe_rate: (B, 2) stripes a metre, 0 for plain cloth. sleeve: (B,) share of the upper arm that is covered.
        shorts: (B,) share of the shins that is covered. hair: (B, 3) the direction, in the head's frame, about which
            hair grows, and hair_reach (B,) the cosine of the angle to which; 2: none. beard: (B,) bool.
        fold: (B,) phase of the folds of cloth.
    """

    palette: Tensor
    stripes: Tensor
    stripe_rate: Tensor
    sleeve: Tensor
    shorts: Tensor
    hair: Tensor
    hair_reach: Tensor
    beard: Tensor
    fold: Tensor


def sample_clothes(random: SampleRandom, skin: Skin, rows: Tensor) -> Clothes:
    """Draw clothes and hair; skin and shirt are those of the arms (rows of `skin`, (B,))."""
    tone = skin.tone[rows]
    shirt, shirt_stripe = skin.sleeve_colour[rows].unbind(1)
    bare = skin.sleeve_start[rows].isinf()
    cloth = colours(random.fork("cloth"), (3,)).clamp(0.03, 0.95).square()
    lightness = random.uniform((1,)).square()
    hair = (lightness * constant((0.75, 0.55, 0.32), tone.device) + 0.015) * random.normal((3,), 1.0, 0.1)
    lips = tone * constant((0.8, 0.45, 0.45), tone.device)
    eyes = tone * random.uniform((1,), 0.05, 0.35)
    palette = torch.stack([tone, shirt, cloth[:, 0], cloth[:, 1], hair.clamp(0.005, 0.9), lips, eyes], 1)
    rate = torch.stack([skin.sleeve_stripes[rows], random.uniform((), 15, 60) * random.bernoulli(0.15)], 1)
    up, back = random.uniform((), 0.2, 1.0), random.uniform((), 0.2, 1.0)
    direction = torch.stack([random.normal((), 0, 0.1), -up, back], 1)
    reach = torch.where(random.bernoulli(0.1), 2.0, random.uniform((), -0.35, 0.35))
    return Clothes(
        palette=palette,
        stripes=torch.stack([shirt_stripe, cloth[:, 2]], 1),
        stripe_rate=rate,
        sleeve=torch.where(bare, random.uniform((), 0.0, 1.0), torch.full_like(rate[:, 0], 2.0)),
        shorts=torch.where(random.bernoulli(0.15), random.uniform((), 0.0, 0.5), torch.full_like(rate[:, 0], 2.0)),
        hair=F.normalize(direction, dim=1),
        hair_reach=reach,
        beard=random.bernoulli(0.15),
        fold=random.uniform((), 0.0, 2 * math.pi),
    )


def pose_body(mesh: BodyMesh, persons: Persons) -> tuple[Tensor, Tensor]:
    """Vertices and outward unit normals, (B, 3, V) each, camera frame, m."""
    start, end = _ends(persons)
    along = F.normalize(end - start, dim=2)
    first, second = _sides(persons, along)
    radii = constant(tuple(part.radii for part in PARTS), start.device)
    flat = constant(tuple(part.flat for part in PARTS), start.device)
    part, share = mesh.part, mesh.share[:, None]
    radius = torch.lerp(radii[part, 0], radii[part, 1], mesh.share)
    ring = mesh.around * mesh.wide[:, None]
    (x, y), (leftward, backward) = ((ring * flat[part] * radius[:, None]).T, (ring / flat[part]).T)
    points = torch.lerp(start[:, part], end[:, part], share) + (mesh.beyond * radius)[:, None] * along[:, part]
    points = points + x[:, None] * first[:, part] + y[:, None] * second[:, part]
    normals = leftward[:, None] * first[:, part] + backward[:, None] * second[:, part]
    normals = F.normalize(normals + mesh.beyond[:, None] * along[:, part], dim=2)
    return points.transpose(1, 2).contiguous(), normals.transpose(1, 2)


def _ends(persons: Persons) -> tuple[Tensor, Tensor]:
    """(B, P, 3) start and end of every part, m."""
    down, back = persons.head_axes[..., 1], persons.head_axes[..., 2]
    head = persons.joint("head")
    drawn = {
        "chest": persons.joint("neck") + 0.16 * persons.axes[..., 1],
        "chin": head + 0.045 * down - 0.012 * back,
        "crown": head - 0.03 * down,
    }
    start, end = (
        torch.stack([drawn[name] if name in drawn else persons.joint(name) for name in names], 1)
        for names in (tuple(part.start for part in PARTS), tuple(part.end for part in PARTS))
    )
    return start, end


def _sides(persons: Persons, along: Tensor) -> tuple[Tensor, Tensor]:
    """Two unit vectors (B, P, 3) across the parts, which run along unit vectors (B, P, 3): to the left, as far as that
    goes, and backwards. Of a part that itself runs to the side, as between the shoulders, backwards goes first."""
    axes = torch.stack([persons.head_axes if part is HEAD else persons.axes for part in PARTS], 1)
    left, back = axes[..., 0], axes[..., 2]
    level = (left * along).sum(2, keepdim=True).abs() > 0.8
    toward = torch.where(level, back, left)
    first = F.normalize(toward - (toward * along).sum(2, keepdim=True) * along, dim=2)
    return first, torch.linalg.cross(along, first, dim=2)


def draw_bodies(
    picture: Tensor, persons: Persons, clothes: Clothes, light: Light, intrinsics: Tensor, chosen: Tensor
) -> tuple[Tensor, Tensor]:
    """Paint bodies into some of the pictures, in place.

    Args:
        picture: (B, 3, S, S) linear.
        persons, clothes, light, intrinsics: Of the N chosen ones.
        chosen: (N,) int64, which pictures.

    Returns:
        (N, S, S) int64 keys of the nearest faces, 0 for none, to be compared with those of other meshes by their upper
        32 bits, see `scan_conversion.Scan`; and (N, S, S) depth, m, infinite beside the body.
    """
    mesh = load_body_mesh(str(picture.device))
    vertices, normals = pose_body(mesh, persons)
    size = picture.shape[3]
    seen = scan(vertices, mesh.faces, intrinsics, size)
    keys = nearer_keys(seen.keys)
    depth = torch.full(keys.shape, float("inf"), device=picture.device)
    where = nonzero(keys.view(-1) > 0)
    if not len(where):
        return keys, depth
    row = where.div(size * size, rounding_mode="floor")
    look = look_at(seen, where, keys.view(-1).index_select(0, where), row.int())
    colour = _colours(mesh, clothes, _local(mesh, persons, vertices), look.face, look.weights, row)
    colour *= _corners(mesh, _irradiance(light, normals), look.face, look.weights, row)
    sample = chosen.index_select(0, row)
    blend(picture, where + (sample - row) * size**2, sample, look.cover, colour)
    depth.view(-1).scatter_(0, where, look.depth)
    return keys, depth


def _irradiance(light: Light, normals: Tensor) -> Tensor:
    """(N, 3, V) linear light of sky, ground and lamps on normals (N, 3, V), without shadows."""
    height = (normals * light.up[..., None]).sum(1, keepdim=True)
    total = torch.lerp(light.ground[..., None], light.sky[..., None], 0.5 + 0.5 * height) * 0.8
    for direction, lamp in zip(light.direction.unbind(1), light.lamp.unbind(1), strict=True):
        total = total + lamp[..., None] * (normals * direction[..., None]).sum(1, keepdim=True).clamp(min=0)
    return total


def _local(mesh: BodyMesh, persons: Persons, vertices: Tensor) -> Tensor:
    """(N, 3, V): of the head's vertices the place about its middle in its frame, in units of its radius; of others the
    share along their part, the radius and the angle about the axis as a cosine."""
    offset = (vertices - persons.joint("head")[..., None]).transpose(1, 2)
    inward = torch.stack([(offset * persons.head_axes[:, None, :, k]).sum(2) for k in range(3)], 1) / 0.1
    others = torch.stack([mesh.share, mesh.wide, mesh.around[:, 0]])
    return torch.where(mesh.part == PARTS.index(HEAD), inward, others)


def _corners(mesh: BodyMesh, values: Tensor, face: Tensor, weights: Tensor, row: Tensor) -> Tensor:
    """(P, 3) of values (N, 3, V) at places on faces."""
    corners = mesh.faces.index_select(0, face) + (row * len(mesh.part))[:, None]
    table = values.transpose(1, 2).reshape(-1, 3).contiguous()  # of one person, too: it is read in another way
    return F.embedding_bag(corners, table, per_sample_weights=weights, mode="sum")


def _colours(mesh: BodyMesh, clothes: Clothes, local: Tensor, face: Tensor, weights: Tensor, row: Tensor) -> Tensor:
    """(P, 3) albedo, linear."""
    part = mesh.face_part.index_select(0, face)
    place = _corners(mesh, local, face, weights, row)
    kind = constant(tuple(part.kind for part in PARTS), row.device, torch.int64)[part]
    share = place[:, 0]
    for parts, covered in ((_SLEEVED, clothes.sleeve), (_LEGS, clothes.shorts)):
        there = torch.isin(part, constant(parts, part.device, torch.int64))
        kind = torch.where(there & (share > covered[row]), SKIN, kind)
    head = nonzero(part == PARTS.index(HEAD))
    kind[head] = _head(clothes, place[head], row[head])
    colour = clothes.palette[row, kind]
    for cloth, number in ((SHIRT, 0), (TROUSERS, 1)):
        rate = clothes.stripe_rate[row, number]
        striped = nonzero((kind == cloth) & (torch.frac(share * rate * 0.4 + 0.25) > 0.5))
        colour[striped] = clothes.stripes[row[striped], number]
    # Folds of cloth and strands of hair; skin is smooth.
    fold = (40 * share + 5 * place[:, 2] + clothes.fold[row]).sin() * torch.where(kind == SKIN, 0.02, 0.1)
    return colour * (1 + fold)[:, None]


def _head(clothes: Clothes, place: Tensor, row: Tensor) -> Tensor:
    """(P,) kinds of pixels of heads at places (P, 3) in their frames."""
    toward = F.normalize(place, dim=1)
    kind = torch.full_like(row, SKIN)
    for direction, reach, feature in _FEATURES:
        axis = F.normalize(constant(direction, place.device), dim=0)
        kind = torch.where((toward * axis).sum(1) > reach, feature, kind)
    front = toward[:, 2] < -0.2
    beard = clothes.beard[row] & front & (toward[:, 1] > 0.35) & (kind == SKIN)
    hair = (toward * clothes.hair[row]).sum(1) > clothes.hair_reach[row]
    return torch.where(beard | (hair & ~(front & (toward[:, 1] > -0.3))), HAIR, kind)
