"""MANO files: found, read, refused, corrected, installed. All files are fabricated."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fabricate_mano import fabricate, mirrored, write_npz, write_pickle

from handmim.errors import HandMIMError
from handmim.hand_model import HandModel
from handmim.mano_files import (
    CLEARLY_BEHIND,
    TIP_VERTICES,
    ManoFileError,
    ManoFileNotFoundError,
    find_mano,
    find_tips,
    installed_path,
    load_mano,
    read_mano,
    thumb_depth,
)
from handmim.mano_installation import install_mano
from handmim.safe_pickle import UnsafeFileError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("HANDMIM_MANO_DIR", raising=False)
    monkeypatch.setenv("HANDMIM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def assert_is(arrays: dict, model: dict) -> None:
    names = {
        "template": "v_template",
        "shape_dirs": "shapedirs",
        "pose_dirs": "posedirs",
        "skinning_weights": "weights",
    }
    names |= {"faces": "f", "hands_mean": "hands_mean", "hands_components": "hands_components"}
    for ours, official in names.items():
        np.testing.assert_array_equal(arrays[ours], model[official].astype(arrays[ours].dtype))
    np.testing.assert_array_equal(arrays["joint_regressor"], model["J_regressor"].toarray().astype(np.float32))


# ---------------------------------------------------------------------------------------------------------------------
# Reading


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("chumpy", [False, True])
def test_pickle_of_every_protocol(tmp_path: Path, protocol: int, chumpy: bool) -> None:
    model = fabricate(50)
    assert_is(load_mano("right", write_pickle(tmp_path / "MANO_RIGHT.pkl", model, chumpy, protocol)), model)


def test_npz(tmp_path: Path) -> None:
    model = fabricate(50)
    assert_is(load_mano("right", write_npz(tmp_path / "MANO_RIGHT.npz", model)), model)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("v_template", None, "v_template is missing"),
        ("v_template", np.zeros((50, 2)), r"v_template must have shape \(None, 3\) .* got \(50, 2\)"),
        ("v_template", np.full((50, 3), np.nan), "v_template has values that are not finite"),
        ("shapedirs", np.zeros((50, 3, 9)), "10 shape directions, got 9"),
        ("shapedirs", "text", "shapedirs must be an array of numbers, got str"),
        ("posedirs", np.zeros((50, 3, 207)), "posedirs"),
        ("J_regressor", np.zeros((24, 50)), "J_regressor"),
        ("weights", np.zeros((50, 16)), "must sum to 1"),
        ("f", np.full((9, 3), 50), "f must hold vertex numbers from 0 to 49"),
        ("f", np.full((9, 3), -1), "f must hold vertex numbers"),
        ("f", np.full((9, 3), 0.5), "f must hold vertex numbers"),
        ("kintree_table", np.zeros((2, 16)), "kintree_table must give the parents"),
        ("hands_mean", np.zeros(44), "hands_mean"),
        ("tip_vertices", np.full(5, 50), "tip_vertices"),
    ],
)
def test_what_is_no_mano_is_named(tmp_path: Path, name: str, value: object, message: str) -> None:
    model = fabricate(50)
    model[name] = value
    if value is None:
        del model[name]
    file = write_pickle(tmp_path / "MANO_RIGHT.pkl", model)
    with pytest.raises(ManoFileError, match=message) as error:
        load_mano("right", file)
    assert str(file) in str(error.value)
    with pytest.raises(ManoFileError):
        install_mano(file)
    assert not installed_path("right").exists()


def test_other_contents_and_endings(tmp_path: Path) -> None:
    (tmp_path / "a.obj").write_text("v 0 0 0")
    with pytest.raises(ManoFileError, match="end in .pkl or .npz"):
        load_mano("right", tmp_path / "a.obj")
    with pytest.raises(ManoFileError, match="a dict of arrays, got list"):
        load_mano("right", write_pickle(tmp_path / "a.pkl", [1, 2]))  # type: ignore[arg-type]


def test_npz_with_pickles_is_refused(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {canary}",)

    file = tmp_path / "MANO_RIGHT.npz"
    np.savez(file, v_template=np.array([Evil()], object))
    with pytest.raises(UnsafeFileError, match="pickled objects"):
        load_mano("right", file)
    assert not canary.exists()


def test_npz_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "MANO_RIGHT.npz"
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    header += b" " * (118 - len(header) - 1) + b"\n"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("v_template.npy", b"\x93NUMPY\x01\x00\x76\x00" + header + b"\0" * 8)
    with pytest.raises(UnsafeFileError, match="does not match its size"):
        load_mano("right", file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("v_template.npy", b"\0" * (65 * 2**20))
    with pytest.raises(UnsafeFileError, match="unpacks to more"):
        load_mano("right", file)
    file.write_bytes(b"no archive")
    with pytest.raises(UnsafeFileError, match="not an .npz"):
        load_mano("right", file)


# ---------------------------------------------------------------------------------------------------------------------
# Tips


def test_tips_of_the_published_mesh_are_those_of_smplx() -> None:
    from smplx.vertex_ids import vertex_ids

    theirs = [vertex_ids["mano"][finger] for finger in ("thumb", "index", "middle", "ring", "pinky")]
    assert list(TIP_VERTICES) == theirs
    model = fabricate(778)
    assert find_tips(model["v_template"], model["J_regressor"].toarray(), model["weights"]).tolist() == theirs


def test_tips_of_another_mesh_lie_farthest_out() -> None:
    model = fabricate(300)
    weights, template = model["weights"], model["v_template"].copy()
    expected = []
    for joint in (15, 3, 6, 12, 9):
        vertex = int(np.flatnonzero(weights.argmax(1) == joint)[-1])
        joints = model["J_regressor"].toarray() @ template
        template[vertex] = joints[joint] + 2 * (joints[joint] - joints[joint - 1])
        expected.append(vertex)
    assert find_tips(template, model["J_regressor"].toarray(), weights).tolist() == expected


# ---------------------------------------------------------------------------------------------------------------------
# The left hand's fault


def test_left_fault_is_corrected_beside_the_right_file(tmp_path: Path) -> None:
    right = fabricate(50)
    write_pickle(tmp_path / "MANO_RIGHT.pkl", right)
    sign = np.array([-1, 1, 1], np.float32)[:, None]
    expected = right["shapedirs"].astype(np.float32) * sign
    faulty = mirrored(right)
    write_pickle(tmp_path / "MANO_LEFT.pkl", faulty)
    np.testing.assert_array_equal(load_mano("left", tmp_path)["shape_dirs"], expected)
    corrected = {**faulty, "shapedirs": right["shapedirs"] * sign}
    write_pickle(tmp_path / "MANO_LEFT.pkl", corrected)
    np.testing.assert_array_equal(load_mano("left", tmp_path)["shape_dirs"], expected)


def test_left_alone_is_taken_for_the_published_file(tmp_path: Path) -> None:
    right = fabricate(50)
    file = write_pickle(tmp_path / "MANO_LEFT.pkl", mirrored(right))
    first = load_mano("left", file)["shape_dirs"]
    np.testing.assert_array_equal(first[:, 0], -right["shapedirs"][:, 0].astype(np.float32))
    install_mano(file)
    np.testing.assert_array_equal(load_mano("left")["shape_dirs"], first)  # the copy is not corrected again
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(b"broken")
    np.testing.assert_array_equal(load_mano("left", file)["shape_dirs"], first)


# ---------------------------------------------------------------------------------------------------------------------
# The side


def test_a_file_of_the_other_side_is_named(tmp_path: Path) -> None:
    files = {side: write_pickle(tmp_path / f"{side[0]}.pkl", fabricate(50, side=side)) for side in ("right", "left")}
    for wanted, other in (("right", "left"), ("left", "right")):
        message = f"holds a {other} hand, and the {wanted} one is needed: give MANO_{wanted.upper()}.pkl"
        with pytest.raises(ManoFileError, match=message) as error:
            load_mano(wanted, files[other])
        assert str(files[other]) in str(error.value)
        with pytest.raises(ManoFileError, match=message):
            install_mano(files[other], side=wanted)
        assert not installed_path(wanted).exists()
        load_mano(wanted, files[wanted])


def test_a_file_of_the_other_side_is_installed_by_no_neighbour(tmp_path: Path) -> None:
    for side in ("right", "left"):
        write_pickle(tmp_path / f"MANO_{side.upper()}.pkl", fabricate(50, side=side))
    with pytest.raises(ManoFileError, match="holds a left hand"):
        install_mano(tmp_path / "MANO_LEFT.pkl", side="right")


@pytest.mark.parametrize("name", ["MANO_{}.pkl", "mano_{}.pkl"])
def test_the_neighbour_of_the_wanted_side_is_taken(tmp_path: Path, name: str) -> None:
    case = str.upper if name.startswith("MANO") else str.lower
    right, left = (tmp_path / name.format(case(side)) for side in ("right", "left"))
    write_pickle(left, fabricate(50, side="left"))
    assert find_mano("right", left) == left  # and reading it says what is wrong
    write_npz(right.with_suffix(".npz"), fabricate(50))
    assert find_mano("right", left) == right.with_suffix(".npz")
    write_pickle(right, fabricate(50))
    assert find_mano("right", left) == right and find_mano("left", right) == left
    assert_is(load_mano("right", left), fabricate(50))


@pytest.mark.parametrize("num_vertices", [20, 50, 100, 400, 778])
def test_the_thumb_tells_the_side(num_vertices: int) -> None:
    for seed in range(20):
        model = fabricate(num_vertices, seed=seed)
        depth = thumb_depth(model["v_template"], model["J_regressor"].toarray())
        assert depth > CLEARLY_BEHIND
        other = mirrored(model)
        np.testing.assert_allclose(thumb_depth(other["v_template"], other["J_regressor"].toarray()), -depth)


def test_the_open_hand_has_the_side_that_it_says() -> None:
    hand = HandModel("open", "right")
    assert thumb_depth(hand.template.numpy(), hand.joint_regressor.numpy()) > CLEARLY_BEHIND


def test_the_side_of_no_hand_is_not_told() -> None:
    assert thumb_depth(np.zeros((20, 3)), np.full((16, 20), 1 / 20)) == 0


# ---------------------------------------------------------------------------------------------------------------------
# Finding and installing


def test_order_of_places(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("argument", "variable/mano", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    source = write_pickle(tmp_path / "elsewhere" / "MANO_RIGHT.pkl", fabricate(50))
    installed = install_mano(source)
    assert installed.parent == own_cache / "mano" and find_mano("right") == installed
    in_folder = write_pickle(tmp_path / "variable" / "mano" / "MANO_RIGHT.pkl", fabricate(51))
    monkeypatch.setenv("HANDMIM_MANO_DIR", str(tmp_path / "variable"))
    assert find_mano("right") == in_folder
    given = write_npz(tmp_path / "argument" / "MANO_RIGHT.npz", fabricate(52))
    assert find_mano("right", tmp_path / "argument") == find_mano("right", given) == given
    # a path that was given and is wrong must not fall back on another file
    with pytest.raises(ManoFileNotFoundError, match="nowhere"):
        find_mano("right", tmp_path / "nowhere")


def test_cache_honours_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HANDMIM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert installed_path("left") == tmp_path / "xdg" / "handmim" / "mano" / "MANO_LEFT.npz"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert installed_path("left") == tmp_path / ".cache" / "handmim" / "mano" / "MANO_LEFT.npz"


def test_missing_file_says_where_to_register_and_what_to_type(own_cache: Path) -> None:
    with pytest.raises(ManoFileNotFoundError) as error:
        load_mano("left")
    for text in (
        "https://mano.is.tue.mpg.de",
        "handmim mano install MANO_LEFT.pkl",
        "HANDMIM_MANO_DIR",
        str(own_cache),
    ):
        assert text in str(error.value)
    assert isinstance(error.value, HandMIMError) and isinstance(error.value, FileNotFoundError)


def test_installed_copy_holds_the_same(tmp_path: Path) -> None:
    file = write_pickle(tmp_path / "MANO_RIGHT.pkl", fabricate(50), chumpy=True)
    before = load_mano("right", file)
    target = install_mano(file)
    after = load_mano("right")
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    assert read_mano(target)["corrected"]
    assert [p.name for p in target.parent.iterdir()] == ["MANO_RIGHT.npz"]  # no temporary file stays


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
def test_installed_copy_follows_the_umask(tmp_path: Path) -> None:
    file = write_pickle(tmp_path / "MANO_RIGHT.pkl", fabricate(50))
    for mask, expected in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            assert install_mano(file).stat().st_mode & 0o777 == expected
        finally:
            os.umask(before)


def test_interrupted_install_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = install_mano(write_pickle(tmp_path / "MANO_RIGHT.pkl", fabricate(50)))
    before = target.read_bytes()

    def fail(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(KeyboardInterrupt):
        install_mano(write_pickle(tmp_path / "MANO_RIGHT.pkl", fabricate(60)))
    assert target.read_bytes() == before
    assert [p.name for p in target.parent.iterdir()] == ["MANO_RIGHT.npz"]


def test_side_of_an_installed_file(tmp_path: Path) -> None:
    file = write_pickle(tmp_path / "hand.pkl", fabricate(50))
    with pytest.raises(ManoFileError, match="side is not clear"):
        install_mano(file)
    with pytest.raises(ValueError, match="side must be"):
        install_mano(file, side="both")
    assert install_mano(file, side="right") == installed_path("right")
