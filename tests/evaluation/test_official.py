"""The official scores against a slow implementation written for this test: sample by sample, brute-force distances.

With HANDMIM_REFERENCE naming a folder of inputs and outputs of the official scripts, also against those.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handmim.errors import DataError
from handmim.evaluation import fscore
from handmim.evaluation.alignment import Procrustes, scale_translation_align
from handmim.evaluation.fscore import Clouds, squared_threshold, within
from handmim.evaluation.official import FREIHAND, HO3D_V2, HO3D_V3, PROTOCOLS, Protocol, Scorer, Scores, score

POINTS = 90  # vertices of the miniature meshes
SMALL = {protocol.name: replace(protocol, vertices=POINTS) for protocol in (FREIHAND, HO3D_V2)}


class Slow:
    """What the scripts compute, as their README describes it; loops over samples and points."""

    @staticmethod
    def fit(target: np.ndarray, predicted: np.ndarray) -> tuple:
        a, b = target - target.mean(0), predicted - predicted.mean(0)
        size_a, size_b = np.sqrt((a**2).sum()) + 1e-8, np.sqrt((b**2).sum()) + 1e-8
        u, w, vt = np.linalg.svd((a / size_a).T @ (b / size_b))
        return u @ vt, w.sum(), size_a, size_b

    @classmethod
    def procrustes(cls, target: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        rotation, scale, size_a, size_b = cls.fit(target, predicted)
        return (predicted - predicted.mean(0)) / size_b @ rotation.T * scale * size_a + target.mean(0)

    @classmethod
    def carried(cls, target: np.ndarray, predicted: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Points moved by the joints' alignment: the script forgets to divide by the joints' size."""
        rotation, scale, size_a, _ = cls.fit(target, predicted)
        turned = (points - points.mean(0)) @ rotation.T * scale * size_a
        return turned + target.mean(0) - predicted.mean(0) + points.mean(0)

    @staticmethod
    def scale_translation(target: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        length = np.linalg.norm(predicted[4] - predicted[0])
        scaled = predicted / length if length > 0 else predicted
        scaled = scaled * np.linalg.norm(target[4] - target[0])
        return scaled - scaled[:1] + target[:1]

    @staticmethod
    def f(target: np.ndarray, predicted: np.ndarray, threshold: float) -> tuple:
        def share(points: np.ndarray, others: np.ndarray) -> float:
            near = 0
            for point in points:
                d = point - others
                near += np.sqrt(d[:, 0] ** 2 + d[:, 1] ** 2 + d[:, 2] ** 2).min() < threshold
            return near / len(points)

        recall, precision = share(predicted, target), share(target, predicted)
        total = recall + precision
        return (2 * recall * precision / total if total > 0 else 0.0), precision, recall

    @staticmethod
    def measures(errors: np.ndarray) -> tuple[float, float]:
        """Mean in centimetres and area under the curve."""
        thresholds = np.linspace(0, 0.05, 100)
        areas = []
        for point in errors.T:
            curve = [np.mean(point <= t) for t in thresholds]
            steps = [(thresholds[k + 1] - thresholds[k]) * (curve[k] + curve[k + 1]) / 2 for k in range(99)]
            areas.append(sum(steps) / 0.05)
        return float(100 * np.mean(errors.mean(0))), float(np.mean(areas))


def slow_scores(arrays: tuple, protocol: Protocol) -> tuple[dict, dict, np.ndarray]:
    """Values of scores.txt, errors of each measure, and F-scores."""
    errors: dict[str, list] = {name: [] for name in protocol.printed}
    fscores = []
    for joints, vertices, true_joints, true_vertices in zip(*arrays, strict=True):
        aligned = {"xyz": joints, "xyz_al": Slow.procrustes(true_joints, joints)}
        aligned["xyz_sc_tr"] = Slow.scale_translation(true_joints, joints)
        if len(vertices) == len(true_vertices):
            aligned |= {"mesh": vertices, "mesh_al": Slow.procrustes(true_vertices, vertices)}
            moved = aligned["mesh_al"]
        else:
            moved = Slow.carried(true_joints, joints, vertices)
        for name in errors:
            if name in aligned:
                truth = true_joints if name.startswith("xyz") else true_vertices
                errors[name].append(np.sqrt(((truth - aligned[name]) ** 2).sum(1)))
        fscores.append([[Slow.f(true_vertices, v, t) for v in (vertices, moved)] for t in (0.005, 0.015)])
    values = {}
    for name, printed in protocol.printed.items():
        mean, area = Slow.measures(np.array(errors[name])) if errors[name] else (-100.0, -1.0)
        values |= {f"{printed}_mean3d": mean, f"{printed}_auc3d": area}
    f = np.array(fscores).mean(0)[..., 0]
    values |= {"f_score_5": f[0, 0], "f_al_score_5": f[0, 1], "f_score_15": f[1, 0], "f_al_score_15": f[1, 1]}
    return values, {name: np.array(rows) for name, rows in errors.items() if rows}, np.array(fscores)


def hands(seed: int = 0, samples: int = 14, vertices: int = POINTS) -> list[np.ndarray]:
    """Predictions and truths of hand-sized clouds 70 cm away; the first rows are corner cases."""
    random = np.random.default_rng(seed)
    away = np.array([0.02, -0.03, 0.7])
    true = [random.normal(0, (0.06, 0.03, 0.02), (samples, n, 3)) + away for n in (21, POINTS)]
    pred = [t + random.normal(0, 0.004, t.shape) for t in true]
    for t, p in zip(true, pred, strict=True):
        centre = t.mean(1, keepdims=True)
        p[0] = t[0]  # exact
        p[1] = 0
        p[2] = t[2] * (-1, 1, 1)  # mirrored
        p[3] = centre[3] + 1.3 * (t[3] - centre[3])
        p[4] = t[4] + (0.05, -0.1, 0.2)
        p[5] = t[5] * (1, 1, 0)  # planar
        p[6] = (t[6] - centre[6]) @ [[0, -1, 0], [1, 0, 0], [0, 0, 1]] + centre[6]
        p[7] = t[8]  # another hand
        p[8] = t[8] + (0.005, 0, 0)  # exactly at the threshold
        p[9] = t[9, :1]  # collapsed
        p[10] = t[10] * 1000  # millimetres
    if vertices != POINTS:
        pred[1] = np.concatenate([pred[1], pred[1]], 1)[:, :vertices]
    return [*pred, *true]


def assert_equal(got: Scores, arrays: list[np.ndarray], protocol: Protocol) -> None:
    values, errors, fscores = slow_scores(tuple(arrays), protocol)
    assert list(got.values) == list(values)
    expected = "".join(f"{name}: {value:f}\n" for name, value in values.items())
    assert got.text() == expected
    assert got.errors.keys() == errors.keys()
    for name in errors:
        # 1e-9: where all joints lie in one point their alignment is rounding noise over 1e-8
        np.testing.assert_allclose(got.errors[name], errors[name], rtol=1e-12, atol=1e-9)
        assert got.curves[name][-1] == (got.errors[name] <= 0.05).mean()
        assert got.median(name) == pytest.approx(np.median(errors[name], 0).mean(), abs=1e-9)
    np.testing.assert_array_equal(got.fscores, fscores)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", SMALL)
def test_equals_the_slow_implementation(name: str, threads: int) -> None:
    arrays = hands(samples=40)
    assert_equal(score(*arrays, SMALL[name], threads), arrays, SMALL[name])


@pytest.mark.parametrize("vertices", [1, POINTS - 10, POINTS + 30])
def test_other_meshes_follow_the_joints(vertices: int) -> None:
    arrays = hands(vertices=vertices)
    got = score(*arrays, SMALL["freihand"])
    assert_equal(got, arrays, SMALL["freihand"])
    assert got.values["mesh_mean3d"] == -100 and got.values["mesh_al_auc3d"] == -1
    assert "mesh" not in got.errors


def test_without_vertices_only_joints_are_scored() -> None:
    arrays = hands()
    full, got = score(*arrays, SMALL["ho3d-v2"]), score(arrays[0], None, *arrays[2:], SMALL["ho3d-v2"])
    assert got.fscores is None and got.values["f_al_score_15"] == -1
    for name in ("xyz_mean3d", "xyz_procrustes_al_auc3d", "xyz_scale_trans_al_mean3d"):
        assert got.values[name] == full.values[name]


def test_batches_add_up_to_the_whole() -> None:
    arrays = hands(samples=20)
    scorer = Scorer(SMALL["freihand"])
    for start, end in ((0, 3), (3, 4), (4, 20)):
        scorer.update(*(array[start:end] for array in arrays))
    whole = score(*arrays, SMALL["freihand"])
    assert scorer.compute().text() == whole.text()
    np.testing.assert_array_equal(scorer.compute().fscores, whole.fscores)
    scorer.reset()
    with pytest.raises(DataError, match="nothing to score"):
        scorer.compute()


def test_options_change_what_they_name() -> None:
    arrays = hands()
    plain = score(*arrays, SMALL["ho3d-v2"])

    def changed(**options: object) -> Scores:
        return score(*arrays, replace(SMALL["ho3d-v2"], **options))

    mirrored = changed(reflections=False).errors["xyz_al"]
    assert plain.errors["xyz_al"][2].max() < 1e-7 and mirrored[2].mean() > 0.005
    np.testing.assert_allclose(np.delete(mirrored, (2, 5, 7, 9), 0), np.delete(plain.errors["xyz_al"], (2, 5, 7, 9), 0))
    assert changed(curve_inclusive=False).curves["xyz"][0] < plain.curves["xyz"][0]  # the exact row at threshold 0
    assert changed(f_inclusive=True).fscores[8, 0, 0, 0] >= plain.fscores[8, 0, 0, 0]
    assert changed(reference=12).errors["xyz_sc_tr"][3:].mean() != plain.errors["xyz_sc_tr"][3:].mean()
    assert changed(curve_end=0.1).values["xyz_auc3d"] > plain.values["xyz_auc3d"]
    assert "f_score_10" in changed(f_thresholds=(0.01,)).values
    followed = changed(mesh_follows_joints=True)
    assert followed.errors["mesh_al"].mean() > plain.errors["mesh_al"].mean()


def test_protocols() -> None:
    assert {p.name: p.samples for p in PROTOCOLS.values()} == {"freihand": 3960, "ho3d-v2": 11524, "ho3d-v3": 20137}
    to_ours = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]
    assert np.argsort(HO3D_V3.joint_order).tolist() == to_ours
    # after conversion the reference joint is the base of the middle finger, ours 9
    assert HO3D_V2.joint_order[HO3D_V2.reference] == 9 and HO3D_V2.joint_order[HO3D_V2.root] == 0


