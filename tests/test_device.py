"""Device selection on machines that this one is not: torch's own queries are patched."""

import pytest
import torch

from common.device import select_device


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
