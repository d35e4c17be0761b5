"""Relief of the skin: what is fine, where it lies, and that it is colour alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handmim.synthesis import generate
from handmim.synthesis.hand_mesh import TEXTURE_SIDE, HandMesh, load_hand_mesh
from handmim.synthesis.relief import NUM_RELIEFS, _Waves, draw_reliefs, face_texels, widen_margin

SIDE = 32


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_texels_take_the_values_of_their_faces(seed: int):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(1, 3, 2, generator=generator) * 8 + torch.rand(2, generator=generator) * 20
    values = torch.cat([corners, torch.ones(1, 3, 1)], 2)  # where they lie, and a constant
    texels = face_texels(corners, values, SIDE)
    there = torch.nonzero(~texels[:, 0].isnan()).squeeze(1)
    centres = torch.stack([there % SIDE, there // SIDE], 1) + 0.5
    assert len(there) and (texels[there, 2] - 1).abs().max() < 1e-5
    assert (texels[there, :2] - centres).abs().max() < 0.5 + 1e-4


def test_texels_of_many_faces_take_the_first():
    """What an assignment by index kept depended on the threads: hands differed from machine to machine."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(3000, 3, 2, generator=generator) * SIDE
    values = torch.rand(3000, 3, 4, generator=generator)
    twice = face_texels(torch.cat([corners, corners]), torch.cat([values, values + 1]), SIDE)
    assert torch.equal(twice, face_texels(corners, values, SIDE))


def test_a_margin_takes_the_mean_of_its_neighbours():
    texels = torch.full((5, 5, 2), float("nan"))
    texels[2, 2], texels[2, 3] = torch.tensor([1.0, 10.0]), torch.tensor([3.0, 30.0])
    wide = widen_margin(texels.flatten(0, 1), 5).view(5, 5, 2)
    assert torch.equal(wide[2, 2:4], texels[2, 2:4])
    assert torch.allclose(wide[1, 1:], torch.tensor([[1.0, 10.0], [2.0, 20.0], [2.0, 20.0], [3.0, 30.0]]))
    assert wide[:, 0].isnan().all() and wide[[0, 4]].isnan().all()


def test_all_texels_inside_a_face_are_found():
    corners = torch.tensor([[[2.0, 3.0], [9.5, 4.0], [4.0, 9.0]]])
    texels = face_texels(corners, torch.ones(1, 3, 1), SIDE).view(SIDE, SIDE)
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    inside = torch.ones(SIDE, SIDE, dtype=torch.bool)
    for start, end in ((0, 1), (1, 2), (2, 0)):
        (ax, ay), (bx, by) = corners[0, start].tolist(), corners[0, end].tolist()
        inside &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0
    assert inside.sum() > 15 and not texels[inside].isnan().any()


def test_lines_are_as_wide_as_asked():
    waves = _Waves(0.04, torch.Generator().manual_seed(0))
    points = torch.rand(20000, 3, generator=torch.Generator().manual_seed(1)) * 0.2
    narrow, wide = ((waves.valleys(points, width) > 0.5).float().mean() for width in (0.0008, 0.0016))
    assert wide / narrow == pytest.approx(2, rel=0.15)
    assert waves(points).std() == pytest.approx(1, rel=0.15)


def texel_maps() -> tuple[HandMesh, torch.Tensor, torch.Tensor]:
    """The mesh; reliefs (NUM_RELIEFS, T, 3) of the hand's texels; how much these lie on the back (T,)."""
    mesh = load_hand_mesh()
    faces = mesh.hand_face
    values = torch.cat([mesh.rest, mesh.dorsal[:, None]], 1)[mesh.faces[faces]]
    surface = face_texels(mesh.face_texel[..., faces].permute(2, 1, 0), values, TEXTURE_SIDE)
    there = ~surface[:, 0].isnan()
    return mesh, mesh.relief.view(NUM_RELIEFS, -1, 3)[:, there], surface[there, 3]


def test_hands_differ_and_the_forearm_is_smooth():
    mesh, maps, _ = texel_maps()
    assert maps.isfinite().all() and maps[..., 0].abs().max() <= 1 and 0 <= maps[..., 1:].min() <= maps.max() <= 1
    flat = maps[..., 0] / maps[..., 0].std(1, keepdim=True)
    alike = (flat @ flat.T / flat.shape[1]).fill_diagonal_(0)
    assert alike.abs().max() < 0.5
    arm = mesh.face_texel[..., (mesh.rest[mesh.faces, 0] > 0.07).all(1)]  # past the wrist's bend: one blank texel
    assert arm.abs().max() == 0 and mesh.relief.view(NUM_RELIEFS, -1, 3)[:, 0].abs().max() == 0


def test_veins_and_dark_joints_lie_on_the_back():
    _, maps, dorsal = texel_maps()
    for kind, limit in ((1, 0.5), (2, 0.3)):
        assert maps[:, dorsal < limit, kind].max() < 1e-6 < 0.1 < maps[:, dorsal > 0.8, kind].max()


def test_slopes_are_those_of_the_height():
    """A shorter step does not change what light from the side sees of it."""
    generator = torch.Generator().manual_seed(3)
    points = torch.rand(500, 3, generator=generator) * torch.tensor([-0.1, 0.01, 0.06])
    joints = torch.randn(16, 3, generator=generator) * 0.05
    maps = draw_reliefs(points, torch.ones(500), joints)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("handmim.synthesis.relief._STEP", 1e-4)
        finer = draw_reliefs(points, torch.ones(500), joints)
    assert (maps - finer).abs().mean() < 0.1 * maps[..., 0].abs().mean()


@pytest.mark.usefixtures("small_bank")
def test_relief_changes_the_skin_and_nothing_else():
    clean = {"base": "plain", "sleeves": 0, "shadows": 0}
    fine, smooth = (generate(6, range(16), size=64, variety=clean | {"relief": share}) for share in (1, 0))
    changed = (fine.images.int() - smooth.images.int()).abs().amax(3)
    mask = smooth.labels["mask"] > 0
    assert (changed[mask].float() > 2).float().mean() > 0.05
    # a picture's brightness follows the hand's, so that the background may change by a step
    assert changed[~mask].float().quantile(0.9) <= 1
    for name, value in fine.labels.items():
        assert torch.equal(value, smooth.labels[name]), name
