"""The hand with its forearm, as the pictures show it, and the maps that its skin is painted from."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

import torch
import torch.nn.functional as F
from safetensors.torch import load as load_safetensors
from torch import Tensor

from .relief import KNUCKLES, draw_reliefs, face_texels, widen_margin

# Rest space is MANO's: fingers along -x, back of the hand +y, thumb +z; so the elbow lies along +x.
_BEND_END = 0.06  # m past the wrist, beyond which the forearm is rigid and may be cut finer and stretched
FOREARM_LENGTH = 0.34  # m from the wrist to the cut end, before `cameras.arm_stretch`
TEXTURE_SIDE = 256
_MARGIN = 2  # texels around the texture's islands
_NUM_NOISE = 24
_NUM_WAVES = 24


@dataclass
class HandMesh:
    """Constant arrays of the rendered mesh; its first `num_hand_vertices` rows are the hand model's vertices.

    Attributes:
        faces: (F, 3) int64, outward winding.
        hand_face: (F,) bool, faces that belong to the hand and not to the forearm.
        ring_face: (F,) uint8, whose ring could lie there: 1 to 4 for index, middle, ring and little finger, 0 nobody's.
        ring_place: (F, 3) where its corners lie between that finger's knuckle (0) and middle joint (1).
        num_hand_vertices: V of the hand model. num_moved_hand_vertices: how many of `moved` are among them, first.
        moved: (M,) int64 vertices that the forearm's own rotation moves, or that the hand model lacks.
        moved_template: (3, M), m. moved_shape_dirs: (10, 3 * M), m per unit of betas.
        moved_weight: (M,) share of the forearm's rotation, in [0, 1].
        rest: (Vr, 3) rest positions of all rendered vertices, m.
        dorsal, redness: (Vr,) in [0, 1], smooth maps on the skin.
        face_texel: (2, 3, F) texels, u right and v down, of each corner; the forearm lies on a blank one.
        texture: (TEXTURE_SIDE^2, 4) in [0, 1]: crease, knuckle, redness, nail.
        texture_kind: (TEXTURE_SIDE^2,) uint8, 1: crease or knuckle there, 2: nail, 3: both.
        relief: (NUM_RELIEFS * TEXTURE_SIDE^2, 3) see `relief.draw_reliefs`; 0 on the forearm.
        noise: (_NUM_NOISE, Vr) smooth random fields on the skin, mean 0, standard deviation 1, fine ones last.
        stretched: (S,) int64 vertices of the rigid forearm. stretch: (S,) share, in [0, 1], of a lengthening of the arm
            that moves each.
        incident: (Vr, K) int64 faces at each vertex, filled up with F.
    """

    faces: Tensor
    hand_face: Tensor
    ring_face: Tensor
    ring_place: Tensor
    num_hand_vertices: int
    num_moved_hand_vertices: int
    moved: Tensor
    moved_template: Tensor
    moved_shape_dirs: Tensor
    moved_weight: Tensor
    rest: Tensor
    dorsal: Tensor
    redness: Tensor
    face_texel: Tensor
    texture: Tensor
    texture_kind: Tensor
    relief: Tensor
    noise: Tensor
    stretched: Tensor
    stretch: Tensor
    incident: Tensor

    @property
    def num_vertices(self) -> int:
        """Vr, hand and forearm."""
        return self.rest.shape[0]

    def extend(self, vertices: Tensor, wrist: Tensor, global_orient: Tensor, forearm: Tensor, betas: Tensor) -> Tensor:
        """Put the forearm on posed hands and bend them at the wrist.

        Args:
            vertices: (B, V, 3) of the hand model without translation, m.
            wrist: (B, 3) the wrist joint of the same, m.
            global_orient: (B, 3, 3). forearm: (B, 3, 3) rotation of the forearm relative to the hand.
            betas: (B, 10).

        Returns:
            (B, 3, Vr), m, the same frame; coordinates lie apart, which keeps all later arithmetic in vector registers.
        """
        rest = torch.addmm(self.moved_template.view(-1), betas, self.moved_shape_dirs).view(len(betas), 3, -1)
        rest = rest - wrist[..., None]
        straight = global_orient @ rest
        change = ((global_orient @ forearm) @ rest - straight) * self.moved_weight
        result = vertices.new_empty(len(betas), 3, self.num_vertices)
        result[..., : self.num_hand_vertices] = vertices.transpose(1, 2)
        # The hand model's own vertices keep their pose correctives; only the turn of the forearm is added.
        own = self.num_moved_hand_vertices
        result[..., self.moved[:own]] += change[..., :own]
        result[..., self.num_hand_vertices :] = (change + straight)[..., own:] + wrist[..., None]
        return result

    def normals(self, vertices: Tensor) -> Tensor:
        """(B, 3, Vr) area-weighted unit normals of vertices (B, 3, Vr); outward."""
        flat = vertices.permute(2, 1, 0).contiguous()  # (Vr, 3, B): gathers and sums copy whole rows
        a, b, c = (flat.index_select(0, self.faces[:, k]) for k in range(3))
        (px, py, pz), (qx, qy, qz) = b.sub_(a).unbind(1), c.sub_(a).unbind(1)
        face = flat.new_zeros(len(self.faces) + 1, 3, flat.shape[2])
        torch.sub(py * qz, pz * qy, out=face[:-1, 0])
        torch.sub(pz * qx, px * qz, out=face[:-1, 1])
        torch.sub(px * qy, py * qx, out=face[:-1, 2])
        normal = F.embedding_bag(self.incident, face.flatten(1), mode="sum").view_as(flat).permute(2, 1, 0).contiguous()
        return unit(normal)


def unit(vector: Tensor) -> Tensor:
    """Unit vectors along dim 1 of (B, 3, ...), in place."""
    x, y, z = vector.unbind(1)
    return vector.mul_((x * x).addcmul_(y, y).addcmul_(z, z).add_(1e-20).rsqrt_()[:, None])


@functools.lru_cache(maxsize=4)
def load_hand_mesh(device: str = "cpu") -> HandMesh:
    """The rendered mesh of the open hand, from the package's asset."""
    arrays = load_safetensors((resources.files("handmim") / "assets" / "open_hand.safetensors").read_bytes())
    num_hand = len(arrays["template"])
    vertex = {
        "rest": arrays["render_template"].float(),
        "shape": arrays["render_shape_dirs"].float().flatten(1),
        **{name: arrays[name].float()[:, None] for name in ("lower_arm", "dorsal", "redness")},
    }
    faces, face_uv, vertex = _refine_forearm(arrays["render_faces"].long(), arrays["render_face_uv"].long(), vertex)
    rest, lower_arm = _lengthen(vertex["rest"]), vertex["lower_arm"][:, 0]
    moved = torch.nonzero((lower_arm > 0) | (torch.arange(len(rest)) >= num_hand)).squeeze(1)
    shape = vertex["shape"].view(len(rest), 3, 10)[moved]
    stretch = ((rest[:, 0] - _BEND_END) / (FOREARM_LENGTH - _BEND_END)).clamp(0, 1)
    stretched = torch.nonzero(stretch > 0).squeeze(1)
    texture = arrays["texture"].view(-1, 4).float() / 255
    texture[0] = 0  # the forearm's
    uv = torch.cat([arrays["render_uv"].float() * TEXTURE_SIDE, torch.zeros(1, 2)])
    tensors = {
        "faces": faces,
        "hand_face": (faces < num_hand).all(1),
        **_ring_faces(faces, rest, arrays),
        "moved": moved,
        "moved_template": rest[moved].T.contiguous(),
        "moved_shape_dirs": shape.permute(2, 1, 0).reshape(10, -1).contiguous(),
        "moved_weight": lower_arm[moved],
        "rest": rest,
        "dorsal": vertex["dorsal"][:, 0],
        "redness": vertex["redness"][:, 0],
        "face_texel": uv[face_uv].permute(2, 1, 0).contiguous(),
        "texture": texture,
        "texture_kind": (texture[:, :2].amax(1) > 0).byte() + (texture[:, 3] > 0).byte() * 2,
        "relief": _reliefs(faces, uv[face_uv], rest, vertex["dorsal"], arrays),
        "noise": _noise_fields(rest),
        "stretched": stretched,
        "stretch": stretch[stretched],
        "incident": _incident_faces(faces, len(rest)),
    }
    tensors = {name: value.to(device) for name, value in tensors.items()}
    return HandMesh(num_hand_vertices=num_hand, num_moved_hand_vertices=int((moved < num_hand).sum()), **tensors)


