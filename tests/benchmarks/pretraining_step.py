"""Time of a pre-training step in the iBOT configuration beside a plain rendering of iBOT's step, in one run.

    python tests/benchmarks/pretraining_step.py [--size small] [--batch 8] [--threads 2] [--device cpu] [--rounds 3]

A step is: student on masked views, teacher on whole views, both losses, backward, clipping at 3.0, AdamW, the
teacher's update, the centres' update. "plain" is written the way iBOT's public code works: explicit attention, the
projection head on all tokens, log-softmax over 8192 outputs of every patch, parameter by parameter clipping and
averaging, eager float32. Both start from the same weights; the first line checks that they give the same losses and
gradients. "forward + backward" is the ViT alone on the same masked views: what no method can avoid. Variants take
turns; the median is printed. `--clock cpu` counts the process's own seconds on one thread, for a busy machine.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handmim import HandMIMConfig, HandMIMForPreTraining, HandMIMPreTrainingConfig
from handmim.training.masking import MaskGenerator

CLIP, MOMENTUM = 3.0, 0.996


def make_batch(batch: int, size: int, device: str) -> dict[str, Tensor]:
    """Random views, transforms without rotation and block-wise masks."""
    transforms = torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(batch, 2, 4)
    inputs = {
        "pixel_values": torch.randn(batch, 2, 3, size, size),
        "transforms": transforms,
        "bool_masked_pos": MaskGenerator(size // 16)(0, torch.arange(batch)),
    }
    return {name: value.to(device) for name, value in inputs.items()}


class PlainStep:
    """iBOT's training step, operation by operation as its public code does it, on copies of our model's weights."""

    def __init__(self, model: HandMIMForPreTraining) -> None:
        self.student, self.teacher = copy.deepcopy(model.student), copy.deepcopy(model.backbone)
        self.head, self.teacher_head = copy.deepcopy(model.projector), copy.deepcopy(model.teacher_projector)
        self.center, self.patch_center = (value.clone() for value in (model.class_center, model.patch_center))
        self.temperature = 0.04
        learning = [*self.student.parameters(), *self.head.parameters()]
        self.parameters = [parameter for parameter in learning if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, foreach=False, fused=False)

    @staticmethod
    def encode(network: nn.Module, views: Tensor, mask: Tensor | None) -> Tensor:
        """All tokens, with explicit attention."""
        encoder = network.encoder
        x = encoder.patch_embed(views)
        if mask is not None:
            x = torch.where(mask.view(*x.shape[:3], 1), network.mask_token, x)
        x = encoder._pos_embed(x)
        for block in encoder.blocks:
            attention = block.attn
            y = block.norm1(x)
            qkv = attention.qkv(y).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
            q, k, v = qkv[0], qkv[1], qkv[2]
            weights = ((q @ k.transpose(-2, -1)) * attention.scale).softmax(dim=-1)
            y = (weights @ v).transpose(1, 2).flatten(2)
            x = x + attention.proj(y)
            x = x + block.mlp(block.norm2(x))
        return encoder.norm(x)

    @staticmethod
    def outputs(head: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Similarities to the prototypes of every token."""
        x = head(tokens) @ F.normalize(head.prototypes, dim=-1).T
        return x[:, 0], x[:, 1:]

    def loss(self, inputs: dict[str, Tensor]) -> Tensor:
        """Both losses, and the centres' update."""
        first, second = inputs["pixel_values"].unbind(1)
        views = torch.cat([first, second])
        masks = torch.cat(inputs["bool_masked_pos"].unbind(1))
        with torch.no_grad():
            t_class, t_patch = self.outputs(self.teacher_head, self.encode(self.teacher, views, None))
        s_class, s_patch = self.outputs(self.head, self.encode(self.student, views, masks))
        s_class, s_patch = (s_class / 0.1).chunk(2), (s_patch / 0.1).chunk(2)
        p_class = F.softmax((t_class - self.center) / self.temperature, dim=-1).chunk(2)
        p_patch = F.softmax((t_patch - self.patch_center) / self.temperature, dim=-1).chunk(2)
        total = 0.0
        for i in range(2):
            patch = torch.sum(-p_patch[i] * F.log_softmax(s_patch[i], dim=-1), dim=-1)
            mask = masks.chunk(2)[i].float()
            total += (torch.sum(patch * mask, dim=-1) / mask.sum(dim=-1).clamp(min=1.0)).mean() / 2
            total += torch.sum(-p_class[i] * F.log_softmax(s_class[1 - i], dim=-1), dim=-1).mean() / 2
        self.center = 0.9 * self.center + 0.1 * t_class.mean(0)
        self.patch_center = 0.9 * self.patch_center + 0.1 * t_patch.mean((0, 1))
        return total

    def __call__(self, inputs: dict[str, Tensor]) -> None:
        loss = self.loss(inputs)
        loss.item()  # iBOT stops when it is not finite
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.parameters:
            norm = parameter.grad.norm(2)
            norm.item()  # iBOT collects them
            if CLIP / (norm + 1e-6) < 1:
                parameter.grad.mul_(CLIP / (norm + 1e-6))
        self.optimizer.step()
        with torch.no_grad():
            learning = dict(self.student.named_parameters())
            pairs = [(p, learning[name]) for name, p in self.teacher.named_parameters()]
            for teacher, student in [*pairs, *zip(self.teacher_head.parameters(), self.head.parameters(), strict=True)]:
                teacher.mul_(MOMENTUM).add_((1 - MOMENTUM) * student)


