"""Two processes with half a batch each learn what one process learns with the whole batch."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

METHODS = ("handmim", "ibot", "peclr", "mae")
STEPS = 4


def train(method: str, rank: int = 0, ranks: int = 1) -> tuple[list[float], dict[str, Tensor]]:
    """A few steps on this rank's part of fixed batches: the losses, and the model's state afterwards."""
    from tests.test_modeling_pretraining_handmim import make_inputs, make_model, trainable

    model = make_model(method)
    wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=False) if ranks > 1 else model
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=1e-3)
    losses = []
    torch.manual_seed(5)
    for _ in range(STEPS):
        rows = slice(rank * 4 // ranks, (rank + 1) * 4 // ranks)
        output = wrapped(**{name: value[rows] for name, value in make_inputs(4).items()})
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        model.update_teacher(0.9)
        losses.append(output.loss.item())
    return losses, model.state_dict()


def work(rank: int, folder: str) -> None:
    """One of two gloo processes, which meet in a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for method in METHODS:
        torch.save(train(method, rank, 2), Path(folder) / f"{method}-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    for method in METHODS:
        losses, state = train(method)
        parts = [torch.load(tmp_path / f"{method}-{rank}.pt") for rank in range(2)]
        mean = [sum(pair) / 2 for pair in zip(parts[0][0], parts[1][0], strict=True)]
        assert mean == pytest.approx(losses, rel=1e-4), method
        for other in (parts[0][1], parts[1][1]):
            for name, value in state.items():
                torch.testing.assert_close(
                    other[name], value, rtol=1e-3, atol=2e-4, msg=lambda m, n=f"{method} {name}": f"{n}: {m}"
                )
