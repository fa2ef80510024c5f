"""NumPy arrays and torch tensors, taken alike. torch is imported by whoever made the tensor, not here."""

from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np

if TYPE_CHECKING:
    import torch

Array: TypeAlias = "np.ndarray | torch.Tensor"


def is_tensor(array: Any) -> "TypeGuard[torch.Tensor]":
    """Whether this is a torch tensor."""
    return hasattr(array, "detach")


def to_numpy(array: Any) -> np.ndarray:
    """The same numbers in NumPy: a view where the memory is the CPU's, a copy otherwise. bfloat16 becomes float32."""
    if not is_tensor(array):
        return np.asarray(array)
    tensor = array.detach()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).cpu().numpy()


def score_dtype(maps: Array) -> np.dtype:
    """The float that holds every score exactly: float32 for floats of up to 32 bits, float64 for the rest.

    Raises ``TypeError`` for a type that float64 cannot hold.
    """
    name = str(maps.dtype).removeprefix("torch.")
    if name in ("float16", "bfloat16", "float32"):
        return np.dtype(np.float32)
    if name in ("float64", "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32"):
        return np.dtype(np.float64)
    raise TypeError(f"maps are {name}; give floats of up to 64 bits or integers of up to 32")


def check_maps(maps: Array, masks: Array) -> None:
    """Raise what is wrong with maps and ground truth: ``(N, H, W)`` both, the latter bool or integers."""
    if len(maps.shape) != 3 or tuple(maps.shape) != tuple(masks.shape):
        raise ValueError(f"maps {tuple(maps.shape)} and masks {tuple(masks.shape)} should be (N, H, W) both")
    if "float" in str(masks.dtype):
        raise TypeError("masks are floats; say which pixels are anomalous, e.g. masks > 0.5")
    score_dtype(maps)
