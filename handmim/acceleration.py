"""Faster inference on CPUs.

`torch.nn.functional.linear` in float32 goes to a BLAS that packs the weights again at every call and does not reach
every processor's peak (AMD's in particular). oneDNN, which PyTorch carries, can keep a weight in its own blocked layout
and append the GELU to the product. `optimize_for_inference` switches a model's linear layers to those kernels. In
float32, the default, only the order of summation differs (1e-5 at most in features of order one). With
`matmul_dtype=torch.bfloat16` the products (not the residual stream, norms, heads or the hand model) are in bfloat16
with float32 accumulation, where the processor has instructions for it. `fold_norms` is for convolutions.
"""

from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from timm.layers import Attention, Mlp
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval


class PackedLinear(nn.Linear):
    """`nn.Linear` that multiplies with a oneDNN-packed copy of its weight when it can, and plainly when it cannot.

    An `nn.Linear` becomes one by a change of its class, so parameters, state dict and hooks stay what they were. The
    packed copy is made at the first call, made again when the weight changes (but by way of `.data`, which torch does
    not count), and never saved or copied. Gradients, autocast, export, other devices and other dtypes take the plain
    path.
    """

    matmul_dtype: torch.dtype = torch.float32
    fused_gelu: bool = False
    keep_dtype: bool = False  # hand a bfloat16 product on as it is: the next operation would round it anyway
    _packed: torch.Tensor | None = None
    _packed_bias: torch.Tensor | None = None
    _packed_from: tuple[Any, ...] | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (nn.Linear's argument name)
        """Map (..., in_features) to (..., out_features), then GELU if fused; dtype of `input` unless `keep_dtype`."""
        if not self._can_use_packed(input):
            output = functional.linear(input.to(self.weight.dtype), self.weight, self.bias)
            return functional.gelu(output) if self.fused_gelu else output
        weight, bias = self._packed_parameters()
        attr, algorithm = ("gelu", "none") if self.fused_gelu else ("none", "")
        output = torch.ops.mkldnn._linear_pointwise(input.to(self.matmul_dtype), weight, bias, attr, [], algorithm)
        return output if self.keep_dtype else output.to(self.weight.dtype)

    def _can_use_packed(self, input: torch.Tensor) -> bool:  # noqa: A002
        weight = self.weight
        return (
            input.device.type == "cpu"
            and weight.device.type == "cpu"
            and weight.dtype == torch.float32
            and input.dtype in (torch.float32, self.matmul_dtype)
            and input.numel() > 0
            and not (torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad))
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
        )

    def _packed_parameters(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        tensors = [self.weight] if self.bias is None else [self.weight, self.bias]
        source = tuple((t.data_ptr(), None if t.is_inference() else t._version) for t in tensors)
        if self._packed is None or self._packed_from != (source, self.matmul_dtype):
            with torch.no_grad():
                weight = self.weight.detach().to(self.matmul_dtype)
                self._packed = torch.ops.mkldnn._reorder_linear_weight(weight)
                self._packed_bias = None if self.bias is None else self.bias.detach().to(self.matmul_dtype)
            self._packed_from = (source, self.matmul_dtype)
        return self._packed, self._packed_bias

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("_packed", "_packed_bias", "_packed_from"):
            state.pop(name, None)
        return state


@lru_cache
def is_supported(matmul_dtype: torch.dtype = torch.float32) -> bool:
    """Whether this machine has the packed kernels for `matmul_dtype`, found by comparing a small product.

    bfloat16 needs native instructions as well (AVX512-BF16 or AMX): emulation is slower than float32.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    if matmul_dtype == torch.bfloat16 and not has_bfloat16_instructions():
        return False
    generator = torch.Generator().manual_seed(0)
    linear = PackedLinear(32, 16)
    linear.matmul_dtype, linear.fused_gelu = matmul_dtype, True
    with torch.no_grad():
        x = torch.randn(3, 5, 32, generator=generator)
        expected = functional.gelu(functional.linear(x, linear.weight, linear.bias))
        try:
            difference = (linear(x) - expected).abs().max().item()
        except (AttributeError, RuntimeError, NotImplementedError):  # an older or trimmed PyTorch build
            return False
    return difference < (1e-5 if matmul_dtype == torch.float32 else 5e-2)


def has_bfloat16_instructions() -> bool:
    """Whether this CPU computes in bfloat16 (AVX512-BF16 or AMX), rather than PyTorch in its stead."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private, so absent in some releases
    return any(bool(check()) for check in (getattr(torch.cpu, name, None) for name in names) if check is not None)


def optimize_for_inference(model: nn.Module, matmul_dtype: torch.dtype = torch.float32) -> nn.Module:
    """Make a model's float32 linear layers faster on this CPU, in place.

    Parameters and state dict do not change: the model saves, trains and moves to another device as before (those take
    the plain kernels). Memory grows by one packed copy of the linear weights. On a machine or for a layer without
    the kernels nothing happens. Calling it again, also with another `matmul_dtype`, is allowed.

    Args:
        model: any module; layers of the exact type `nn.Linear` with float32 weights on the CPU are switched, and the
            GELU of timm's `Mlp` is fused into the layer before it.
        matmul_dtype: `torch.float32` (the same numbers up to rounding), or `torch.bfloat16` (twice as fast on
            processors with AVX512-BF16 or AMX, relative differences near 1e-3; applied to the linear layers of timm
            `Attention` and `Mlp` blocks only, so heads keep float32). Where bfloat16 is not supported, float32 is used.

    Returns:
        `model` itself.

    Raises:
        ValueError: if `matmul_dtype` is another dtype.
    """
    if matmul_dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"matmul_dtype must be torch.float32 or torch.bfloat16, got {matmul_dtype}")
    restore_plain_layers(model)
    if not is_supported():
        return model
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32:
            module.__class__ = PackedLinear
    for module in model.modules():
        if type(module) is Mlp and type(module.fc1) is PackedLinear and _is_exact_gelu(module.act):
            module.fc1.fused_gelu = True
            module.act = nn.Identity()
    if matmul_dtype == torch.bfloat16 and is_supported(torch.bfloat16):
        _use_bfloat16_in_blocks(model)
    return model