BAD = {
    "predicted joints must be of shape \\(14, 21, 3\\), got \\(13": lambda a: [a[0][:13], *a[1:]],
    "predicted joints must be of shape": lambda a: [a[0][:, :20], *a[1:]],
    "predicted vertices must be of shape": lambda a: [a[0], a[1][:5], *a[2:]],
    "predicted vertices must be": lambda a: [a[0], a[1][:, :0], *a[2:]],
    "true vertices must be of shape \\(14, 90, 3\\)": lambda a: [*a[:3], a[3][:, :80]],
    "true joints must be": lambda a: [*a[:2], a[2][..., :2], a[3]],
    "predicted joints of sample 6 must be finite": lambda a: (
        [np.where(np.arange(14)[:, None, None] == 6, np.nan, a[0])] + a[1:]
    ),
    "predicted vertices of sample 3 must be finite": lambda a: [
        a[0],
        np.where(np.arange(14)[:, None, None] == 3, np.inf, a[1]),
        *a[2:],
    ],
    "nothing to score": lambda a: [each[:0] for each in a],
}


@pytest.mark.parametrize("said", BAD)
def test_bad_arrays_are_named(said: str) -> None:
    with pytest.raises(DataError, match=said):
        score(*BAD[said](hands()), SMALL["freihand"])


