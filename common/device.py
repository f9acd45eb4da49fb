"""Which processor to compute on: an NVIDIA GPU (cuda), a Mac's GPU (mps) or the CPU."""

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
