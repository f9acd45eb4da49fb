"""Which processor to compute on: an NVIDIA GPU (cuda), a Mac's GPU (mps) or the CPU."""

import time
from collections.abc import Callable

import torch


def select_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" takes cuda, else mps, else cpu.

    Names are "auto", "cpu", "cuda", "cuda:1" for the second GPU, and "mps".
    Raises ValueError for what this machine lacks, and names what it has.
    """
    cuda = (
        [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    available = ["cuda", *cuda] if cuda else []
    if torch.backends.mps.is_available():
        available.append("mps")
    available.append("cpu")
    if name == "auto":
        name = available[0]
    if name not in available:
        raise ValueError(f"this machine has no device {name!r}; it has {', '.join(available)}")
    return torch.device(name)


def fast_math(device: torch.device) -> torch.autocast:
    """A context in which a processor that is built for bfloat16 multiplies its matrices in it.

    On others it changes nothing, and neither on mps, whose half precision has let a causal mask
    leak (https://github.com/pytorch/pytorch/issues/195910).
    """
    if device.type == "cuda":
        built_for_it = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        built_for_it = device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16")
    kind = device.type if built_for_it else "cpu"
    # with a cache, all steps in one context would compute with the weights of the first
    return torch.autocast(kind, torch.bfloat16, enabled=bool(built_for_it), cache_enabled=False)


def seconds_for(run: Callable[[], object], device: torch.device) -> float:
    """How long run takes on that device the second time; the first warms up."""
    for _ in range(2):
        start = time.perf_counter()
        run()
        if device.type != "cpu":  # a GPU works on after the call has returned
            torch.accelerator.synchronize(device)
        seconds = time.perf_counter() - start
    return seconds