def _incident_faces(faces: Tensor, num_vertices: int) -> Tensor:
    """(num_vertices, K) int64 rows of `faces` at each vertex, filled up with len(faces)."""
    vertex, order = faces.flatten().sort(stable=True)
    count = torch.bincount(vertex, minlength=num_vertices)
    place = torch.arange(len(vertex)) - (count.cumsum(0) - count)[vertex]
    table = torch.full((num_vertices, int(count.max())), len(faces))
    table[vertex, place] = order // 3
    return table


def _refine_forearm(
    faces: Tensor, face_uv: Tensor, vertex: dict[str, Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Cut each rigid forearm face into four, so that a cuff has an edge.

    Args:
        faces, face_uv: (F, 3) int64.
        vertex: (Vr, C) attributes; midpoints take the mean of their ends.

    Returns:
        The three, refined; new faces have the last row of `uv` plus one, for a blank texel.
    """
    inside = (vertex["rest"][:, 0] > _BEND_END)[faces].all(1)
    coarse = faces[inside]
    edges = torch.cat([coarse[:, [0, 1]], coarse[:, [1, 2]], coarse[:, [2, 0]]]).sort(1).values
    unique, inverse = torch.unique(edges, dim=0, return_inverse=True)
    start = len(vertex["rest"])
    ab, bc, ca = (inverse + start).view(3, -1)
    a, b, c = coarse.unbind(1)
    fine = torch.stack([a, ab, ca, ab, b, bc, ca, bc, c, ab, bc, ca], 1).view(-1, 3)
    vertex = {k: torch.cat([v, (v[unique[:, 0]] + v[unique[:, 1]]) / 2]) for k, v in vertex.items()}
    blank = torch.full_like(fine, int(face_uv.max()) + 1)
    return torch.cat([faces[~inside], fine]), torch.cat([face_uv[~inside], blank]), vertex


def _lengthen(rest: Tensor) -> Tensor:
    """Stretch the rigid part of the forearm along x to `FOREARM_LENGTH`, if it is shorter."""
    end = float(rest[:, 0].max())
    factor = max(1.0, (FOREARM_LENGTH - _BEND_END) / (end - _BEND_END))
    x = rest[:, :1]
    return torch.cat([torch.where(x > _BEND_END, _BEND_END + (x - _BEND_END) * factor, x), rest[:, 1:]], 1)


def _ring_faces(faces: Tensor, rest: Tensor, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """`HandMesh.ring_face` and `ring_place`."""
    weights = arrays["skinning_weights"].float()
    joints = arrays["joint_regressor"].float() @ arrays["template"].float()
    own = F.pad(weights, (0, 0, 0, len(rest) - len(weights)))[faces].mean(1)  # (F, 16); the forearm's is 0
    finger, place = torch.zeros(len(faces), dtype=torch.uint8), torch.zeros(len(faces), 3)
    for number, knuckle in enumerate(KNUCKLES, 1):
        bone = joints[knuckle + 1] - joints[knuckle]
        along = (rest[faces] - joints[knuckle]) @ bone / bone.square().sum()
        chosen = (own[:, knuckle] > 0.5) & (along.amax(1) > 0.2) & (along.amin(1) < 0.8)
        finger[chosen], place[chosen] = number, along[chosen]
    return {"ring_face": finger, "ring_place": place}


def _reliefs(faces: Tensor, corners: Tensor, rest: Tensor, dorsal: Tensor, arrays: dict[str, Tensor]) -> Tensor:
    """`HandMesh.relief`."""
    joints = arrays["joint_regressor"].float() @ arrays["template"].float()
    hand = (faces < len(arrays["template"])).all(1)
    surface = face_texels(corners[hand], torch.cat([rest, dorsal], 1)[faces[hand]], TEXTURE_SIDE)
    for _ in range(_MARGIN):
        surface = widen_margin(surface, TEXTURE_SIDE)
    there = ~surface[:, 0].isnan()
    maps = draw_reliefs(surface[there, :3], surface[there, 3], joints)
    result = torch.zeros(len(maps), len(surface), maps.shape[2])
    result[:, there] = maps
    return result.flatten(0, 1)


def _noise_fields(rest: Tensor) -> Tensor:
    """Sums of random plane waves in rest space: a third each of about 60, 20 and 9 mm wavelength."""
    generator = torch.Generator().manual_seed(20)
    fields = []
    for k in range(_NUM_NOISE):
        wavelength = (0.06, 0.02, 0.009)[k * 3 // _NUM_NOISE]
        wave = torch.randn(3, _NUM_WAVES, generator=generator) * (2 * torch.pi / wavelength / 1.7)
        field = torch.sin(rest @ wave + torch.rand(_NUM_WAVES, generator=generator) * 2 * torch.pi).sum(1)
        fields.append((field - field.mean()) / field.std())
    return torch.stack(fields)
