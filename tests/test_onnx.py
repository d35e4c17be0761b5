"""Exported networks give what the model gives, with any batch; MANO stays outside; the package runs them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fabricate_mano import fabricate, write_pickle
from stub_network import TINY
from torch import Tensor, nn

from handmim import HandMIM, HandMIMConfig, HandMIMForMeshEstimation, HandMIMModel
from handmim.checkpoints import load_network
from handmim.cli import main
from handmim.configuration_hiu_dmtl import HIUDMTLConfig
from handmim.errors import InputError, ModelError
from handmim.hand_model import HandModel
from handmim.mano_files import ManoFileNotFoundError
from handmim.modeling_hiu_dmtl import HIUDMTLForHandUnderstanding
from handmim.onnx_export import JOINT_ARRAYS, OPSET, JointHand, export_onnx, export_program, joint_arrays
from handmim.onnx_network import OnnxNetwork

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

EVIDENCE = TINY | {"heatmap_evidence": True, "heatmap_level": 0, "orientation_frame": "ray"}
HIU = {"image_size": 64, "hidden_size": 16, "num_stacks": 2, "encoder_levels": 2, "encoder_depth": 1}
HIU |= {"regressor_hidden_size": 32, "regressor_evidence": True, "score_head": True, "regressor_channels": [16, 16]}


def inputs(batch: int, size: int = 64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    camera = torch.tensor([[150.0, 0, 20], [0, 160, 40], [0, 0, 1]]).repeat(batch, 1, 1)
    camera[:, 0, 2] += torch.arange(batch)
    return {"pixel_values": torch.randn(batch, 3, size, size, generator=generator), "intrinsics": camera}


def mesh_model(**changes: Any) -> HandMIMForMeshEstimation:
    """Random weights, with corrections large enough to move every joint."""
    torch.manual_seed(0)
    model = HandMIMForMeshEstimation(HandMIMConfig(**EVIDENCE | changes)).eval()
    return stirred(model)


def stirred(model: nn.Module) -> Any:
    for name, value in model.named_parameters():
        if name.endswith("output.weight"):
            nn.init.normal_(value, std=0.05)
    return model


def assert_equal(network: nn.Module, model: nn.Module, tolerance: float = 1e-4) -> None:
    """Every output of the graph, relative to its size, for batches of one and of three."""
    for batch in (1, 3):
        given = inputs(batch)
        with torch.no_grad():
            expected, found = model(**given), network(**given)
        assert {"vertices", "joints", "betas", "translation", "score_logits"} <= set(found)
        for name, value in found.items():
            scale = max(1.0, float(expected[name].abs().max()))
            assert value.shape == expected[name].shape and value.dtype == torch.float32
            assert float((value - expected[name]).abs().max()) < tolerance * scale, name


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, HandMIMForMeshEstimation]:
    folder, model = tmp_path_factory.mktemp("onnx") / "tiny", mesh_model()
    export_onnx(model, folder)
    return folder, model


def test_graph_gives_what_the_model_gives(exported: tuple[Path, HandMIMForMeshEstimation]) -> None:
    folder, model = exported
    network = OnnxNetwork.from_pretrained(folder, model.config)
    assert_equal(network, model)
    spread = model(**inputs(3)).joints.detach()
    assert float((spread[0] - spread[1]).abs().max()) > 1e-3  # the comparison is not of constants
    graph = onnx.load(folder / "model.onnx")
    assert [(item.domain, item.version) for item in graph.opset_import] == [("", OPSET)]
    assert str(Path(__file__).parents[1]).encode() not in (folder / "model.onnx").read_bytes()


@pytest.mark.parametrize("family", ["handmim", "hiu_dmtl"])
def test_what_is_fitted_is_fitted_after_the_graph(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = mesh_model(fit_steps=2)
    if family == "hiu_dmtl":
        model = stirred(HIUDMTLForHandUnderstanding(HIUDMTLConfig(**HIU, fit_steps=2)).eval())
    export_onnx(model, tmp_path)
    network = OnnxNetwork.from_pretrained(tmp_path, model.config)
    assert_equal(network, model, 2e-3)  # steps of a fit amplify rounding
    fitted, model.config.fit_steps = network(**inputs(3))["joints"], 0
    assert float((model(**inputs(3)).joints - fitted).detach().abs().max()) > 1e-3


def test_a_graph_takes_crops_of_one_size(exported: tuple[Path, HandMIMForMeshEstimation]) -> None:
    folder, model = exported
    size = model.config.image_size
    options = {"backend": "onnx", "device": "cpu", "detector": "none"}
    assert HandMIM.from_pretrained(folder, image_size=size, **options).image_processor.size["height"] == size
    with pytest.raises(InputError, match=f"the graph takes crops of {size} px, got image_size {2 * size}"):
        HandMIM.from_pretrained(folder, image_size=2 * size, **options)


def test_a_fit_that_the_checkpoint_does_not_ask_for(
    exported: tuple[Path, HandMIMForMeshEstimation], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = exported
    hand = HandMIM.from_pretrained(folder, backend="onnx", device="cpu", detector="none", fit_steps=2)
    with monkeypatch.context() as context:
        context.setattr(model.config, "fit_steps", 2)
        assert_equal(hand.model, model, 2e-3)
    monkeypatch.setattr(hand.model.session, "get_outputs", lambda: [])  # of a graph without heat maps
    monkeypatch.setattr(hand.model.session, "run", lambda names, feed: [])
    for fit in (True, False):  # False: test-time augmentation fits what it gets
        with pytest.raises(InputError, match="no heat maps to fit to"):
            hand.model(**inputs(1), fit=fit)


@pytest.mark.parametrize("tta", [False, True])
def test_the_package_runs_it(
    exported: tuple[Path, HandMIMForMeshEstimation], photo: Path, tmp_path: Path, tta: bool
) -> None:
    folder, model = exported
    model.save_pretrained(tmp_path / "torch")
    shutil.copy(folder / "preprocessor_config.json", tmp_path / "torch")
    options = {"boxes": [[9, 9, 60, 60], [20, 5, 90, 80]], "handedness": ["right", "left"]}
    hands = HandMIM.from_pretrained(folder, backend="onnx", device="cpu", tta=tta)(photo, **options)
    expected = HandMIM.from_pretrained(tmp_path / "torch", device="cpu", tta=tta)(photo, **options)
    for hand, other in zip(hands, expected, strict=True):
        np.testing.assert_allclose(hand.vertices, other.vertices, atol=1e-4)
        np.testing.assert_allclose(hand.keypoints_2d, other.keypoints_2d, atol=1e-2)
        assert hand.handedness == other.handedness and abs(hand.score - other.score) < 1e-4


def test_bad_graphs_and_inputs(exported: tuple[Path, HandMIMForMeshEstimation], tmp_path: Path) -> None:
    folder, model = exported
    network = OnnxNetwork.from_pretrained(folder, model.config)
    with pytest.raises(InputError, match="64, 64"):
        network(**inputs(1, size=96))
    with pytest.raises(InputError, match="intrinsics"):
        network(inputs(1)["pixel_values"], None)
    with pytest.raises(InputError, match="backend.*'tensorrt'"):
        HandMIM.from_pretrained(folder, backend="tensorrt")
    with pytest.raises(ModelError, match="export .* --onnx"):
        HandMIM.from_pretrained(backend="onnx")
    shutil.copytree(folder, tmp_path / "cut")
    whole = (folder / "model.onnx").read_bytes()
    (tmp_path / "cut" / "model.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="damaged"):
        HandMIM.from_pretrained(tmp_path / "cut", backend="onnx", device="cpu")
    other = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])], "other",
        *([onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1])] for name in "xy"),
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid("", OPSET)]
    onnx.save(onnx.helper.make_model(other, opset_imports=opset, ir_version=8), tmp_path / "cut" / "model.onnx")
    with pytest.raises(ModelError, match="not a graph of handmim"):
        HandMIM.from_pretrained(tmp_path / "cut", backend="onnx", device="cpu")
    with pytest.raises(InputError, match="'int4'"):
        export_onnx(model, tmp_path / "x", "int4")
    with pytest.raises(ModelError, match="mesh head"):
        export_program(HandMIMModel(model.config))


class TestJointHand:
    def test_joints_of_every_hand_model(self, tmp_path: Path) -> None:
        path = write_pickle(tmp_path / "MANO_RIGHT.pkl", fabricate())
        torch.manual_seed(1)
        rotations = torch.linalg.qr(torch.randn(3, 16, 3, 3))[0]
        rotations *= torch.linalg.det(rotations)[..., None, None]
        betas = torch.randn(3, 10)
        for hand_model in (HandModel("open"), HandModel("mano", path=path)):
            arrays = joint_arrays(hand_model)
            assert {name: tuple(value.shape) for name, value in arrays.items()} == JOINT_ARRAYS
            light = JointHand()
            light.arrays = tuple(arrays.values())
            expected = hand_model(rotations[:, 0], rotations[:, 1:], betas)
            torch.testing.assert_close(light(rotations[:, 0], rotations[:, 1:], betas).joints, expected.joints)


class TestMano:
    def test_its_arrays_stay_outside(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HANDMIM_MANO_DIR", str(tmp_path / "nowhere"))
        path = write_pickle(tmp_path / "MANO_RIGHT.pkl", fabricate())
        torch.manual_seed(0)
        model = stirred(HandMIMForMeshEstimation(HandMIMConfig(**TINY | {"hand_model": "mano"}), hand_model_path=path))
        export_onnx(model.eval(), tmp_path / "graph")
        assert float(model.hand_model.template.abs().max()) > 0  # the model has its hand back
        graph = onnx.load(tmp_path / "graph" / "model.onnx")
        assert {value.name for value in graph.graph.input} == {"pixel_values", "intrinsics", *JOINT_ARRAYS}
        assert "vertices" not in {value.name for value in graph.graph.output}
        everything = (tmp_path / "graph" / "model.onnx").read_bytes()
        for name, value in [*model.hand_model.named_buffers(), *joint_arrays(model.hand_model).items()]:
            if value.is_floating_point() and value.numel():
                assert value.flatten()[:4].numpy().tobytes() not in everything, name
        network = OnnxNetwork.from_pretrained(tmp_path / "graph", model.config, hand_model_path=path)
        assert_equal(network, model)
        hands = HandMIM.from_pretrained(tmp_path / "graph", backend="onnx", device="cpu", hand_model_path=path)
        assert hands.model.hand_model.num_vertices == 778
        with pytest.raises(ManoFileNotFoundError):
            HandMIM.from_pretrained(tmp_path / "graph", backend="onnx", device="cpu")


class TestVariants:
    @pytest.mark.slow
    def test_float16(self, tmp_path: Path) -> None:
        model = mesh_model()
        export_onnx(model, tmp_path, "float16")
        assert model.dtype == torch.float32
        graph = onnx.load(tmp_path / "model.onnx")
        learned = [t for t in graph.graph.initializer if "blocks" in t.name]
        assert learned and {t.data_type for t in learned} == {onnx.TensorProto.FLOAT16}
        network = OnnxNetwork.from_pretrained(tmp_path, model.config)
        assert network.precision == "float16"
        assert_equal(network, model, tolerance=2e-2)

    @pytest.mark.slow
    def test_int8(self, tmp_path: Path) -> None:
        model = mesh_model()
        export_onnx(model, tmp_path, "int8")
        graph = onnx.load(tmp_path / "model.onnx")
        kinds = [node.op_type for node in graph.graph.node]
        assert kinds.count("MatMulInteger") == 4 * model.config.num_hidden_layers
        network = OnnxNetwork.from_pretrained(tmp_path, model.config)
        assert_equal(network, model, tolerance=5e-2)
        with pytest.raises(InputError, match="convolutions"):
            export_onnx(HIUDMTLForHandUnderstanding(HIUDMTLConfig(**HIU)), tmp_path, "int8")

    def test_torch_export(self, tmp_path: Path, tiny_checkpoint: Path) -> None:
        file = tmp_path / "tiny.pt2"
        assert main(["export", str(tiny_checkpoint), "--torch-export", str(file)]) == 0
        program, model = torch.export.load(file).module(), load_network(tiny_checkpoint)
        given = inputs(3)
        with torch.no_grad():
            expected, found = model(**given), program(*given.values())
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_hiu_dmtl(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = stirred(HIUDMTLForHandUnderstanding(HIUDMTLConfig(**HIU)).eval())
    export_onnx(model, tmp_path)
    network = OnnxNetwork.from_pretrained(tmp_path, model.config)
    assert_equal(network, model)
    assert {"mask", "pof", "heatmaps", "heatmap_keypoints"} <= set(network(**inputs(2)))


@pytest.mark.slow
def test_embedded_checkpoint_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--onnx", str(tmp_path / "onnx")]) == 0
    assert f"opset {OPSET}" in capsys.readouterr().out
    from handmim.checkpoints import EMBEDDED_CHECKPOINT

    model = load_network(EMBEDDED_CHECKPOINT)
    network = OnnxNetwork.from_pretrained(tmp_path / "onnx", model.config)
    given = inputs(2, size=model.config.image_size)
    with torch.no_grad():
        expected, found = model(**given), network(**given)
    for name, value in found.items():
        scale = max(1.0, float(expected[name].abs().max()))
        assert float((value - expected[name]).abs().max()) < 1e-4 * scale, name
