"""Device selection on machines that this one is not: torch's own queries are patched."""

import time

import pytest
import torch

from common.device import fast_math, seconds_for, select_device


@pytest.fixture
def machine(monkeypatch):
    def have(cuda, mps):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return have


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(0, False, "cpu"), (0, True, "mps"), (1, False, "cuda"), (2, True, "cuda")],
)
def test_auto_takes_cuda_else_mps_else_cpu(machine, cuda, mps, chosen):
    machine(cuda, mps)
    assert select_device() == select_device("auto") == torch.device(chosen)


def test_a_device_by_name(machine):
    machine(cuda=2, mps=True)
    for name in ("cpu", "mps", "cuda", "cuda:0", "cuda:1"):
        assert select_device(name) == torch.device(name)


@pytest.mark.parametrize(
    ("cuda", "mps", "name", "has"),
    [
        (0, False, "cuda", "it has cpu$"),
        (0, True, "cuda", "it has mps, cpu$"),
        (1, False, "mps", "it has cuda, cuda:0, cpu$"),
        (1, False, "cuda:1", "it has cuda, cuda:0, cpu$"),
        (0, False, "gpu", "it has cpu$"),
    ],
)
def test_what_the_machine_lacks_is_refused_with_what_it_has(machine, cuda, mps, name, has):
    machine(cuda, mps)
    with pytest.raises(ValueError, match=f"{name!r}; {has}"):
        select_device(name)


@pytest.fixture
def built_for_bfloat16(monkeypatch):
    """Says what the processors are built for."""

    def say(gpu, cpu):
        capability = (8, 0) if gpu else (7, 5)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True} if cpu else {}
        )

    return say


@pytest.mark.parametrize(
    ("device", "gpu", "cpu", "fast"),
    [
        ("cpu", True, False, False),
        ("cpu", False, True, True),
        ("mps", True, True, False),
        ("cuda", False, True, False),
        ("cuda", True, False, True),
    ],
)
def test_bfloat16_only_where_the_processor_is_built_for_it(
    monkeypatch, built_for_bfloat16, device, gpu, cpu, fast
):
    built_for_bfloat16(gpu, cpu)
    asked = []
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: asked.append((*args, kwargs)))
    fast_math(torch.device(device))
    kind = device if fast else "cpu"
    assert asked == [(kind, torch.bfloat16, {"enabled": fast, "cache_enabled": False})]


@pytest.mark.parametrize(("cpu", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_fast_math_on_a_cpu(built_for_bfloat16, cpu, dtype):
    built_for_bfloat16(False, cpu)
    x = torch.randn(4, 4)
    with fast_math(torch.device("cpu")):
        assert (x @ x).dtype == dtype


def test_one_context_serves_many_steps(built_for_bfloat16):
    built_for_bfloat16(False, True)
    layer = torch.nn.Linear(4, 4)
    x = torch.randn(3, 4)
    with fast_math(torch.device("cpu")):
        before = layer(x)
        with torch.no_grad():
            layer.weight += 1  # as an optimiser does, in place
        after = layer(x)
    assert not torch.equal(before, after)


def test_seconds_for_times_the_second_call():
    naps = [0.3, 0.05]
    seconds = seconds_for(lambda: time.sleep(naps.pop(0)), torch.device("cpu"))
    assert naps == []
    assert 0.05 <= seconds < 0.3
