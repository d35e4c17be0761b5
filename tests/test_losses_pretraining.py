"""Tests of the pre-training losses: each formula beside a slow version of its own, and the alignment's inverse."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from handmim import losses_pretraining as losses

TRANSFORM = st.tuples(
    st.floats(-2 * math.pi, 2 * math.pi), st.floats(0.5, 4), st.floats(-3, 3), st.floats(-3, 3)
)  # angle, gamma, a, b
COORDINATE = st.floats(-1, 1, width=32)


def random_distribution(*shape: int) -> Tensor:
    return (2 * torch.randn(shape)).softmax(-1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


class TestAlignment:
    @settings(max_examples=200, deadline=None)
    @given(transform=TRANSFORM, point=st.tuples(COORDINATE, COORDINATE))
    def test_equation_4_undoes_equation_3(self, transform: tuple[float, ...], point: tuple[float, float]) -> None:
        transforms, points = torch.tensor([transform]), torch.tensor([[point]])
        there = losses.warp_points(points, transforms)
        torch.testing.assert_close(losses.align_points(there, transforms), points, rtol=0, atol=1e-5)
        back = losses.align_points(points, transforms)
        torch.testing.assert_close(losses.warp_points(back, transforms), points, rtol=0, atol=1e-5)

    @given(transform=TRANSFORM, point=st.tuples(COORDINATE, COORDINATE))
    @settings(max_examples=50, deadline=None)
    def test_equation_3_by_hand(self, transform: tuple[float, ...], point: tuple[float, float]) -> None:
        angle, gamma, a, b = transform
        x, y = point[0] * gamma - a, point[1] * gamma - b
        expected = torch.tensor([math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y])
        warped = losses.warp_points(torch.tensor([point]), torch.tensor(transform))
        torch.testing.assert_close(warped[0], expected, rtol=1e-4, atol=1e-5)

    def test_a_quarter_turn_takes_right_to_down(self) -> None:
        """With y down a positive angle turns the picture clockwise."""
        turned = losses.warp_points(torch.tensor([[1.0, 0.0]]), torch.tensor([math.pi / 2, 1.0, 0.0, 0.0]))
        torch.testing.assert_close(turned, torch.tensor([[0.0, 1.0]]), rtol=0, atol=1e-6)

    def test_a_crop_is_brought_to_its_edges(self) -> None:
        """The right lower quarter of an image: gamma 2, (a, b) = gamma times its centre."""
        corners = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]])
        view = losses.warp_points(corners, torch.tensor([0.0, 2.0, 1.0, 1.0]))
        assert torch.equal(view, torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]]))

    def test_batches_are_rows(self) -> None:
        points, transforms = torch.randn(3, 2, 5, 2), torch.rand(3, 2, 4) + 0.5
        together = losses.align_points(points, transforms)
        for i in range(3):
            for j in range(2):
                alone = losses.align_points(points[i, j], transforms[i, j])
                torch.testing.assert_close(together[i, j], alone)

    def test_extent_is_the_unit_of_the_points(self) -> None:
        points, transforms = torch.randn(4, 5, 2), torch.rand(4, 4) + 0.5
        extent = torch.rand(4, 1, 1) + 0.1
        torch.testing.assert_close(
            losses.align_points(points * extent, transforms, extent), losses.align_points(points, transforms) * extent
        )


class TestDistillation:
    def test_cross_entropy_is_torchs(self) -> None:
        target, logits = random_distribution(7, 11), (30 * torch.randn(7, 11)).requires_grad_()
        expected = torch.nn.functional.cross_entropy(logits, target, reduction="none")
        actual = losses.cross_entropy(target, logits)
        torch.testing.assert_close(actual, expected)
        grads = [torch.autograd.grad(value.sum(), logits)[0] for value in (actual, expected)]
        torch.testing.assert_close(*grads)

    def test_sharpen(self) -> None:
        logits, center = torch.randn(3, 5), torch.randn(5)
        shifted = [[math.exp((v - c) / 0.07) for v, c in zip(row, center.tolist(), strict=True)] for row in logits]
        expected = torch.tensor([[v / sum(row) for v in row] for row in shifted])
        torch.testing.assert_close(losses.sharpen(logits, center, 0.07), expected, rtol=1e-4, atol=1e-6)

    def test_equation_6_crosses_the_views(self) -> None:
        target, logits = random_distribution(3, 2, 6), torch.randn(3, 2, 6)
        terms = []
        for i in range(3):
            (u, v), (u_hat, v_hat) = target[i], logits[i].log_softmax(-1)
            terms += [-(u * v_hat).sum(), -(v * u_hat).sum()]
        torch.testing.assert_close(losses.pose_loss(target, logits), torch.stack(terms).mean())

    def test_equation_7_is_a_mean_over_patches_then_views(self) -> None:
        mask = torch.rand(4, 9) < 0.4
        mask[0] = False
        target, logits = random_distribution(4, 9, 5), torch.randn(4, 9, 5)
        views = []
        for v in range(4):
            terms = [
                -(target[v, n] * logits[v, n].log_softmax(-1)).sum() for n in range(9) if mask[v, n]
            ]  # parallel: the same view and place
            views.append(torch.stack(terms).mean() if terms else torch.tensor(0.0))
        actual = losses.patch_loss(target[mask], logits[mask], losses.view_weights(mask))
        torch.testing.assert_close(actual, torch.stack(views).mean())

    def test_nothing_masked_is_zero_and_trains(self) -> None:
        mask = torch.zeros(2, 4, dtype=torch.bool)
        logits = torch.randn(0, 5, requires_grad=True)
        loss = losses.patch_loss(random_distribution(0, 5), logits, losses.view_weights(mask))
        loss.backward()
        assert loss == 0 and logits.grad is not None


class TestPixels:
    def test_equation_9(self) -> None:
        mask = torch.rand(2, 6) < 0.5
        mask[:, 0] = True
        pixels, target = torch.randn(2, 6, 3, 4, 4), torch.randn(2, 6, 3, 4, 4)
        views = []
        for v in range(2):
            values = [
                abs(float(p) - float(t))
                for n in range(6)
                if mask[v, n]
                for p, t in zip(pixels[v, n].flatten(), target[v, n].flatten(), strict=True)
            ]
            views.append(sum(values) / len(values))
        actual = losses.reconstruction_loss(pixels[mask], target[mask], losses.view_weights(mask))
        assert actual.item() == pytest.approx(sum(views) / 2, rel=1e-5)


class TestContrast:
    def test_nt_xent(self) -> None:
        views = torch.randn(3, 2, 5)
        flat = [view / view.norm() for sample in views for view in sample]  # pairs: (0, 1), (2, 3), (4, 5)
        terms = []
        for i, anchor in enumerate(flat):
            others = [math.exp(float(anchor @ flat[j]) / 0.5) for j in range(6) if j != i]
            positive = math.exp(float(anchor @ flat[i + 1 if i % 2 == 0 else i - 1]) / 0.5)
            terms.append(-math.log(positive / sum(others)))
        assert losses.contrastive_loss(views, views, 0, 0.5).item() == pytest.approx(sum(terms) / 6, rel=1e-5)

    def test_parts_of_a_batch_average_to_the_whole(self) -> None:
        """What every process computes on its rows against all rows."""
        views = torch.randn(6, 2, 5)
        parts = [losses.contrastive_loss(views[i : i + 3], views, i, 0.5) for i in (0, 3)]
        torch.testing.assert_close(torch.stack(parts).mean(), losses.contrastive_loss(views, views, 0, 0.5))

    def test_length_does_not_matter(self) -> None:
        views = torch.randn(4, 2, 5)
        scaled = views * torch.rand(4, 2, 1).add(0.1)
        plain, other = (losses.contrastive_loss(x, x, 0, 0.5) for x in (views, scaled))
        torch.testing.assert_close(plain, other)


class TestIndicators:
    def test_entropy(self) -> None:
        p = torch.tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0]])
        torch.testing.assert_close(losses.entropy(p), torch.tensor([math.log(4), 0.0]))

    def test_spread(self) -> None:
        assert losses.spread(torch.randn(4000, 64)).item() == pytest.approx(1.0, abs=0.02)
        assert losses.spread(torch.ones(10, 64) * torch.rand(10, 1)).item() == pytest.approx(0.0, abs=1e-5)

    def test_share_within(self) -> None:
        views, places = torch.randn(400, 1, 16), torch.randn(400, 9, 16)
        assert losses.share_within(views.expand(-1, 9, -1)).item() == pytest.approx(0.0, abs=1e-5)
        assert losses.share_within(places).item() == pytest.approx(8 / 9, abs=0.02)  # a mean of nine varies too
        assert losses.share_within(views + 3 * (places - places.mean(1, True))).item() == pytest.approx(8 / 9, abs=0.02)
        assert losses.share_within(torch.ones(4, 9, 16)).isfinite()

    def test_temperature_warms_up(self) -> None:
        values = [losses.temperature_at(torch.tensor(e), 0.04, 0.07, 30).item() for e in (0.0, 15.0, 30.0, 400.0)]
        assert values == pytest.approx([0.04, 0.055, 0.07, 0.07])
        assert losses.temperature_at(torch.tensor(0.0), 0.04, 0.07, 0).item() == pytest.approx(0.07)
