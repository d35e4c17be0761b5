"""The colour of single pixels of hands: the vertices' light, and what is finer than the mesh or lies upon it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..constants import constant
from ..scan_conversion import nonzero
from .hand_mesh import TEXTURE_SIDE, HandMesh
from .skin import RING_PLACE, Skin

# Shares of light that a vein and dark skin swallow: the one looks blue or green, the other brown.
VEIN, PIGMENT = (1.0, 0.75, 0.45), (0.75, 1.0, 1.0)


@dataclass(frozen=True)
class Surface:
    """R lit hands with their forearms. Of P pixels, `row` (P,) says whose hand each shows and `face` (P,) which face.

    Attributes:
        mesh: Of all hands.
        skin: Of each hand.
        attributes: (R * Vr, 8) of each vertex: colour and irradiance, linear; place along the arm, m; grain.
        jewellery: Whether any hand may have some.
        gloves: Whether any may be in one.
    """

    mesh: HandMesh
    skin: Skin
    attributes: Tensor
    jewellery: bool
    gloves: bool

    def colour(self, weights: Tensor, face: Tensor, row: Tensor) -> Tensor:
        """(P, 3) linear colour of chosen samples: the vertices' light, and what is finer than the mesh."""
        corners = self.mesh.faces.index_select(0, face) + (row * self.mesh.num_vertices)[:, None]
        values = F.embedding_bag(corners, self.attributes, per_sample_weights=weights, mode="sum")
        colour, irradiance, along = values[:, :3], values[:, 3:6], values[:, 6]
        self._detail(colour, irradiance, weights, face, row)
        if self.jewellery:
            self._adorn(colour, irradiance, along, weights, face, row)
        if self.gloves:
            self._bare(colour, irradiance, along, row)
        covered = nonzero(along > self.skin.sleeve_start.index_select(0, row))
        if len(covered):
            row, value = row.index_select(0, covered), values.index_select(0, covered)
            along, start = value[:, 6].contiguous(), self.skin.sleeve_start.index_select(0, row)
            stripes = torch.frac(along * self.skin.sleeve_stripes.index_select(0, row)) > 0.5
            cloth = self.skin.sleeve_colour.view(-1, 3).index_select(0, row * 2 + stripes)
            cuff = along.sub_(start).div_(0.004).clamp_(0, 1).mul_(0.45).add_(0.55)  # the rim lies in its own shadow
            cuff = cuff.addcmul_(cuff, value[:, 7], value=0.08)
            colour.index_copy_(0, covered, cloth.mul_(value[:, 3:6]).mul_(cuff[:, None]))
        return colour

    def _bare(self, colour: Tensor, irradiance: Tensor, along: Tensor, row: Tensor) -> None:
        """The skin of the arm behind the end of a glove, on colours (P, 3) in place."""
        past = along - self.skin.glove_end.index_select(0, row)
        where = nonzero(past > 0)
        tone = self.skin.tone.index_select(0, row.index_select(0, where))
        rim = (past.index_select(0, where) / 0.004).clamp_(0, 1).mul_(0.4).add_(0.6)  # in the glove's shadow
        colour.index_copy_(0, where, tone * irradiance.index_select(0, where) * rim[:, None])

    def _adorn(
        self, colour: Tensor, irradiance: Tensor, along: Tensor, weights: Tensor, face: Tensor, row: Tensor
    ) -> None:
        """Rings and bands around the wrist, on colours (P, 3) in place."""
        skin, finger = self.skin, self.mesh.ring_face.index_select(0, face)
        place = (self.mesh.ring_place.index_select(0, face) * weights).sum(1)
        here = (place - RING_PLACE).abs() < skin.ring_width.index_select(0, row)
        ring = nonzero((finger > 0) & (finger == skin.ring_finger.index_select(0, row)) & here)
        first, last = skin.band.index_select(0, row).unbind(1)
        band = nonzero((along > first) & (along < last))
        for kind, where in enumerate((ring, band)):
            metal = skin.metal[:, kind].index_select(0, row.index_select(0, where))
            colour.index_copy_(0, where, metal * irradiance.index_select(0, where))

    def _detail(self, colour: Tensor, irradiance: Tensor, weights: Tensor, face: Tensor, row: Tensor) -> None:
        """Relief, creases, folds over the knuckles and nails from the textures, on colours (P, 3) in place."""
        mesh, side = self.mesh, TEXTURE_SIDE
        x, y = (
            sum(corner.index_select(0, face) * weights[:, k] for k, corner in enumerate(axis)).int().clamp_(0, side - 1)
            for axis in mesh.face_texel
        )
        texel = y.mul_(side).add_(x)
        own = self.skin.relief.index_select(0, row).mul_(side * side).add_(texel)
        fine = mesh.relief.index_select(0, own).mul_(self.skin.relief_strength.index_select(0, row))
        shade = torch.addcmul(1 + fine[:, :1], fine[:, 1:2], constant(VEIN, colour.device), value=-1)
        colour.mul_(shade.addcmul_(fine[:, 2:], constant(PIGMENT, colour.device), value=-1))
        kind = mesh.texture_kind.index_select(0, texel)
        fold, nail = nonzero(kind & 1), nonzero(kind & 2)
        look = mesh.texture.index_select(0, texel.index_select(0, fold))
        dark = self.skin.detail.index_select(0, row.index_select(0, fold))
        dark = (dark[:, 0] * look[:, :1]).addcmul_(dark[:, 1], look[:, 1:2]).neg_().add_(1).clamp_(min=0.1)
        colour.index_copy_(0, fold, dark.mul_(colour.index_select(0, fold)))
        look = mesh.texture.index_select(0, texel.index_select(0, nail))
        varnish = self.skin.nail.index_select(0, row.index_select(0, nail)) * irradiance.index_select(0, nail)
        colour.index_copy_(0, nail, torch.lerp(colour.index_select(0, nail), varnish, look[:, 3:]))
