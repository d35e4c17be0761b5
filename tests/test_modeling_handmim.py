"""Tests of the HandMIM models."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from handmim.configuration_handmim import HandMIMConfig
from handmim.errors import InputError
from handmim.geometry import camera_translation, matrix_to_rot6d, project
from handmim.hand_state import ray_rotation
from handmim.layers_handmim import normalise_pixels, sample_points, soft_argmax
from handmim.modeling_handmim import HandMIMForMeshEstimation, HandMIMModel
from tests.model_tester import ModelTests

SIZE = 64
SMALL: dict[str, Any] = {
    "image_size": SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "feature_layers": (1, 2),
    "feature_channels": (16, 16, 16),
    "point_channels": (16, 8),
    "regressor_hidden_size": 64,
    "regressor_dropout": 0.0,
}
EVERYTHING: dict[str, Any] = {
    **SMALL,
    "stem": "efficientnet",
    "heatmap_evidence": True,
    "score_head": True,
    "score_hidden_size": 8,
    "orientation_frame": "ray",
    "fit_steps": 1,
}
FIELDS = ("vertices", "joints", "keypoints_2d", "global_orient", "hand_pose", "betas", "camera", "translation")


def make_intrinsics(batch: int) -> Tensor:
    """Cameras whose principal point is off the crop's centre, as crops of a larger picture have."""
    intrinsics = torch.tensor([[200.0, 0.0, 20.0], [0.0, 200.0, 50.0], [0.0, 0.0, 1.0]]).repeat(batch, 1, 1)
    intrinsics[:, 0, 2] += 30 * torch.arange(batch)
    return intrinsics


def make_labels(model: HandMIMForMeshEstimation, batch: int, intrinsics: Tensor) -> dict[str, Tensor]:
    """Consistent labels from random parameters near the mean, through the model's own decoder."""
    state = model.mean_state(torch.device("cpu")).repeat(batch, 1)
    state = state + 0.3 * torch.randn(state.shape)
    with torch.no_grad():
        hand = model.decode(state, intrinsics, SIZE)
    names = ("global_orient", "hand_pose", "betas", "vertices", "joints", "keypoints_2d")
    return {name: hand[name] for name in names} | {"hand": torch.arange(batch) % 2.0}


class MeshModelTests(ModelTests):
    model_class = HandMIMForMeshEstimation
    output_names = FIELDS
    checkpointed_module = "backbone.encoder.blocks.0.mlp"
    options: dict[str, Any]

    def make_config(self) -> HandMIMConfig:
        return HandMIMConfig(**self.options)

    def make_inputs(self, config: HandMIMConfig) -> dict[str, Any]:
        intrinsics = make_intrinsics(3)
        model = HandMIMForMeshEstimation(config)
        return {
            "pixel_values": torch.randn(3, 3, SIZE, SIZE),
            "intrinsics": intrinsics,
            "labels": make_labels(model, 3, intrinsics),
        }

    def assert_same(self, first: dict[str, Tensor], second: dict[str, Tensor], tolerance: float = 0.0) -> None:
        """Pixels are compared in half-sides of the crop."""
        scale = {"keypoints_2d": 2 / SIZE}
        super().assert_same(
            {name: value * scale.get(name, 1) for name, value in first.items()},
            {name: value * scale.get(name, 1) for name, value in second.items()},
            tolerance,
        )


class TestPaperModel(MeshModelTests):
    """Section 2.5 as published: patch stem, overlapping transposed convolutions, nothing of ours."""

    options = SMALL
    test_remote_code_gives_the_same = None  # a process of its own costs seconds: once is enough


class TestEverything(MeshModelTests):
    """All of our options."""

    options = EVERYTHING


@pytest.fixture()
def model() -> HandMIMForMeshEstimation:
    torch.manual_seed(0)
    return HandMIMForMeshEstimation(HandMIMConfig(**EVERYTHING | {"fit_steps": 0})).eval()


@pytest.fixture()
def pixel_values() -> Tensor:
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