# ---------------------------------------------------------------------------------------------------------------------
# The parts


@settings(max_examples=60, deadline=None)
@given(threshold=st.floats(1e-6, 1e3), steps=st.integers(-6, 6), inclusive=st.booleans())
def test_squared_thresholds_classify_as_roots_do(threshold: float, steps: int, inclusive: bool) -> None:
    bound = squared_threshold(threshold, inclusive)
    value = threshold * threshold
    for _ in range(abs(steps)):
        value = np.nextafter(value, np.inf if steps > 0 else 0)
    root = np.sqrt(value)
    assert (value < bound) == (root <= threshold if inclusive else root < threshold)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    spread=st.sampled_from([1e-9, 0.002, 0.02, 0.1, 3.0, 1e25]),
    offset=st.sampled_from([0.0, 0.7, 1e4, 1e9]),
    grid=st.booleans(),
)
def test_neighbours_equal_brute_force(
    seed: int, sizes: tuple[int, int], spread: float, offset: float, grid: bool
) -> None:
    """Clouds of any size and place; on a grid of 2.5 mm many distances are exactly the thresholds."""
    random = np.random.default_rng(seed)
    a, b = (random.normal(0, spread, (2, n, 3)) + offset for n in sizes)
    if grid:
        a, b = np.round(a / 0.0025) * 0.0025, np.round(b / 0.0025) * 0.0025
    bounds = [squared_threshold(0.005), squared_threshold(0.015)]
    with np.errstate(over="ignore", invalid="ignore"):
        d = a[:, :, None] - b[:, None]
        squares = (d[..., 0] * d[..., 0] + d[..., 1] * d[..., 1]) + d[..., 2] * d[..., 2]
        target = Clouds(b)
        clouds = Clouds(a, target)
        corresponding = squares.diagonal(0, 1, 2) if sizes[0] == sizes[1] else None
        for points, others, nearest in ((clouds, target, squares.min(2)), (target, clouds, squares.min(1))):
            expected = np.stack([(np.sqrt(nearest) < t).sum(1) for t in (0.005, 0.015)], 1)
            np.testing.assert_array_equal(within(points, others, bounds, corresponding), expected)
            np.testing.assert_array_equal(within(points, others, bounds), expected)


