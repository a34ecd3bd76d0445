"""A loss as a module among others: copies, pickles, autocast, torch.compile, gradient accumulation over processes."""

from __future__ import annotations

import copy
import pickle
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from published_losses import PROGRESS, made
from torch import Tensor, nn

from lossmith.losses import PUBLISHED, Loss, LossSet, Pairwise, Ratio, Tree, loss, to_json
from lossmith.losses.parser import parse


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


OUTPUT, TARGET = normal(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
WEIGHT = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0, 1.0])
COMPILED = ("cross_entropy", "baikal", "focal(gamma=1.5)", "taylor_evolved_1")


def variety() -> list[Loss | LossSet]:
    return [
        *(made(name, classes=5) for name in PUBLISHED),
        loss("focal", head="sigmoid", outputs="mean"),
        loss("t*prior*log(p)", prior=(0.2,) * 5, smoothing=0.1),
        Loss(Tree(parse("2*p*t")), aggregation=Ratio(Tree(parse("p + t")))),
        Loss(Tree(parse("max(1 - z, 0)")), head="identity", aggregation=Pairwise(), reduction="sum"),
        LossSet([loss("cross_entropy"), loss("baikal")]),
    ]


@pytest.mark.parametrize("criterion", variety(), ids=str)
def test_it_owns_no_tensors_and_copies_by_value(criterion: Loss | LossSet) -> None:
    assert not list(criterion.parameters())
    assert not list(criterion.buffers())
    assert not criterion.state_dict()
    one_hot = torch.eye(5)[TARGET]
    expected = criterion(OUTPUT, one_hot, progress=PROGRESS)
    for twin in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert twin is not criterion
        assert to_json(twin) == to_json(criterion)
        assert twin(OUTPUT, one_hot, progress=PROGRESS) == expected
    model = nn.ModuleDict({"criterion": criterion}).double().half()  # a cast of the model around it changes nothing
    assert model["criterion"](OUTPUT, one_hot, progress=PROGRESS) == expected


def test_random_states_are_not_touched_by_a_loss() -> None:
    before = torch.get_rng_state()
    for criterion in variety():
        criterion(OUTPUT, torch.eye(5)[TARGET], progress=PROGRESS)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", [*PUBLISHED, "own head"])
def test_float32_inside_autocast(name: str) -> None:
    mix = normal(5, 5, seed=3)
    if name == "own head":  # a matrix product is what autocast would compute in bfloat16
        criterion = Loss(Tree(parse("-t*log(p)")), head=lambda z: torch.softmax(z @ mix, -1))
        target: Tensor = torch.eye(5)[TARGET]
    else:
        criterion, target = made(name, classes=5), TARGET
    for output in (OUTPUT, OUTPUT.bfloat16()):
        plain = criterion(output.float(), target, weight=WEIGHT, progress=PROGRESS)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (OUTPUT @ mix).dtype == torch.bfloat16  # autocast is on
            inside = criterion(output, target, weight=WEIGHT, progress=PROGRESS)
        assert inside.dtype == torch.float32
        assert inside == plain


def gradient(criterion: Callable[..., Tensor], output: Tensor, **arguments: Any) -> tuple[Tensor, Tensor]:
    output = output.clone().requires_grad_()
    value = criterion(output, TARGET, **arguments)
    (slope,) = torch.autograd.grad(value, output)
    return value.detach(), slope


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", COMPILED)
def test_compiles_in_one_graph(name: str) -> None:
    criterion = loss(name)
    # "aot_eager" traces forward and backward as the real backend does, without needing a C++ compiler
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradient(compiled, OUTPUT), gradient(criterion, OUTPUT), rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inductor's own
def test_compiles_with_inductor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch._inductor.config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)
    monkeypatch.setattr(torch._inductor.config.cpp, "vec_isa_ok", False)  # finding out would compile three more files
    criteria = [loss(name) for name in COMPILED]

    def all_of_them(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return torch.stack([criterion(output, target, weight=weight) for criterion in criteria]).sum()

    compiled = torch.compile(all_of_them, fullgraph=True, backend="inductor")
    ours, theirs = (gradient(function, OUTPUT, weight=WEIGHT) for function in (compiled, all_of_them))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert any(tmp_path.rglob("*.cpp"))  # it was compiled, and not answered by a fallback


HALF_A_BATCH = """
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from lossmith.losses import loss


def gradient_of_half(rank: int, rendezvous: str) -> torch.Tensor:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    x = torch.arange(42.0).reshape(7, 6).sin()
    y = torch.tensor([0, 1, 2, 0, -100, 1, 1])
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0, 0.0, 3.0, 1.0])
    part = slice(0, 2) if rank == 0 else slice(2, 7)  # of unequal size
    model = torch.nn.utils.skip_init(torch.nn.Linear, 6, 3)
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-1, 1, 18).reshape(3, 6))
        model.bias.zero_()
    model = DistributedDataParallel(model)
    items = weight.sum() / 2  # of all processes, divided by their number: DDP averages gradients
    loss("focal")(model(x[part]), y[part], weight=weight[part], num_items=items).backward()
    dist.barrier()
    dist.destroy_process_group()
    return model.module.weight.grad


if __name__ == "__main__":
    torch.save(gradient_of_half(1, sys.argv[1]), sys.argv[2])
"""


def test_processes_add_up_to_one(tmp_path: Path) -> None:
    script = tmp_path / "other.py"
    script.write_text(HALF_A_BATCH)
    rendezvous, answer = tmp_path / "rendezvous", tmp_path / "gradient"
    other = subprocess.Popen([sys.executable, str(script), str(rendezvous), str(answer)])
    try:
        mine = runpy.run_path(str(script))["gradient_of_half"](0, str(rendezvous))  # this process is the other half
        assert other.wait(60) == 0
    finally:
        other.kill()
        other.wait()
        if dist.is_initialized():
            dist.destroy_process_group()
    x, y = torch.arange(42.0).reshape(7, 6).sin(), torch.tensor([0, 1, 2, 0, -100, 1, 1])
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0, 0.0, 3.0, 1.0])
    theta = torch.linspace(-1, 1, 18).reshape(3, 6).requires_grad_()
    (alone,) = torch.autograd.grad(loss("focal")(x @ theta.T, y, weight=weight), theta)
    assert alone.abs().max() > 0.01
    torch.testing.assert_close(mine, alone)
    torch.testing.assert_close(torch.load(answer), alone)
