"""Numbers as tensors: one object for the same numbers, of use wherever tensors are."""

import torch

from handmim.constants import constant

CPU = torch.device("cpu")


def test_the_same_numbers_are_one_tensor():
    first = constant(((1.0, 2.0), (3.0, 4.0)), CPU)
    assert torch.equal(first, torch.tensor([[1.0, 2.0], [3.0, 4.0]])) and first.dtype == torch.float32
    assert constant(((1.0, 2.0), (3.0, 4.0)), CPU) is first


def test_types_and_devices_are_apart():
    assert constant((1, 2), CPU, torch.int64).dtype == torch.int64
    assert constant((1, 2), CPU).dtype == torch.float32
    assert constant((1, 2), torch.device("meta")).device.type == "meta"


def test_what_was_made_in_inference_serves_where_gradients_are_wanted():
    with torch.inference_mode():
        factor = constant((0.25, 0.5, 0.75), CPU)
    value = torch.ones(3, requires_grad=True)
    (value * factor).sum().backward()
    assert value.grad.tolist() == [0.25, 0.5, 0.75]
