"""Labelled pictures of hands from (seed, index), in batches, on a CPU or a GPU.

Colours between skin and sensor are *linear* in the sense of a gamma of 2: a square root turns them into sRGB. The true
curve differs little and its powers would cost a tenth of the time.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..constants import constant
from ..geometry import project
from ..hand_model import HandModel, HandModelOutput
from ..scan_conversion import Scan, nonzero
from . import backgrounds, cameras
from .batch import HandsShown, SyntheticBatch, join
from .bodies import draw_bodies, sample_clothes
from .degradation import degrade, reach_beyond_border, soften
from .gloves import put_on_gloves
from .hand_mesh import FOREARM_LENGTH, HandMesh, load_hand_mesh
from .light import Light, sample_light, shade
from .objects import cast, sample_things, shade_things
from .pairs import arms_apart, twin_orientation, twin_translation
from .persons import FOREARM, PersonRows
from .poses import sample_poses
from .random import SampleRandom
from .samples import blend, look_at, nearer_keys, scan
from .skin import dress, paint
from .surface import Surface
from .variety import Variety, find_variety

_EMPTY = 0.3  # of the negatives: no hand at all; the others show a left one
HELD = 0.75  # of the things
# A second hand draws from the indices of another, never used, half of the number range.
_SECOND = 1 << 62
_CPU_CHUNK, _CUDA_CHUNK = 64, 256
_CPU_PIXELS = 1 << 15  # pixels of hands that are painted at once
_BLOCK = 16  # rows that the hand model poses at once
# Flesh between a joint and the surface before it, m: wrist, then thumb, index, middle, ring, little; the thickest of
# all directions, measured on open hands.
_FLESH = (0.032, 0.032, 0.020, 0.014, 0.011, 0.024, 0.013, 0.012, 0.010, 0.028, 0.014, 0.012, 0.010)
_FLESH += (0.027, 0.013, 0.011, 0.010, 0.020, 0.012, 0.010, 0.010)
_TIPS, _NEXT = slice(4, None, 4), slice(3, None, 4)  # keypoints of the fingers' tips, and before them


def generate(
    seed: int,
    index: Tensor | Sequence[int],
    size: int = 128,
    device: torch.device | str = "cpu",
    negatives: float | None = None,
    background_photos: Tensor | None = None,
    betas: Tensor | None = None,
    variety: Variety | str | Mapping[str, Any] = "full",
) -> SyntheticBatch:
    """Draw labelled pictures; the same (seed, index) gives the same picture in any batch.

    Args:
        seed: Names the data set.
        index: (B,) int64 sample indices in [0, 2^62), or a range.
        size: side of the pictures, px; a multiple of 8 for JPEG artefacts.
        device: where to draw and where the result lies.
        negatives: share of pictures without a right hand, in place of `variety`'s.
        background_photos: (N, H, W, 3) uint8, shown behind some of the hands, see `Variety.photos`.
        betas: (10,) the shape of every hand, in place of a random one for each.
        variety: how much the pictures differ: a name of `VARIETIES`, or what `find_variety` takes.

    Returns:
        A `SyntheticBatch` on `device`.

    Raises:
        ValueError: An argument out of range.
    """
    index = torch.as_tensor(list(index) if isinstance(index, range) else index, dtype=torch.int64)
    variety = find_variety(variety)
    if negatives is not None:
        variety = replace(variety, negatives=negatives)
    check_arguments(index, size, variety.negatives, background_photos)
    check_betas(betas)
    device = torch.device(device)
    bank = backgrounds.background_bank(seed, str(device))
    photos = None if background_photos is None else _photo_bank(background_photos, str(device))
    chunk = _CPU_CHUNK if device.type == "cpu" else _CUDA_CHUNK
    with torch.inference_mode():
        parts = [
            _Scene(seed, part.to(device), size, variety, betas).picture(bank, photos) for part in index.split(chunk)
        ]
    return join(parts)


def check_arguments(index: Tensor, size: int, negatives: float = 0.0, photos: Tensor | None = None) -> None:
    """Raises ValueError for arguments of `generate` that are out of range."""
    if index.ndim != 1 or len(index) == 0:
        raise ValueError(f"index must hold at least one sample index, got shape {tuple(index.shape)}")
    if int(index.min()) < 0 or int(index.max()) >= _SECOND:
        raise ValueError(f"index must lie in [0, 2^62), got {int(index.min())} to {int(index.max())}")
    if size < 16:
        raise ValueError(f"size must be at least 16 px, got {size}")
    if not 0 <= negatives <= 1:
        raise ValueError(f"negatives must be a share in [0, 1], got {negatives}")
    if photos is not None and (photos.ndim != 4 or photos.shape[-1] != 3 or photos.dtype != torch.uint8):
        raise ValueError(f"background_photos must be uint8 (N, H, W, 3), got {photos.dtype} {tuple(photos.shape)}")


def check_betas(betas: Tensor | None) -> None:
    """Raises ValueError for shapes that `generate` does not take."""
    if betas is not None and (betas.shape != (10,) or not torch.isfinite(betas).all()):
        raise ValueError(f"betas must be 10 finite numbers, got {betas.tolist()}")


_PHOTOS: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}


def _photo_bank(photos: Tensor, device: str) -> Tensor:
    """`backgrounds.photo_bank`, kept for the photos of the last call."""
    key = (id(photos), device)
    if key not in _PHOTOS:
        _PHOTOS.clear()
        _PHOTOS[key] = (photos, backgrounds.photo_bank(photos, device))
    return _PHOTOS[key][1]


@functools.lru_cache(maxsize=4)
def _hand_model(device: str) -> HandModel:
    return HandModel("open").to(device)


def _take(light: Light, rows: Tensor) -> Light:
    """The light of some of the scenes."""
    return Light(**{f.name: getattr(light, f.name)[rows] for f in fields(Light)})


class _Scene:
    """One chunk of samples on its way from numbers to pictures.

    A *row* is one hand: the first B rows are the samples' own hands, the rest are second hands, `parent` names their
    samples. A second left hand is drawn as a right one in a mirrored world.
    """

    def __init__(self, seed: int, index: Tensor, size: int, variety: Variety, betas: Tensor | None = None) -> None:
        self.size, self.device, self.variety = size, index.device, variety
        self.shape = None if betas is None else betas.to(index.device, torch.float32)
        self.random = SampleRandom(seed, index)
        draw = self.random.fork("scene")
        negative = draw.bernoulli(variety.negatives)
        empty = draw.bernoulli(_EMPTY)
        self.left, self.empty = negative & ~empty, negative & empty
        person = self.random.fork("person").bernoulli(variety.persons)
        second = torch.nonzero((draw.bernoulli(variety.second_hands) | person) & ~self.empty).squeeze(1)
        self.batch = len(index)
        self.parent = torch.cat([torch.arange(self.batch, device=self.device), second])
        self.rows = SampleRandom(seed, torch.cat([index, index[second] + _SECOND]))
        self.skin_random = SampleRandom(seed, index[self.parent]).fork("skin")
        self.people = PersonRows(self.random, torch.nonzero(person & ~self.empty).squeeze(1), self.parent)
        is_second = torch.arange(len(self.parent), device=self.device) >= self.batch
        together = self.rows.fork("together").bernoulli(variety.together)
        # lies palm to palm with the sample's own hand, which is a right one
        self.twin = is_second & together & ~self.people.owns & ~self.left[self.parent]
        alike = self.left[self.parent] & ~self.people.owns  # a right hand beside a left one would be unlabelled
        mirrored = (self.rows.fork("side").bernoulli(0.85) & ~alike) | self.people.owns | self.twin
        self.mirrored = mirrored & is_second
        self.sign = torch.where(self.mirrored, -1.0, 1.0)
        self.mesh: HandMesh = load_hand_mesh(str(self.device))

    def picture(self, bank: backgrounds.BackgroundBank, photos: Tensor | None) -> SyntheticBatch:
        """Everything, in order."""
        self._pose()
        self._light()
        draw, share = self.random.fork("background"), self.variety.photos
        back = backgrounds.compose_background(draw, bank, self.size, photos, share)
        body = self._draw_people(back)
        picture = self._draw_hands(back, body)
        picture = self._draw_things(picture)
        images = degrade(self.random.fork("degradation"), picture, self.variety.faults, self.variety.far)
        if self.variety.borders:
            images, grey = reach_beyond_border(self.random.fork("border"), images)
            self.mask &= ~grey
        return self._label(images)

    def _pose(self) -> None:
        """Pose all rows, place them before the samples' cameras."""
        rows = self.rows
        wrist, direction, arm = self._shape()
        first = slice(0, self.batch)
        draw = self.random.fork("camera")
        own = self.people.place(cameras.place(draw, arm[first], self.hand.joints[first]), wrist[first])
        self.intrinsics = cameras.crop_camera(draw, self.hand.joints[first] + own[:, None], self.size, self.variety)
        self._frame_people()
        middle = cameras.mean(self.hand.joints)
        beside = rows.fork("beside")
        angle = beside.uniform((), 0, 2 * torch.pi)
        depth = beside.uniform((), 0.02, 0.09) * torch.where(beside.bernoulli(0.6), 1.0, -1.0)
        offset = torch.stack([angle.cos(), angle.sin()], 1) * beside.uniform((1,), 0.03, 0.12)
        target = (middle[first] + own)[self.parent] + torch.cat([offset, depth[:, None]], 1)
        flip = torch.stack([self.sign, torch.ones_like(self.sign), torch.ones_like(self.sign)], 1)
        target = target * flip
        self.translation = self.people.place(torch.cat([own, (target - middle)[self.batch :]]), wrist)
        self._join_twins(wrist, arm)
        self.middle = middle + self.translation
        self.vertices = arm.add_(self.translation[..., None])
        start = (wrist + self.translation) * flip
        longer = cameras.arm_stretch(start, direction * flip, self.intrinsics[self.parent], self.size)
        longer = longer.masked_fill(self.people.owns, FOREARM - FOREARM_LENGTH)  # up to the elbow
        self.vertices[..., self.mesh.stretched] += (direction * longer[:, None])[..., None] * self.mesh.stretch

    def _join_twins(self, wrist: Tensor, arm: Tensor) -> None:
        """Put second hands against their samples' own, which have their places."""
        twin = torch.nonzero(self.twin).squeeze(1)
        first = self.parent[twin]
        surface = arm[first, :, : self.mesh.num_hand_vertices] + self.translation[first, :, None]
        draw = self.rows.fork("slide").select(twin)
        place = wrist[first] + self.translation[first]
        self.translation[twin] = twin_translation(
            draw, self.global_orient[first], self.turn[twin], surface, place, wrist[twin]
        )

    def _frame_people(self) -> None:
        """Crops of persons in place of those of their hands, in a share `loose` of their pictures."""
        chosen = self.people.chosen
        draw = self.random.fork("figure").select(chosen)
        far = draw.bernoulli(self.variety.loose)
        whole = cameras.person_camera(draw, self.people.persons.joints, self.size, self.variety)
        self.intrinsics[chosen] = torch.where(far[:, None, None], whole, self.intrinsics[chosen])

    def _shape(self) -> tuple[Tensor, Tensor, Tensor]:
        """Draw pose, shape and orientation of all rows.

        Matrix products may round differently for another number of rows, and vector and scalar instructions differ
        at the end of a tensor; so the hand model sees blocks of one size, whatever the batch.

        Returns:
            (R, 3) wrists, m; (R, 3) unit vectors towards the elbows; (R, 3, Vr) hands with forearms, m.
        """
        count = len(self.parent)
        index = F.pad(self.rows.index, (0, -count % _BLOCK))
        rows = self.rows.on(index)
        hand_pose = sample_poses(rows.fork("pose"), self.variety)
        betas = rows.fork("shape").normal((10,)).clamp(-3, 3)
        if self.shape is not None:
            betas = self.shape.repeat(len(betas), 1)
        orient = cameras.sample_orientation(rows.fork("orientation"), self.variety.views)
        bend = cameras.sample_wrist_bend(rows.fork("wrist"), orient)
        orient = self.people.hold(orient, bend)
        orient, hand_pose, betas, bend = self._pair_twins(rows, orient, hand_pose, betas, bend)
        model, blocks = _hand_model(str(self.device)), []
        for part in zip(*(value.split(_BLOCK) for value in (orient, hand_pose, betas, bend)), strict=True):
            hand = model(*part[:3])
            wrist = hand.skeleton_joints[:, 0]
            blocks.append((hand, wrist, self.mesh.extend(hand.vertices, wrist, part[0], part[3], part[2])))
        hands, wrists, arms = zip(*blocks, strict=True)
        fields = ("vertices", "joints", "skeleton_joints")
        self.hand = HandModelOutput(*(torch.cat([getattr(hand, name) for hand in hands])[:count] for name in fields))
        self.hand_pose, self.betas, self.global_orient = hand_pose[:count], betas[:count], orient[:count]
        return torch.cat(wrists)[:count], (orient @ bend)[:count, :, 0], torch.cat(arms)[:count]

    def _pair_twins(
        self, rows: SampleRandom, orient: Tensor, hand_pose: Tensor, betas: Tensor, bend: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Give twins their samples' pose and shape, and both forearms that stay on their own side.

        All arguments have the rows of whole blocks, and are returned with what has changed.
        """
        padding = (0, len(orient) - len(self.parent))
        own, twin = F.pad(self.parent, padding), F.pad(self.twin, padding)
        pose_of = torch.where(twin, own, torch.arange(len(own), device=self.device))
        paired = torch.zeros_like(twin).index_fill_(0, own[twin], True) | twin
        hand_pose, betas, bend = hand_pose[pose_of], betas[pose_of], bend[pose_of]
        bend = torch.where(paired[:, None, None], arms_apart(bend), bend)
        image, self.turn = twin_orientation(rows.fork("turn"), orient[own])
        return torch.where(twin[:, None, None], image, orient), hand_pose, betas, bend

    def _light(self) -> None:
        """Surface and light of all rows."""
        mesh = self.mesh
        normals = mesh.normals(self.vertices)
        skin = paint(self.skin_random, mesh, self.variety)
        if self.variety.gloves:
            skin = put_on_gloves(self.skin_random.fork("gloves"), skin, mesh, self.variety.gloves)
        self.vertices = dress(skin, mesh, self.vertices, normals)
        light = sample_light(self.random.fork("light"))
        seen: Light = _take(light, self.parent)
        flip = torch.stack([self.sign, torch.ones_like(self.sign), torch.ones_like(self.sign)], 1)
        seen.up, seen.direction = seen.up * flip, seen.direction * flip[:, None]
        turn = self.random.fork("ambient").rotation()[self.parent]
        irradiance, highlight = shade(seen, skin, self.vertices, normals, self.middle, turn)
        colour = highlight.addcmul_(skin.albedo, irradiance)
        hand = slice(0, mesh.num_hand_vertices)
        front = (normals[: self.batch, 2, hand] < 0).float()
        level = (colour[: self.batch, :, hand].mean(1) * front).sum(1) / front.sum(1)
        # The camera's automatic exposure, which knows how dark the skin is only in part.
        exposure = (light.target / level.clamp(min=0.02)).pow(0.75).clamp(max=6.0)[:, None, None]
        values = colour.new_empty(len(colour), 8, mesh.num_vertices)
        torch.mul(colour, exposure[self.parent], out=values[:, :3])
        torch.mul(irradiance, exposure[self.parent], out=values[:, 3:6])
        values[:, 6], values[:, 7] = mesh.rest[:, 0], mesh.noise[-1]
        attributes = values.transpose(1, 2).reshape(-1, 8).contiguous()  # of one row, too: it is read in another way
        variety = self.variety
        self.surface = Surface(mesh, skin, attributes, jewellery=variety.jewellery > 0, gloves=variety.gloves > 0)
        light.sky, light.ground, light.lamp = (
            light.sky * exposure[:, 0],
            light.ground * exposure[:, 0],
            light.lamp * exposure,
        )
        self.light = light

    def _scan(self) -> Scan:
        """All rows, two samples a pixel; empty samples have no hand."""
        gone = torch.cat([self.empty, self.empty.new_zeros(len(self.parent) - self.batch)])
        camera = self.intrinsics[self.parent]
        return scan(self.vertices, self.mesh.faces, camera, self.size, gone=gone, mirrored=self.mirrored)

    def _resolve(self, seen: Scan) -> Tensor:
        """(B, S, S) the key of the nearer sample in each pixel, after second hands have entered the samples' keys."""
        keys = seen.keys
        if len(keys) > self.batch:
            extra = slice(self.batch, None)
            other, parent = keys[extra], self.parent[extra]
            other = torch.where(self.mirrored[extra, None, None], other.flip(2), other)
            own = keys[parent]
            keys[parent] = torch.where((other >> 32) > (own >> 32), other, own)  # low bits depend on the batch
        return nearer_keys(keys[: self.batch])

    def _draw_people(self, back: Tensor) -> Tensor:
        """Paint bodies into the backgrounds (B, 3, S, S); keeps depth.

        Returns:
            (N, S, S) keys of the chosen pictures, see `bodies.draw_bodies`.
        """
        chosen = self.people.chosen
        self.depth = torch.full((self.batch, self.size, self.size), float("inf"), device=self.device)
        clothes = sample_clothes(self.random.fork("clothes").select(chosen), self.surface.skin, chosen)
        light, camera = _take(self.light, chosen), self.intrinsics[chosen]
        keys, self.depth[chosen] = draw_bodies(back, self.people.persons, clothes, light, camera, chosen)
        return keys

    def _draw_hands(self, back: Tensor, body: Tensor) -> Tensor:
        """Paint all rows over the backgrounds (B, 3, S, S), where no body (keys (N, S, S)) is nearer; keeps depth and
        mask."""
        seen = self._scan()
        pick = self._resolve(seen)
        there = pick[self.people.chosen]
        pick[self.people.chosen] = there.masked_fill((body >> 32) > (there >> 32), 0)
        shown = pick > 0
        self._cast_shadow(back, shown)
        self.mask = torch.zeros_like(shown)
        self.area = torch.zeros(len(self.parent), device=self.device)  # px of each row's hand
        where = nonzero(shown.view(-1))
        for part in where.split(_CPU_PIXELS if self.device.type == "cpu" else max(len(where), 1)):
            self._paint(back, seen, part, pick.view(-1).index_select(0, part))
        return back

    def _paint(self, back: Tensor, seen: Scan, where: Tensor, key: Tensor) -> None:
        """Paint pixels (P,), flat over (B, S, S), where keys (P,) are seen."""
        row = seen.image.index_select(0, seen.record(key))
        sample = self.parent.int().index_select(0, row)
        look = look_at(seen, where, key, sample, self.mirrored.index_select(0, row))
        blend(back, where, sample, look.cover, self.surface.colour(look.weights, look.face, row))
        self.depth.view(-1).scatter_(0, where, look.depth)
        hand = self.mesh.hand_face.index_select(0, look.face)
        self.area.index_add_(0, row, hand.float())
        self.mask.view(-1).scatter_(0, where, hand & (row < self.batch))

    def _cast_shadow(self, back: Tensor, shown: Tensor) -> None:
        """A soft shadow of the hand on what is behind it, in some of the pictures, in place."""
        draw = self.random.fork("background shadow")
        chosen = torch.nonzero(draw.bernoulli(self.variety.shadows)).squeeze(1)
        if not len(chosen) or self.size % 8:
            return
        draw = draw.select(chosen)
        soft = F.avg_pool2d(shown[chosen, None].float(), 8)
        soft = torch.where(draw.bernoulli(0.5, (1, 1, 1)), F.avg_pool2d(soft, 3, 1, 1), soft)
        move = draw.normal((1, 1, 2), 0.0, 0.10).expand(-1, self.size // 8, self.size // 8, -1)
        axis = torch.linspace(-1, 1, self.size // 8, device=self.device)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), 2) + move
        soft = F.grid_sample(soft, grid, padding_mode="border", align_corners=True)
        soft = F.interpolate(soft, (self.size, self.size), mode="bilinear")
        back[chosen] *= 1 - soft * draw.uniform((1, 1, 1), 0.15, 0.65)

    def _draw_things(self, picture: Tensor) -> Tensor:
        """Objects in and before the hand, and in every picture without one; they take from depth and mask."""
        draw = self.random.fork("thing")
        chosen = torch.nonzero(draw.bernoulli(self.variety.things) | self.empty).squeeze(1)
        if not len(chosen):
            return picture
        draw = draw.select(chosen)
        joints = self.hand.joints[chosen] + self.translation[chosen, None]
        things = sample_things(draw, joints, draw.bernoulli(HELD))
        camera = self.intrinsics[chosen]
        depth, face = cast(things, camera, self.size)
        front = depth < self.depth[chosen]
        # Pixels at the rim mix with what is behind them: the rays know no fractions.
        cover = front.float()[:, None]
        third = cover.new_full((len(cover),), 1 / 3)
        cover = soften(soften(cover, third, 2), third, 3)
        flat = nonzero(front.view(-1))
        line = flat.div(self.size, rounding_mode="floor")
        thing = line.div(self.size, rounding_mode="floor")
        where = thing, line - thing * self.size, flat - line * self.size
        hit, side = depth.view(-1).index_select(0, flat), face.view(-1).index_select(0, flat)
        colour = shade_things(things, _take(self.light, chosen), camera, where, hit, side)
        sample = chosen.index_select(0, thing)
        flat_picture = flat + (sample - thing) * self.size**2
        blend(picture, flat_picture, sample, cover.view(-1).index_select(0, flat), colour)
        self.depth.view(-1).scatter_(0, flat_picture, hit)
        self.mask.view(-1).scatter_(0, flat_picture, torch.zeros_like(flat, dtype=torch.bool))
        return picture

    def _label(self, images: Tensor) -> SyntheticBatch:
        """Labels of the samples; left hands are right ones whose picture is flipped last."""
        first, size, hands = slice(0, self.batch), self.size, self._hands()
        joints = self.hand.joints[first] + self.translation[first, None]
        labels = {
            "global_orient": self.global_orient[first].clone(),
            "hand_pose": self.hand_pose[first].clone(),
            "betas": self.betas[first].clone(),
            "vertices": self.hand.vertices[first] + self.translation[first, None],
            "joints": joints,
            "keypoints_2d": project(joints, self.intrinsics),
        }
        negative = self.left | self.empty
        visible = self._visible(joints, labels["keypoints_2d"]) & ~negative[:, None]
        for value in labels.values():
            value.masked_fill_(negative.view(-1, *[1] * (value.ndim - 1)), float("nan"))
        left = self.left[:, None, None]
        images = torch.where(left[..., None], images.flip(2), images)
        mask = torch.where(left, self.mask.flip(2), self.mask)
        labels |= {"hand": (~negative).float(), "mask": mask, "visibility": visible}
        centre = self.intrinsics[:, 0, 2]
        self.intrinsics[:, 0, 2] = torch.where(self.left, size - 1 - centre, centre)
        return SyntheticBatch(images, self.intrinsics, labels, hands)

    def _hands(self) -> HandsShown:
        """Of all rows but those of empty pictures, as the pictures show them in the end."""
        camera, left = self.intrinsics[self.parent], self.left[self.parent]
        # By single operations: a matrix product may round differently for another number of rows.
        x, y, depth = (self.hand.joints + self.translation[:, None]).unbind(2)
        x, y = x / depth * camera[:, 0, 0, None], y / depth * camera[:, 1, 1, None]
        x, y = torch.where(self.mirrored[:, None], -x, x) + camera[:, 0, 2, None], y + camera[:, 1, 2, None]
        x = torch.where(left[:, None], self.size - 1 - x, x)
        low, high = (torch.stack([value(x, 1), value(y, 1)], 1) for value in (torch.amin, torch.amax))
        shown = self.area / (high - low).prod(1)
        order = self.parent.argsort(stable=True)
        there = order[~self.empty[self.parent[order]]]
        rows = (self.parent, torch.cat([low, high], 1), self.mirrored ^ left, shown)
        return HandsShown(*(value.index_select(0, there) for value in rows))

    def _visible(self, joints: Tensor, keypoints: Tensor) -> Tensor:
        """(B, 21) bool: in the picture, on the hand's mask, nothing but its own flesh before it."""
        size = self.size
        inside = ((keypoints > -0.5) & (keypoints < size - 0.5)).all(2)
        look = keypoints.clone()  # a fingertip lies on the rim: look a little further in
        look[:, _TIPS] = torch.lerp(keypoints[:, _TIPS], keypoints[:, _NEXT], 0.15)
        x, y = look.round().long().clamp(0, size - 1).unbind(2)
        sample = torch.arange(self.batch, device=self.device)[:, None]
        flesh = constant(_FLESH, self.device)
        return inside & (self.depth[sample, y, x] > joints[..., 2] - flesh) & self.mask[sample, y, x]
