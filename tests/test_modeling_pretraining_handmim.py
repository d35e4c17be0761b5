"""Tests of the pre-training model: every method, the teacher, the decoder, loading into a mesh model, and learning."""

import copy
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import initialization as init

from handmim.configuration_handmim import HandMIMConfig
from handmim.configuration_pretraining_handmim import METHODS, HandMIMPreTrainingConfig
from handmim.losses_pretraining import align_points, share_within
from handmim.modeling_handmim import HandMIMForMeshEstimation, HandMIMModel
from handmim.modeling_pretraining_handmim import HandMIMForPreTraining, PixelDecoder
from handmim.training.masking import MaskGenerator
from tests.model_tester import ModelTests, trainable

SIZE, GRID = 64, 4
SMALL: dict[str, Any] = {
    "image_size": SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "feature_layers": (1, 2, 3, 4),
    "feature_channels": (16, 16, 16),
    "regressor_hidden_size": 32,
}
SMALL_OPTIONS: dict[str, Any] = {
    "projection_hidden_size": 48,
    "projection_size": 16,
    "decoder_channels": (16, 16, 8, 8),
}


def make_config(method: str = "handmim", **overrides: Any) -> HandMIMConfig:
    options = SMALL_OPTIONS | ({"num_prototypes": 40} if method == "ibot" else {}) | overrides
    return HandMIMConfig(**SMALL, pretraining_config=HandMIMPreTrainingConfig.from_method(method, **options))


def make_model(method: str = "handmim", **overrides: Any) -> HandMIMForPreTraining:
    torch.manual_seed(0)
    return HandMIMForPreTraining(make_config(method, **overrides)).train()


def make_transforms(batch: int) -> Tensor:
    """Rotations to 150 degrees and crops down to 8 % of the area, whose centres lie so that the crop is inside."""
    angle, side = torch.rand(batch, 2) * 2.6, 0.28 + 0.72 * torch.rand(batch, 2)
    centre = (torch.rand(batch, 2, 2) * 2 - 1) * (1 - side[..., None])
    return torch.cat([angle[..., None], 1 / side[..., None], centre / side[..., None]], dim=-1)


def make_inputs(batch: int = 3) -> dict[str, Tensor]:
    return {
        "pixel_values": torch.randn(batch, 2, 3, SIZE, SIZE),
        "transforms": make_transforms(batch),
        "bool_masked_pos": MaskGenerator(GRID)(0, torch.arange(batch)),
    }


class PreTrainingTests(ModelTests):
    model_class = HandMIMForPreTraining
    output_names = ("class_outputs", "reconstruction")
    checkpointed_module = "student.encoder.blocks.0.mlp"
    method = "handmim"
    test_checkpoint_holds_no_hand_model_array = None  # there is no hand model at all

    def make_config(self) -> HandMIMConfig:
        return make_config(self.method)

    def make_inputs(self, config: HandMIMConfig) -> dict[str, Any]:
        return make_inputs() | {"output_reconstruction": True}


class TestHandMIM(PreTrainingTests):
    """The whole method."""


class TestIBOT(PreTrainingTests):
    method = "ibot"
    output_names = ("class_outputs",)
    test_remote_code_gives_the_same = None


class TestPixelsOnly(PreTrainingTests):
    method = "mae"
    output_names = ("reconstruction",)
    checkpointed_module = "backbone.encoder.blocks.0.mlp"
    test_remote_code_gives_the_same = None


class TestPeCLR(PreTrainingTests):
    method = "peclr"
    output_names = ("class_outputs",)
    checkpointed_module = "backbone.encoder.blocks.0.mlp"
    test_remote_code_gives_the_same = None


@pytest.fixture()
def inputs() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return make_inputs()


