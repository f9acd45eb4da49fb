"""Which processor to compute on: an NVIDIA GPU (cuda), a Mac's GPU (mps) or the CPU."""

import torch

from common import InputError


def select_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" takes cuda, else mps, else cpu.

    Raises InputError for a device that this machine lacks, and names those that it has.
    """
    available = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    available = ["cuda", *available] if available else []
    if torch.backends.mps.is_available():
        available.append("mps")
    available.append("cpu")
    if name == "auto":
        name = available[0]
    if name not in available:
        raise InputError(f"this machine has no device {name!r}; it has {', '.join(available)}")
    return torch.device(name)