def restore_plain_layers(model: nn.Module) -> nn.Module:
    """Undo `optimize_for_inference` in place and drop the packed copies; return `model`."""
    for module in model.modules():
        if type(module) is Mlp and type(module.fc1) is PackedLinear and module.fc1.fused_gelu:
            module.act = nn.GELU()
    for module in model.modules():
        if type(module) is PackedLinear:
            for name in ("matmul_dtype", "fused_gelu", "keep_dtype", "_packed", "_packed_bias", "_packed_from"):
                module.__dict__.pop(name, None)
            module.__class__ = nn.Linear
    return model


def fold_norms(model: nn.Module) -> nn.Module:
    """Let convolutions do what the batch norms behind them do, in place: a fifth faster on a CPU.

    What comes of it computes the same up to rounding, and is for that alone: it has other weights than its file, and
    nothing left to train.

    Args:
        model: In evaluation; a batch norm that its parent holds right behind a convolution normalises what that gives.

    Returns:
        `model` itself.
    """
    for parent in list(model.modules()):
        for (name, layer), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                folded = fuse_conv_bn_eval(layer, norm)
                folded.__class__ = layer.__class__
                setattr(parent, name, folded)
                setattr(parent, norm_name, getattr(norm, "act", nn.Identity()))  # timm's norms hold an activation
    return model


def _is_exact_gelu(module: nn.Module) -> bool:
    return type(module) is nn.GELU and module.approximate == "none"


def _use_bfloat16_in_blocks(model: nn.Module) -> None:
    for module in model.modules():
        if type(module) is Attention:
            first, last = module.qkv, module.proj
            between = [module.q_norm, module.k_norm, getattr(module, "norm", None)]
        elif type(module) is Mlp:
            first, last, between = module.fc1, module.fc2, [module.act, module.norm]
        else:
            continue
        for linear in (first, last):
            if type(linear) is PackedLinear:
                linear.matmul_dtype = torch.bfloat16
        chained = all(layer is None or type(layer) is nn.Identity for layer in between)
        if type(first) is PackedLinear and type(last) is PackedLinear and chained:
            first.keep_dtype = True