def test_large_clouds_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fscore, "PRODUCT_SIZE", 700)
    monkeypatch.setattr(fscore, "ROWS", 7)
    random = np.random.default_rng(0)
    a, b = random.normal(0, 0.02, (3, 400, 3)), random.normal(0, 0.02, (3, 500, 3))
    target = Clouds(b)
    nearest = np.linalg.norm(a[:, :, None] - b[:, None], axis=-1).min(2)
    got = within(Clouds(a, target), target, [squared_threshold(t) for t in (0.002, 0.005)])
    np.testing.assert_array_equal(got, np.stack([(nearest < t).sum(1) for t in (0.002, 0.005)], 1))


def test_procrustes_undoes_similarities() -> None:
    random = np.random.default_rng(0)
    target = random.normal(size=(5, 21, 3))
    turn = np.linalg.qr(random.normal(size=(5, 3, 3)))[0]
    moved = 0.3 * target @ turn + random.normal(size=(5, 1, 3))
    np.testing.assert_allclose(Procrustes.fit(moved, target).aligned(moved), target, atol=1e-6)
    proper = Procrustes.fit(moved, target, reflections=False)
    np.testing.assert_allclose(np.linalg.det(proper.rotation), 1)


def test_scale_translation_alignment() -> None:
    random = np.random.default_rng(0)
    target, predicted = random.normal(size=(2, 4, 21, 3))
    aligned = scale_translation_align(predicted, target, root=0, reference=9)
    np.testing.assert_allclose(aligned[:, 0], target[:, 0])
    np.testing.assert_allclose(
        np.linalg.norm(aligned[:, 9] - aligned[:, 0], axis=1), np.linalg.norm(target[:, 9] - target[:, 0], axis=1)
    )


# ---------------------------------------------------------------------------------------------------------------------
# Outputs of the unmodified scripts


@pytest.mark.parametrize(("folder", "protocol"), [("freihand", FREIHAND), ("ho3d", HO3D_V2)])
def test_equals_the_official_scripts(folder: str, protocol: Protocol) -> None:
    if not os.environ.get("HANDMIM_REFERENCE"):
        pytest.skip("HANDMIM_REFERENCE does not name a folder of official inputs and outputs")
    from handmim.evaluation.submission import load_submission
    from handmim.json_arrays import read_array

    root = Path(os.environ["HANDMIM_REFERENCE"])
    predicted = load_submission(root / folder / "pred.json", protocol, 64)
    joints = read_array(root / folder / "evaluation_xyz.json", (21, 3), np.float64)
    vertices = read_array(root / folder / "evaluation_verts.json", (778, 3), np.float64)
    got = score(*predicted, joints, vertices, protocol)
    assert got.text() == (root / f"{folder}_out/scores.txt").read_text()
    official = json.loads((root / f"{folder}_out/official.json").read_text())["measures"]
    samples = np.load(root / f"{folder}_out/official_per_sample.npz")
    np.testing.assert_array_equal(got.fscores, samples["fscore"])
    for name, errors in got.errors.items():
        np.testing.assert_allclose(errors, samples[f"err_{name}"], rtol=0, atol=1e-15)
        assert got.median(name) == pytest.approx(official[name]["median"], abs=1e-15)
        assert got.values[f"{protocol.printed[name]}_auc3d"] == pytest.approx(official[name]["auc"], abs=1e-14)
        np.testing.assert_allclose(got.curves[name], official[name]["pck"], rtol=0, atol=1e-14)