class LeanStep:
    """One step of `HandMIMForPreTraining`, in float32 or under bfloat16 autocast."""

    def __init__(self, model: HandMIMForPreTraining, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.dtype = copy.deepcopy(model), dtype
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, fused=True)

    def loss(self, inputs: dict[str, Tensor]) -> Tensor:
        """The model's loss."""
        device = inputs["pixel_values"].device.type
        with torch.autocast(device, self.dtype, enabled=self.dtype != torch.float32):
            return self.model(**inputs).loss

    def __call__(self, inputs: dict[str, Tensor]) -> None:
        self.optimizer.zero_grad()
        self.loss(inputs).backward()
        nn.utils.clip_grad_norm_(self.parameters, CLIP, foreach=True)
        self.optimizer.step()
        self.model.update_teacher(MOMENTUM)


class ForwardBackward:
    """The ViT alone on the masked views: forward and backward of the mean of its tokens."""

    def __init__(self, model: HandMIMForPreTraining, dtype: torch.dtype = torch.float32) -> None:
        self.network, self.dtype = copy.deepcopy(model.student), dtype

    def __call__(self, inputs: dict[str, Tensor]) -> None:
        views = inputs["pixel_values"].flatten(0, 1)
        with torch.autocast(views.device.type, self.dtype, enabled=self.dtype != torch.float32):
            tokens = self.network(views, inputs["bool_masked_pos"].flatten(0, 1)).last_hidden_state
        self.network.zero_grad()
        tokens.float().mean().backward()


def check_equal(plain: PlainStep, lean: LeanStep, inputs: dict[str, Tensor]) -> str:
    """Largest relative differences of loss and gradients between two fresh steps; the steps are not made."""
    losses, gradients = [], []
    for step in (plain, lean):
        loss = step.loss(inputs)
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, step.parameters)]))
        losses.append(loss.item())
    difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    return f"same losses: {losses[0]:.6f}, {losses[1]:.6f}; gradients differ by {difference:.1e} of their norm"


def median_times(
    steps: dict[str, Callable], inputs: dict[str, Tensor], rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Median seconds of each step over rounds in which all take turns, after one warm-up each."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(rounds + 1):
        for name, step in steps.items():
            start = clock()
            step(inputs)
            if inputs["pixel_values"].is_cuda:
                torch.cuda.synchronize()
            if round_number:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def build_steps(args: argparse.Namespace) -> tuple[dict[str, Callable], HandMIMForPreTraining]:
    """Every variant, and the iBOT model they share their start with."""

    def build(method: str) -> HandMIMForPreTraining:
        torch.manual_seed(0)
        options = HandMIMPreTrainingConfig.from_method(method)
        config = HandMIMConfig.from_size(args.size, image_size=args.image_size, pretraining_config=options)
        return HandMIMForPreTraining(config).to(args.device).train()

    ibot, handmim = build("ibot"), build("handmim")
    return {
        "plain iBOT, fp32": PlainStep(ibot),
        "ours, iBOT, fp32": LeanStep(ibot),
        "ours, iBOT, bf16": LeanStep(ibot, torch.bfloat16),
        "ours, HandMIM, fp32": LeanStep(handmim),
        "ours, HandMIM, bf16": LeanStep(handmim, torch.bfloat16),
        "ViT forward + backward, fp32": ForwardBackward(handmim),
        "ViT forward + backward, bf16": ForwardBackward(handmim, torch.bfloat16),
    }, ibot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="small")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8, help="images; each has two views")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    args = parser.parse_args()
    torch.set_num_threads(1 if args.clock == "cpu" else args.threads)
    inputs = make_batch(args.batch, args.image_size, args.device)
    steps, model = build_steps(args)
    print(check_equal(PlainStep(model), LeanStep(model), inputs))
    times = median_times(steps, inputs, args.rounds, time.process_time if args.clock == "cpu" else time.perf_counter)
    reference = times["plain iBOT, fp32"]
    print(
        f"ViT-{args.size}, {args.image_size} px, batch {args.batch} x 2 views, {args.device}, "
        f"{torch.get_num_threads()} threads, {args.clock} time"
    )
    for name, seconds in times.items():
        print(f"{name:30s} {seconds:8.3f} s  {args.batch / seconds:8.2f} images/s  {reference / seconds:5.2f} x plain")


if __name__ == "__main__":
    main()