class TestMeshOutput:
    def test_shapes(self, model: HandMIMForMeshEstimation, pixel_values: Tensor) -> None:
        output = model(pixel_values, return_all=True)
        vertices = model.hand_model.num_vertices
        shapes = {name: tuple(output[name].shape) for name in (*FIELDS, "score_logits", "heatmaps")}
        assert shapes == {
            "vertices": (3, vertices, 3),
            "joints": (3, 21, 3),
            "keypoints_2d": (3, 21, 2),
            "global_orient": (3, 3, 3),
            "hand_pose": (3, 15, 3, 3),
            "betas": (3, 10),
            "camera": (3, 3),
            "translation": (3, 3),
            "score_logits": (3,),
            "heatmaps": (3, 21, 16, 16),
        }
        assert len(output.iterations) == 1 + model.config.num_feedback
        assert torch.equal(output.iterations[-1]["vertices"], output.vertices)

    def test_output_is_consistent(self, model: HandMIMForMeshEstimation, pixel_values: Tensor) -> None:
        """The mesh is the hand model's for the returned parameters, the keypoints its projection."""
        intrinsics = make_intrinsics(3)
        with torch.no_grad():
            output = model(pixel_values, intrinsics)
            hand = model.hand_model(output.global_orient, output.hand_pose, output.betas, output.translation)
        torch.testing.assert_close(output.vertices, hand.vertices, rtol=0, atol=1e-6)
        torch.testing.assert_close(output.joints, hand.joints, rtol=0, atol=1e-6)
        torch.testing.assert_close(output.keypoints_2d, project(output.joints, intrinsics), rtol=0, atol=1e-3)
        wrist = camera_translation(output.camera, intrinsics, SIZE)
        torch.testing.assert_close(output.joints[:, 0], wrist, rtol=0, atol=1e-6)

    def test_rotations_are_rotations(self, model: HandMIMForMeshEstimation, pixel_values: Tensor) -> None:
        output = model(pixel_values, make_intrinsics(3))
        rotmat = torch.cat([output.global_orient[:, None], output.hand_pose], dim=1)
        identity = torch.eye(3).expand_as(rotmat)
        torch.testing.assert_close(rotmat @ rotmat.transpose(-1, -2), identity, rtol=0, atol=1e-5)
        assert (torch.linalg.det(rotmat) > 0).all()

    def test_untrained_hand_is_in_the_crop(self, model: HandMIMForMeshEstimation, pixel_values: Tensor) -> None:
        """The mean parameters: fingers up, a hand that fills the crop, a metre away at focal length 5 S."""
        output = model(pixel_values)
        fingers = output.keypoints_2d[:, 12] - output.keypoints_2d[:, 0]
        assert (fingers[:, 1] < -0.3 * SIZE).all()
        assert ((output.keypoints_2d > -0.3 * SIZE) & (output.keypoints_2d < 1.3 * SIZE)).all()
        assert (output.joints[..., 2] > 0.5).all()

    def test_default_intrinsics(self, model: HandMIMForMeshEstimation, pixel_values: Tensor) -> None:
        centre = (SIZE - 1) / 2
        intrinsics = torch.tensor([[5.0 * SIZE, 0, centre], [0, 5.0 * SIZE, centre], [0, 0, 1]]).expand(3, 3, 3)
        torch.testing.assert_close(model(pixel_values).vertices, model(pixel_values, intrinsics).vertices)

    def test_other_image_sizes_run(self, model: HandMIMForMeshEstimation) -> None:
        output = model(torch.randn(1, 3, 96, 96))
        assert output.heatmaps.shape[-2:] == (24, 24) and output.vertices.isfinite().all()

    @pytest.mark.parametrize("changes", [{}, EVERYTHING])
    def test_goes_on_with_another_image_size(self, changes: dict[str, Any], tmp_path: Path) -> None:
        """It sees crops of that size as before, when its places were resampled for every batch, and keeps them."""
        small = HandMIMForMeshEstimation(HandMIMConfig(**SMALL | changes)).eval()
        small.save_pretrained(tmp_path / "small")
        model, info = HandMIMForMeshEstimation.from_pretrained(
            tmp_path / "small", image_size=96, output_loading_info=True
        )
        assert model.config.image_size == 96 and model.backbone.encoder.pos_embed.shape[1] == 37
        assert model.backbone.encoder.pos_embed.requires_grad and not info["mismatched_keys"]
        pixel_values = torch.randn(2, 3, 96, 96)
        torch.testing.assert_close(model(pixel_values).vertices, small(pixel_values).vertices)
        model.save_pretrained(tmp_path / "large")
        again = HandMIMForMeshEstimation.from_pretrained(tmp_path / "large")
        torch.testing.assert_close(again(pixel_values).vertices, model(pixel_values).vertices)

    def test_a_configuration_may_ask_for_another_image_size(self, tmp_path: Path, pixel_values: Tensor) -> None:
        """As transformers' AutoModel does with its arguments; the caller's configuration stays as it is."""
        small = HandMIMForMeshEstimation(HandMIMConfig(**SMALL)).eval()
        small.save_pretrained(tmp_path)
        asked = HandMIMConfig.from_pretrained(tmp_path, image_size=96)
        crops = torch.randn(2, 3, 96, 96)
        for model in (
            AutoModel.from_pretrained(tmp_path, image_size=96),
            HandMIMForMeshEstimation.from_pretrained(tmp_path, config=asked),
        ):
            assert model.config.image_size == asked.image_size == 96
            torch.testing.assert_close(model(crops).vertices, small(crops).vertices)
        (tmp_path / "config.json").unlink()
        model = HandMIMForMeshEstimation.from_pretrained(tmp_path, config=small.config)
        torch.testing.assert_close(model(pixel_values).vertices, small(pixel_values).vertices)

    @pytest.mark.parametrize("image_size", [0, 90])
    def test_no_size_of_whole_patches(self, image_size: int) -> None:
        model = HandMIMForMeshEstimation(HandMIMConfig(**SMALL))
        with pytest.raises(ValueError, match=f"multiple of patch_size.*got {image_size}"):
            model.set_image_size(image_size)
        assert model.config.image_size == SIZE

    def test_ray_frame_follows_the_principal_point(self, pixel_values: Tensor) -> None:
        """The same crop off the optical axis is the same hand turned with the ray: the same picture, nearly."""
        torch.manual_seed(0)
        model = HandMIMForMeshEstimation(HandMIMConfig(**SMALL, orientation_frame="ray")).eval()
        model.config.num_feedback, model.rectifiers = 0, torch.nn.ModuleList()  # no features at projected points
        shifted = torch.tensor([[5.0 * SIZE, 0, 300.0], [0, 5.0 * SIZE, -200.0], [0, 0, 1]]).expand(3, 3, 3)
        centred = model(pixel_values)
        turned = model(pixel_values, shifted)
        assert (centred.global_orient - turned.global_orient).abs().max() > 0.3
        expected = ray_rotation(shifted, SIZE) @ centred.global_orient
        torch.testing.assert_close(turned.global_orient, expected, rtol=0, atol=1e-5)
        offset = (turned.keypoints_2d - centred.keypoints_2d).abs().max()
        assert offset < 0.25 * SIZE  # in the camera frame the same shift moves them by more than half the crop

    def test_points_behind_the_camera_stay_finite(self, model: HandMIMForMeshEstimation) -> None:
        state = model.mean_state(torch.device("cpu"))[None].repeat(2, 1)
        state[:, -3] = torch.tensor([50.0, -50.0])
        state.requires_grad_()
        hand = model.decode(state, make_intrinsics(2) / 10, SIZE)
        hand["keypoints_2d"].sum().backward()
        assert hand["keypoints_2d"].isfinite().all() and state.grad.isfinite().all()

    def test_iterations_do_not_share_gradients(self, model: HandMIMForMeshEstimation, pixel_values: Tensor) -> None:
        output = model(pixel_values, return_all=True)
        output.iterations[-1]["hand_pose"].square().sum().backward()
        assert all(parameter.grad is None for parameter in model.rectifiers[0].parameters())
        assert model.rectifiers[-1].reduce1.weight.grad is not None

    def test_what_rectifiers_read(self, pixel_values: Tensor) -> None:
        """Features of ever finer maps where the last estimate projects, and how far and how sure the heat maps are."""
        torch.manual_seed(0)
        model = HandMIMForMeshEstimation(HandMIMConfig(**EVERYTHING)).eval()
        model.heatmap.weight.data.mul_(50)  # maps that differ from one point to the next
        read: list[tuple[Any, ...]] = []
        for rectifier in model.rectifiers:
            rectifier.register_forward_pre_hook(lambda _, arguments: read.append(arguments))
        with torch.no_grad():
            output = model(pixel_values, make_intrinsics(3), return_all=True)
            grown = model.backbone(pixel_values).last_hidden_state[:, 1:].unflatten(1, (4, 4))
            peak = output.heatmaps.flatten(2).amax(2).exp()
            for upsample, (features, (residual, height), _), before in zip(
                model.upsample, read, output.iterations[:-1], strict=True
            ):
                grown = upsample(grown)
                points = normalise_pixels(before["keypoints_2d"], SIZE)
                torch.testing.assert_close(features, sample_points(grown, points), rtol=1e-4, atol=1e-4)
                expected = 10 * (soft_argmax(output.heatmaps) - points).clamp(-0.3, 0.3).flatten(1)
                torch.testing.assert_close(residual, expected, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(height, peak * 2 * math.pi, rtol=1e-4, atol=1e-5)

    def test_refuses_what_does_not_fit(self, model: HandMIMForMeshEstimation, pixel_values: Tensor) -> None:
        with pytest.raises(ValueError, match="square crops, got"):
            model(pixel_values[..., :32])
        with pytest.raises(ValueError, match="multiples of 16, got 40"):
            model(torch.randn(1, 3, 40, 40))
        labels = make_labels(model, 3, make_intrinsics(3))
        whole = labels["vertices"]
        labels["vertices"] = whole[:, :100]
        with pytest.raises(ValueError, match="got 100"):
            model(pixel_values, labels=labels)
        for wrong, message in (
            ({"keypoints2d": labels["keypoints_2d"]}, "got keypoints2d"),
            ({"vertices": whole}, "vertices needs joints"),
            ({"keypoints_2d": labels["keypoints_2d"][:1]}, r"keypoints_2d must be \(3, 21, 2\), got \(1, 21, 2\)"),
            ({"joints": labels["joints"][..., :2]}, r"joints must be \(3, 21, 3\)"),
            (labels["joints"], "dict of tensors"),
        ):
            with pytest.raises(ValueError, match=message):
                model(pixel_values, labels=wrong)
        for shape in ((3, 3), (1, 3, 3), (3, 4, 4)):
            with pytest.raises(ValueError, match="one for each crop"):
                model(pixel_values, torch.ones(shape))

    def test_a_batch_of_nothing(self, model: HandMIMForMeshEstimation) -> None:
        output = model.eval()(torch.zeros(0, 3, SIZE, SIZE), torch.zeros(0, 3, 3))
        assert output.vertices.shape == (0, 1649, 3) and output.keypoints_2d.shape == (0, 21, 2)

    def test_the_patch_embedding_is_where_pixels_enter(self, model: HandMIMForMeshEstimation) -> None:
        assert model.get_input_embeddings() is model.backbone.encoder.patch_embed

    def test_missing_mano_file_is_explained_and_recoverable(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pixel_values: Tensor
    ) -> None:
        monkeypatch.setenv("HANDMIM_MANO_DIR", str(tmp_path))
        monkeypatch.setenv("HANDMIM_CACHE", str(tmp_path))
        model = HandMIMForMeshEstimation(HandMIMConfig(**SMALL, hand_model="mano"))
        with pytest.raises(FileNotFoundError, match="MANO"):
            model(pixel_values)


class TestTraining:
    def test_overfits_eight_samples(self) -> None:
        torch.manual_seed(0)
        model = HandMIMForMeshEstimation(HandMIMConfig(**EVERYTHING))
        intrinsics = make_intrinsics(8)
        labels = make_labels(model, 8, intrinsics)
        pixel_values = torch.randn(8, 3, SIZE, SIZE)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        losses: list[float] = []
        while len(losses) < 2 or (losses[-1] > losses[0] / 5 and len(losses) < 250):  # about 110 steps do
            output = model(pixel_values, intrinsics, labels)
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            losses.append(output.loss.item())
        assert losses[-1] <= losses[0] / 5, (losses[0], losses[-1])

    def test_loss_of_a_perfect_prediction(self, model: HandMIMForMeshEstimation, pixel_values: Tensor) -> None:
        """Labels equal to every iteration's prediction leave the heat maps and the score only."""
        intrinsics = make_intrinsics(3)
        for module in (model.initial, *model.rectifiers):
            regressor = getattr(module, "regressor", module)
            torch.nn.init.zeros_(regressor.output.weight)
        output = model(pixel_values, intrinsics)
        labels = {name: output[name].detach() for name in FIELDS if name not in ("camera", "translation")}
        losses = model(pixel_values, intrinsics, labels).losses
        assert all(value < 1e-6 for name, value in losses.items() if "heatmap" not in name)
        assert losses["heatmap"] > 0.1

    def test_loss_sums_weighted_terms_over_iterations(
        self, model: HandMIMForMeshEstimation, pixel_values: Tensor
    ) -> None:
        labels = make_labels(model, 3, make_intrinsics(3))
        output = model(pixel_values, make_intrinsics(3), labels)
        weights = model.config.loss_weights
        once = {"heatmap", "heatmap_keypoints", "score"}
        expected = sum(weights[n] * v * (1 if n in once else 4) for n, v in output.losses.items())
        torch.testing.assert_close(output.loss, expected)
        assert set(output.losses) == {name for name in weights if weights[name]}

    @pytest.mark.parametrize("missing", ["vertices", "joints", "keypoints_2d", "hand", "betas", "everything"])
    def test_missing_labels_are_nan_free(
        self, model: HandMIMForMeshEstimation, pixel_values: Tensor, missing: str
    ) -> None:
        """NaN for one sample equals training on the others; NaN for all equals leaving the label out."""
        labels = make_labels(model, 3, make_intrinsics(3))
        for name in labels if missing == "everything" else [missing]:
            labels[name] = labels[name].clone()
            labels[name][1:] = torch.nan
        output = model(pixel_values, make_intrinsics(3), labels)
        output.loss.backward()
        assert output.loss.isfinite()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        if missing == "everything":
            first = model(pixel_values[:1], make_intrinsics(3)[:1], {k: v[:1] for k, v in labels.items()})
            torch.testing.assert_close(output.loss, first.loss, rtol=1e-4, atol=1e-5)

    def test_no_usable_label_still_trains(self, model: HandMIMForMeshEstimation, pixel_values: Tensor) -> None:
        loss = model(pixel_values, labels={}).loss
        loss.backward()
        assert loss == 0

    def test_losses_are_float32_under_autocast(self, model: HandMIMForMeshEstimation, pixel_values: Tensor) -> None:
        labels = make_labels(model, 3, make_intrinsics(3))
        with torch.autocast("cpu", torch.bfloat16):
            output = model(pixel_values, make_intrinsics(3), labels)
        output.loss.backward()
        assert output.loss.dtype == output.vertices.dtype == output.heatmaps.dtype == torch.float32
        plain = model(pixel_values, make_intrinsics(3), labels)
        torch.testing.assert_close(output.loss, plain.loss, rtol=0.05, atol=0.05)

    @pytest.mark.slow
    @pytest.mark.parametrize("options", [SMALL, EVERYTHING], ids=["paper", "everything"])
    def test_compiles_without_graph_breaks(self, options: dict[str, Any], pixel_values: Tensor) -> None:
        torch.manual_seed(0)
        model = HandMIMForMeshEstimation(HandMIMConfig(**options)).eval()
        labels = make_labels(model, 3, make_intrinsics(3))
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        output = compiled(pixel_values, make_intrinsics(3), labels)
        output.loss.backward()
        plain = model(pixel_values, make_intrinsics(3), labels)
        torch.testing.assert_close(output.loss, plain.loss, rtol=1e-4, atol=1e-4)


class TestBackbone:
    @pytest.fixture()
    def backbone(self) -> HandMIMModel:
        torch.manual_seed(0)
        return HandMIMModel(HandMIMConfig(**EVERYTHING), use_mask_token=True).eval()

    def test_shapes(self, backbone: HandMIMModel, pixel_values: Tensor) -> None:
        output = backbone(pixel_values, output_features=True)
        assert output.last_hidden_state.shape == (3, 17, 32)
        assert torch.equal(output.pooler_output, output.last_hidden_state[:, 0])
        assert [tuple(f.shape) for f in output.feature_maps] == [(3, 32, 4, 4)] * 2
        assert backbone(pixel_values).feature_maps is None

    def test_feature_maps_are_in_row_major_order(self, backbone: HandMIMModel, pixel_values: Tensor) -> None:
        """The last map, normalised, is the last hidden state."""
        output = backbone(pixel_values, output_features=True)
        tokens = backbone.encoder.norm(output.feature_maps[-1].flatten(2).transpose(1, 2))
        torch.testing.assert_close(tokens, output.last_hidden_state[:, 1:])

    def test_masked_patches_do_not_show(self, pixel_values: Tensor) -> None:
        """With a patch stem, what a masked patch holds changes nothing; an unmasked one does."""
        backbone = HandMIMModel(HandMIMConfig(**SMALL), use_mask_token=True).eval()
        mask = torch.zeros(3, 16, dtype=torch.bool)
        mask[:, 5] = True  # row 1, column 1
        changed = pixel_values.clone()
        changed[:, :, 16:32, 16:32] += 1
        plain, other = (backbone(x, bool_masked_pos=mask).last_hidden_state for x in (pixel_values, changed))
        assert torch.equal(plain, other)
        assert not torch.allclose(backbone(pixel_values).last_hidden_state, backbone(changed).last_hidden_state)

    def test_masking_needs_a_token(self, pixel_values: Tensor) -> None:
        with pytest.raises(ValueError, match="use_mask_token"):
            HandMIMModel(HandMIMConfig(**SMALL))(pixel_values, bool_masked_pos=torch.ones(3, 16, dtype=torch.bool))

    def test_mesh_model_has_no_mask_token(self, model: HandMIMForMeshEstimation) -> None:
        """A parameter without a gradient would stop distributed training."""
        assert model.backbone.mask_token is None

    def test_loads_between_base_and_head(
        self, backbone: HandMIMModel, model: HandMIMForMeshEstimation, tmp_path: Path
    ) -> None:
        backbone.save_pretrained(tmp_path / "base")
        model.save_pretrained(tmp_path / "head")
        head, report = HandMIMForMeshEstimation.from_pretrained(tmp_path / "base", output_loading_info=True)
        assert not report["unexpected_keys"]
        assert all(not name.startswith("backbone") for name in report["missing_keys"])
        base = HandMIMModel.from_pretrained(tmp_path / "head")
        for loaded, original in ((head.backbone, backbone), (base, model.backbone)):
            original = dict(original.named_parameters())
            assert all(torch.equal(p, original[name]) for name, p in loaded.named_parameters())

    def test_attention_implementations_agree(self, pixel_values: Tensor) -> None:
        torch.manual_seed(0)
        model = HandMIMModel(HandMIMConfig(**SMALL)).eval()
        with torch.no_grad():
            fused = model(pixel_values).last_hidden_state
            assert all(block.attn.fused_attn for block in model.encoder.blocks)
            model.config._attn_implementation = "eager"
            eager = model(pixel_values).last_hidden_state
            assert not any(block.attn.fused_attn for block in model.encoder.blocks)
        torch.testing.assert_close(fused, eager, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("size", ["tiny", "small"])
    def test_backbone_is_timms(self, size: str) -> None:
        """The paper's backbones take timm's weights name by name."""
        import timm

        config = HandMIMConfig.from_size(size)
        with torch.device("meta"):
            theirs = timm.create_model(f"vit_{size}_patch16_224", num_classes=0).state_dict()
            ours = HandMIMModel(config).encoder.state_dict()
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_mean_state_is_the_mean_hand(model: HandMIMForMeshEstimation) -> None:
    state = model.mean_state(torch.device("cpu"))
    hand = model.decode(state[None], make_intrinsics(1), SIZE)
    torch.testing.assert_close(hand["hand_pose"][0], torch.eye(3).expand(15, 3, 3))
    torch.testing.assert_close(hand["camera"][0], torch.tensor([1.1, 0.0, 0.6]))
    assert torch.equal(matrix_to_rot6d(hand["hand_pose"][0, 0]), torch.tensor([1.0, 0, 0, 0, 1, 0]))


def test_training_starts_from_the_mean_hand() -> None:
    torch.manual_seed(0)
    fresh = HandMIMForMeshEstimation(HandMIMConfig(**EVERYTHING)).eval()
    hand = fresh(torch.randn(2, 3, SIZE, SIZE), return_all=True)
    for iteration in hand.iterations:
        assert iteration["betas"].abs().max() < 0.1
        assert (iteration["hand_pose"] - torch.eye(3)).abs().max() < 0.1


@pytest.mark.parametrize("names", [(), ("hand",), ("keypoints_2d",), ("betas",), ("joints", "vertices")])
def test_every_parameter_has_a_gradient_whatever_the_labels(names: tuple[str, ...]) -> None:
    """On several processes the others wait for it: a batch of negatives, without any pose, was a run that hung."""
    torch.manual_seed(0)
    model = HandMIMForMeshEstimation(HandMIMConfig(**EVERYTHING)).train()
    intrinsics = make_intrinsics(2)
    labels = make_labels(model, 2, intrinsics)
    pixels = torch.randn(2, 3, SIZE, SIZE)
    model(pixels, intrinsics=intrinsics, labels={name: labels[name] for name in names}).loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("option", ["variant", "state_dict"])
def test_what_would_not_be_published_is_refused_before_it_is_saved(option: str, tmp_path: Path) -> None:
    model = HandMIMForMeshEstimation(HandMIMConfig(**SMALL))
    value = {"variant": "fp16", "state_dict": model.state_dict()}[option]
    with pytest.raises(InputError, match=f"{option}= and push_to_hub=True"):
        model.save_pretrained(tmp_path / "out", push_to_hub=True, repo_id="me/x", **{option: value})
    assert not (tmp_path / "out").exists()
