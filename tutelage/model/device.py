"""Which device a model's passes run on: a GPU where there is one, unless its user says otherwise."""

import os

import torch

from tutelage.errors import ConfigError

AUTO = "auto"
BF16_CARD = (8, 0)  # compute capability from which bf16 is no emulation (Ampere)
VARIABLE = "TUTELAGE_DEVICE"  # what `auto` means, where it is set


def find_device(name: str) -> torch.device:
    """The device of this name; 'auto' is what $TUTELAGE_DEVICE names, else a CUDA device, else the processor.

    Raises ConfigError for a name that torch does not know, and for a device that is not here.
    """
    if name == AUTO:
        name = os.environ.get(VARIABLE) or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise ConfigError(f"device {name!r}: torch knows no such device. Use 'auto', 'cpu', 'cuda' or 'cuda:1'.") from e
    if device.type == "mps":
        raise ConfigError(f"device {name!r}: samples are drawn in float64, which it does not have. Use 'cpu'.")
    if not _is_here(device):
        raise ConfigError(
            f"device {name!r} is not here, as far as torch {torch.__version__} sees. Install torch's build for it, go "
            f"on where the device is, or use 'cpu' (a run directory keeps the device that it was started with)."
        )
    return device


def _is_here(device: torch.device) -> bool:
    if device.type == "cpu":
        return True
    module = getattr(torch, device.type, None)
    return bool(module and module.is_available() and (device.index or 0) < module.device_count())


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 passes are faster than float32 ones there: most GPUs, and processors with bf16 instructions."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= BF16_CARD