class TestEveryMethod:
    @pytest.mark.parametrize("method", METHODS)
    def test_builds_what_it_needs_and_trains_all_of_it(self, method: str, inputs: dict[str, Tensor]) -> None:
        """A weight of 0 leaves neither a parameter without a gradient nor a module without a use."""
        model = make_model(method)
        used = set()
        for name, module in model.named_modules():
            module.register_forward_hook(lambda *_, n=name: used.add(n))
        output = model(**inputs)
        output.loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trainable(model).values())
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
        blocks = {name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.LayerNorm)}
        products = ("decoder.fuse", "decoder.upsample")  # their weights are used without a call
        assert {name for name in blocks - used if not name.startswith(products)} == set()

    @pytest.mark.parametrize(
        ("method", "terms"),
        [
            ("handmim", {"pose", "patch", "reconstruction"}),
            ("handmim_without_pose", {"patch", "reconstruction"}),
            ("handmim_without_patch", {"pose", "reconstruction"}),
            ("handmim_without_reconstruction", {"pose", "patch"}),
            ("ibot", {"pose", "patch"}),
            ("peclr", {"pose"}),
            ("mae", {"reconstruction"}),
        ],
    )
    def test_equation_10_sums_the_terms(self, method: str, terms: set[str], inputs: dict[str, Tensor]) -> None:
        weights = {f"{name}_weight": 0.5 + i for i, name in enumerate(sorted(terms))}
        output = make_model(method, **weights)(**inputs)
        assert set(output.losses) == terms
        expected = sum(weights[f"{name}_weight"] * value for name, value in output.losses.items())
        torch.testing.assert_close(output.loss, expected)
        assert output.loss.dtype == torch.float32 and all(v.isfinite() for v in output.indicators.values())

    @pytest.mark.parametrize("stem", ["residual", "efficientnet"])
    def test_other_stems_train_too(self, stem: str, inputs: dict[str, Tensor]) -> None:
        config = make_config()
        config.stem = stem
        model = HandMIMForPreTraining(config).train()
        model(**inputs).loss.backward()
        assert all(p.grad is not None for p in trainable(model).values())

    def test_samples_are_averaged(self, inputs: dict[str, Tensor]) -> None:
        """The loss of a batch is the mean of its samples' losses, so that ranks and accumulation add up to a batch."""
        model = make_model().eval()
        parts = [model(**{k: v[i : i + 1] for k, v in inputs.items()}).loss for i in range(3)]
        torch.testing.assert_close(model(**inputs).loss, torch.stack(parts).mean())

    def test_bytes_are_normalised(self, inputs: dict[str, Tensor]) -> None:
        model = make_model().eval()
        pixels = torch.randint(0, 256, inputs["pixel_values"].shape, dtype=torch.uint8)
        as_bytes = model(**(inputs | {"pixel_values": pixels})).loss
        torch.testing.assert_close(as_bytes, model(**(inputs | {"pixel_values": (pixels / 255 - 0.5) / 0.5})).loss)

    def test_losses_are_float32_under_autocast(self, inputs: dict[str, Tensor]) -> None:
        for method in ("handmim", "ibot", "peclr"):
            model = make_model(method).eval()
            with torch.autocast("cpu", torch.bfloat16):
                output = model(**inputs)
            output.loss.backward()
            assert output.loss.dtype == torch.float32
            torch.testing.assert_close(output.loss, model(**inputs).loss, rtol=0.05, atol=0.05)

    @pytest.mark.slow
    @pytest.mark.parametrize("method", ["handmim", "ibot", "peclr"])
    def test_compiles(self, method: str, inputs: dict[str, Tensor]) -> None:
        model = make_model(method).eval()
        output = torch.compile(model, backend="aot_eager")(**inputs)
        output.loss.backward()
        torch.testing.assert_close(output.loss, model(**inputs).loss, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"pixel_values": torch.zeros(3, 3, SIZE, SIZE)}, r"pixel_values must be \(B, 2, 3, S, S\), got"),
            ({"transforms": None}, r"transforms must be \(3, 2, 4\) to align points, got None"),
            ({"transforms": torch.ones(3, 2, 6)}, r"got \(3, 2, 6\)"),
            ({"bool_masked_pos": None}, r"bool_masked_pos must be \(3, 2, 16\)"),
            ({"bool_masked_pos": torch.ones(3, 2, 9)}, r"got \(3, 2, 9\)"),
        ],
    )
    def test_refuses_what_does_not_fit(self, inputs: dict[str, Tensor], change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make_model()(**(inputs | change))

    def test_decoder_must_fit_the_backbone(self) -> None:
        with pytest.raises(ValueError, match=r"decoder_channels must give 4 widths.*got \(8, 8\)"):
            make_model(decoder_channels=(8, 8))
        config = make_config()
        config.feature_layers = (1, 2)
        with pytest.raises(ValueError, match=r"feature_layers must be 4 different layers.*got \(1, 2\)"):
            HandMIMForPreTraining(config)


class TestTerms:
    """The model's terms beside a slow rendering from the network's own tokens."""

    @pytest.mark.parametrize("method", ["handmim", "ibot"])
    def test_pose_and_patch(self, method: str, inputs: dict[str, Tensor]) -> None:
        model = make_model(method).eval()
        perturb(model)
        model.set_epoch(15)
        options = model.config.pretraining_config
        views, mask = inputs["pixel_values"].flatten(0, 1), inputs["bool_masked_pos"].flatten(0, 1)
        with torch.no_grad():
            student = heads(model.projector, model.student(views, bool_masked_pos=mask).last_hidden_state)
            teacher = heads(model.teacher_projector, model.backbone(views).last_hidden_state)
            classes, seen = student[:, 0].unflatten(0, (3, 2)), teacher[:, 0].unflatten(0, (3, 2))
            if options.align_points:
                for tokens in (classes, seen):
                    for i in range(3):
                        for j in range(2):
                            points = align_points(tokens[i, j].view(-1, 2), inputs["transforms"][i, j])
                            tokens[i, j] = points.flatten()
            pose = [
                -(((seen[i, 1 - j] - model.class_center) / 0.055).softmax(-1) * (classes[i, j] / 0.1).log_softmax(-1))
                for i in range(3)
                for j in range(2)
            ]
            patch = [
                torch.stack(
                    [
                        -(((t - model.patch_center) / 0.055).softmax(-1) * (s / 0.1).log_softmax(-1)).sum()
                        for s, t, m in zip(student[v, 1:], teacher[v, 1:], mask[v], strict=True)
                        if m
                    ]
                ).mean()
                for v in range(6)
            ]
            output = model(**inputs)
        torch.testing.assert_close(output.losses["pose"], torch.stack(pose).sum(-1).mean(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(output.losses["patch"], torch.stack(patch).mean(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(output.class_outputs, classes, rtol=1e-4, atol=1e-5)

    def test_reconstruction_is_of_masked_patches(self, inputs: dict[str, Tensor]) -> None:
        model = make_model("mae").eval()
        output = model(**inputs, output_reconstruction=True)
        masked = inputs["bool_masked_pos"].view(3, 2, GRID, GRID)
        masked = masked.repeat_interleave(16, -1).repeat_interleave(16, -2)[:, :, None].expand(-1, -1, 3, -1, -1)
        error = (output.reconstruction - inputs["pixel_values"]).abs()
        assert (error[~masked] == 0).all() and (error[masked] > 0).float().mean() > 0.99
        per_view = error.sum((2, 3, 4)) / masked.sum((2, 3, 4))
        torch.testing.assert_close(output.losses["reconstruction"], per_view.mean(), rtol=1e-4, atol=1e-5)

    def test_decoder_is_equation_8(self) -> None:
        """Whole maps, concatenated channels and PyTorch's transposed convolutions give the same pixels."""
        config = make_config()
        torch.manual_seed(0)
        decoder = PixelDecoder(config).double()
        maps = torch.randn(4, 1, 32, 2, 3, dtype=torch.float64)  # layer, batch, channels, h, w
        x = None
        for stage in range(4):
            layer = maps[stage].permute(0, 2, 3, 1)
            layer = layer if stage == 3 else decoder.norms[stage](layer)
            layer = layer.repeat_interleave(2**stage, 1).repeat_interleave(2**stage, 2)
            x = decoder.fuse[stage](layer if x is None else torch.cat([x, layer], dim=-1)).permute(0, 3, 1, 2)
            if stage < 3:
                upsample = decoder.upsample[stage]
                x = nn.functional.gelu(upsample.norm(upsample.deconv(x).permute(0, 2, 3, 1)))
        weight = decoder.pixels.weight.view(3, 4, -1).permute(2, 0, 1).unflatten(2, (2, 2))
        bias = decoder.pixels.bias.view(3, 4)
        image = nn.functional.conv_transpose2d(x, weight, stride=2)
        image = image + bias.view(3, 2, 2).repeat(1, 16, 24)
        tokens = [layer[0].flatten(1).T for layer in maps]
        patches = decoder(tokens).view(2, 3, 3, 16, 16).permute(2, 0, 3, 1, 4).reshape(1, 3, 32, 48)
        torch.testing.assert_close(patches, image)

    def test_peclr_undoes_rotation_scale_and_translation(self, inputs: dict[str, Tensor]) -> None:
        """Projections that are the same points seen in both views have the same direction."""
        model = make_model("peclr")
        model.projector = nn.Identity()
        points = torch.randn(3, 1, 16, 2)
        angle = make_transforms(3)[..., :1]
        turned = torch.cat([angle, torch.rand(3, 2, 1) + 1, torch.zeros(3, 2, 2)], -1)
        views = (points - points.mean(2, keepdim=True)) @ rotations(angle[..., 0]).mT
        directions = model._directions(views.flatten(2).flatten(0, 1), turned)
        similarity = torch.cosine_similarity(directions[:, 0], directions[:, 1], dim=-1)
        torch.testing.assert_close(similarity, torch.ones(3))
        shifted = turned.clone()
        shifted[:, 0, 2] += 1.0
        moved = model._directions(views.flatten(2).flatten(0, 1), shifted)
        assert (torch.cosine_similarity(moved[:, 0], moved[:, 1], dim=-1) < 0.95).all()


def rotations(angle: Tensor) -> Tensor:
    rows = [torch.stack([angle.cos(), -angle.sin()], -1), torch.stack([angle.sin(), angle.cos()], -1)]
    return torch.stack(rows, -2)


def heads(projector: nn.Module, hidden: Tensor) -> Tensor:
    """All tokens through the head, (V, 1 + N, K), layer by layer."""
    x = hidden
    for layer in projector.layers[:-1]:
        x = nn.functional.gelu(layer(x))
    x = projector.layers[-1](x)
    if projector.prototypes is not None:
        unit = projector.prototypes / projector.prototypes.norm(dim=1, keepdim=True)
        x = x / x.norm(dim=-1, keepdim=True) @ unit.T
    return x.clone()


@torch.no_grad()
def perturb(model: HandMIMForPreTraining) -> None:
    """Makes student and teacher, and the centres, differ from each other and from their start."""
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    for name in ("class_center", "patch_center"):
        getattr(model, name).normal_()


class TestTeacher:
    def test_starts_as_the_student(self) -> None:
        pairs = make_model().teacher_pairs()
        assert pairs and all(torch.equal(teacher, student) for teacher, student in pairs)

    def test_follows_the_student_exactly(self) -> None:
        model = make_model()
        perturb(model)
        expected = [0.9 * teacher.detach() + 0.1 * student.detach() for teacher, student in model.teacher_pairs()]
        model.update_teacher(0.9)
        for (teacher, _), value in zip(model.teacher_pairs(), expected, strict=True):
            torch.testing.assert_close(teacher, value, rtol=1e-6, atol=1e-6)
        before = copy.deepcopy(model.state_dict())
        model.update_teacher(1.0)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        model.update_teacher(0.0)
        assert all(torch.equal(teacher, student) for teacher, student in model.teacher_pairs())

    def test_pairs_are_all_of_the_teacher(self) -> None:
        model = make_model()
        frozen = [p for p in model.parameters() if not p.requires_grad]
        assert len(model.teacher_pairs()) == len(frozen)
        learning = {id(p) for p in trainable(model).values()}
        assert {id(student) for _, student in model.teacher_pairs()} <= learning

    def test_sees_whole_images(self, inputs: dict[str, Tensor]) -> None:
        """What is masked changes the student only."""
        model = make_model("handmim_without_patch").eval()
        seen: list[Tensor] = []
        model.backbone.register_forward_hook(lambda _, __, output: seen.append(output.last_hidden_state))
        model(**inputs)
        model(**(inputs | {"bool_masked_pos": ~inputs["bool_masked_pos"]}))
        assert torch.equal(*seen)

    def test_has_no_stochastic_depth(self) -> None:
        config = make_config()
        config.drop_path_rate = 0.5
        model = HandMIMForPreTraining(config).train()
        x = torch.randn(2, 3, SIZE, SIZE)
        with torch.no_grad():
            teacher, student = ([net(x).pooler_output for _ in range(2)] for net in (model.backbone, model.student))
        assert torch.equal(*teacher) and not torch.equal(*student)

    def test_centres_follow_the_teachers_mean(self, inputs: dict[str, Tensor]) -> None:
        for method in ("handmim", "ibot"):
            model = make_model(method)
            views, mask = inputs["pixel_values"].flatten(0, 1), inputs["bool_masked_pos"].flatten(0, 1)
            with torch.no_grad():
                tokens = heads(model.teacher_projector, model.backbone(views).last_hidden_state)
            classes = tokens[:, 0]
            if method == "handmim":
                classes = align_points(classes.unflatten(-1, (-1, 2)), inputs["transforms"].flatten(0, 1)).flatten(1)
            model(**inputs)
            torch.testing.assert_close(model.class_center, 0.1 * classes.mean(0), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(model.patch_center, 0.1 * tokens[:, 1:][mask].mean(0), rtol=1e-4, atol=1e-6)
            before = model.class_center.clone()
            model.eval()(**inputs)
            assert torch.equal(before, model.class_center)

    def test_no_teacher_needs_no_update(self) -> None:
        model = make_model("mae")
        model.update_teacher(0.5)
        model.set_epoch(3)
        assert model.network is model.backbone and not list(model.buffers())


class TestLoading:
    @pytest.mark.parametrize("method", ["handmim", "ibot", "peclr", "mae"])
    def test_mesh_model_takes_the_backbone_without_a_warning(
        self, method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = make_model(method)
        perturb(model) if method in ("handmim", "ibot") else None
        model.save_pretrained(tmp_path)
        logging.getLogger("transformers").addHandler(caplog.handler)
        try:
            with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
                warnings.simplefilter("error")
                mesh = HandMIMForMeshEstimation.from_pretrained(tmp_path)
                base = HandMIMModel.from_pretrained(tmp_path)
        finally:
            logging.getLogger("transformers").removeHandler(caplog.handler)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        expected = dict(model.backbone.named_parameters())
        for backbone in (mesh.backbone, base):
            loaded = dict(backbone.named_parameters())
            assert all(torch.equal(value, expected[name]) for name, value in loaded.items())
            assert all(value.requires_grad for value in loaded.values())
        assert mesh(torch.randn(1, 3, SIZE, SIZE)).vertices.isfinite().all()

    def test_half_a_head_is_still_reported(self, tmp_path: Path) -> None:
        model = HandMIMForMeshEstimation(HandMIMConfig(**SMALL))
        state = {name: value for name, value in model.state_dict().items() if not name.startswith("rectifiers.2")}
        model.save_pretrained(tmp_path, state_dict=state)
        _, report = HandMIMForMeshEstimation.from_pretrained(tmp_path, output_loading_info=True)
        assert report["missing_keys"] and all(name.startswith("rectifiers.2") for name in report["missing_keys"])

    def test_everything_resumes(self, inputs: dict[str, Tensor], tmp_path: Path) -> None:
        """Student, teacher, centres, epoch; and the teacher stays frozen."""
        model = make_model()
        perturb(model)
        model.set_epoch(12.5)
        model.save_pretrained(tmp_path)
        loaded = HandMIMForPreTraining.from_pretrained(tmp_path)
        assert {name for name, p in loaded.named_parameters() if p.requires_grad} == set(trainable(model))
        for name, value in model.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name]), name
        assert loaded.epoch == 12.5
        assert torch.equal(model.eval()(**inputs).loss, loaded(**inputs).loss)

    def test_a_backbone_starts_student_and_teacher(self, tmp_path: Path) -> None:
        backbone = HandMIMModel(make_config())
        backbone.save_pretrained(tmp_path)
        model = HandMIMForPreTraining.from_pretrained(tmp_path)
        expected = dict(backbone.named_parameters())
        for network in (model.backbone, model.student):
            loaded = {name: value for name, value in network.named_parameters() if name != "mask_token"}
            assert loaded.keys() == expected.keys()
            assert all(torch.equal(value, expected[name]) for name, value in loaded.items())
        assert all(torch.equal(teacher, student) for teacher, student in model.teacher_pairs())


@pytest.mark.parametrize("method", ["handmim", "ibot", "peclr"])
def test_patch_share_is_of_the_tokens_that_fine_tuning_gets(method: str, inputs: dict[str, Tensor]) -> None:
    """The teacher's where there is one; the student's see masked patches."""
    model = make_model(method).eval()
    with torch.no_grad():
        tokens = model.backbone(inputs["pixel_values"].flatten(0, 1)).last_hidden_state[:, 1:]
        found = model(**inputs).indicators["patch_share"]
    torch.testing.assert_close(found, share_within(tokens))


class TestLearning:
    @pytest.fixture(autouse=True)
    def same_start_everywhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Older versions of torch draw other truncated numbers from a seed, and a hundred steps depend on the start."""

        def normal(tensor: Tensor, mean: float = 0.0, std: float = 1.0, **limits: float) -> Tensor:
            return init.normal_(tensor, mean, std)

        monkeypatch.setattr(init, "trunc_normal_", normal)

    @pytest.mark.parametrize("method", ["handmim", "ibot", "peclr", "mae"])
    def test_a_toy_problem_is_learnt_without_collapse(self, method: str) -> None:
        """Two fixed views of each of 8 images: the loss falls, and images keep different features."""
        torch.manual_seed(0)
        config = make_config(method, temperature_warmup_epochs=0)
        config.initializer_range = 0.1  # thin layers then give outputs as large as those of the real sizes
        model = HandMIMForPreTraining(config).train()
        optimizer = torch.optim.AdamW(trainable(model).values(), lr=1e-3, weight_decay=0.04)
        images = nn.functional.interpolate(torch.rand(8, 3, 3, 3), SIZE, mode="bicubic") * 2 - 1
        inputs = make_inputs(8)
        inputs["pixel_values"] = warp(images, inputs["transforms"])
        losses, spreads = [], []
        for step in range(100):
            output = model(**(inputs | {"bool_masked_pos": MaskGenerator(GRID)(step, torch.arange(8))}))
            optimizer.zero_grad()
            output.loss.backward()
            nn.utils.clip_grad_norm_(trainable(model).values(), 3.0)
            optimizer.step()
            model.update_teacher(0.95)
            losses.append({"sum": output.loss.item()} | {k: v.item() for k, v in output.losses.items()})
            spreads.append(output.indicators["feature_spread"].item())
        first, last = losses[0], {name: sum(values[name] for values in losses[-20:]) / 20 for name in losses[0]}
        assert last["sum"] < 0.9 * first["sum"], (first, last)
        assert min(spreads) > 0.4, spreads
        assert 0 < output.indicators["patch_share"] < 1, output.indicators
        if "class_kl" in output.indicators:
            assert output.indicators["class_usage"] > 1, output.indicators  # more than e different outputs
            assert output.indicators["class_kl"] < 0.3, output.indicators  # the student has learnt the teacher's


def warp(images: Tensor, transforms: Tensor) -> Tensor:
    """Views (B, 2, 3, S, S) of images by equation 4: each view's pixel looks up its place in the original."""
    axis = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).flatten(0, 1)
    places = align_points(grid, transforms.flatten(0, 1)).unflatten(1, (SIZE, SIZE))
    views = nn.functional.grid_sample(images.repeat_interleave(2, 0), places, align_corners=False)
    return views.unflatten(0, (-1, 2))
