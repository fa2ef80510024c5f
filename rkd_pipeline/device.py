"""Where and in which precision to compute."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from rkd_pipeline.errors import RkdError

ALLOTTED = 0  # in place of a number of trainings that share a device: a cluster has given this process its part
M = TypeVar("M", bound=torch.nn.Module)
DeviceChoice = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "tf32", "bf16"]
# How cuDNN chooses algorithms of convolutions, whatever a program around has set. Trying several (benchmark) gains
# nothing here (docs/performance.md), and would let a busy moment decide by which one a training is computed.
# Deterministic ones alone would not make trainings repeat themselves: kernels of torch's own add in any order, too.
CUDNN_BENCHMARK, CUDNN_DETERMINISTIC = False, False
# Of trainings that share a GPU. The largest training measured took 3.6 GiB with its features (docs/results/), with a
# ResNet-18; a Wide-ResNet-50-2 takes more. Whether more than a few at once are of use is not measured.
_TRAINING_BYTES, _SLOTS_AT_MOST, _CORES_EACH = 8 * 2**30, 4, 2
PrecisionChoice = Literal["auto", "fp32", "tf32", "bf16"]
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


@dataclass(frozen=True)
class Compute:
    """A device and a precision.

    Attributes:
        device: where tensors live.
        precision: of convolutions and matrix products of *training*: float32, TF32 (a GPU's float32 with 10 bits of
            mantissa in products) or bfloat16. Weights and losses stay float32, and so does everything in scoring.
        feature_budget: bytes that cached teacher features may take; beyond, they are recomputed in each step.
        slots: trainings that share the device; ``ALLOTTED`` where a scheduler sees to that.
    """

    device: torch.device
    precision: Precision
    feature_budget: int
    slots: int = 1

    @classmethod
    def choose(
        cls,
        device: DeviceChoice = "auto",
        precision: PrecisionChoice = "auto",
        feature_budget_gib: float = 4.0,
        slots: int | None = 1,
    ) -> "Compute":
        """The device asked for, or CUDA where there is one; bfloat16 where the hardware computes it natively.

        Without a number of ``slots``, it is 1 on a CPU, and on a GPU as many trainings as fit (``trainings_that_fit``).

        Raises ``RkdError`` when CUDA is asked for and absent, or TF32 where there is no CUDA.
        """
        has_cuda = torch.cuda.is_available()
        if device == "cuda" and not has_cuda:
            raise RkdError("device cuda asked for, but torch sees no CUDA device; use --device cpu or auto")
        chosen = torch.device("cuda" if has_cuda and device != "cpu" else "cpu")
        if precision == "tf32" and chosen.type != "cuda":
            raise RkdError("precision tf32 asked for, but only a CUDA device computes in it; use fp32 or auto")
        if precision == "auto":
            precision = "bf16" if _native_bf16(chosen) else "fp32"
        budget = int(feature_budget_gib * 2**30)
        if slots is None:
            slots = trainings_that_fit(chosen, budget) if chosen.type == "cuda" else 1
        return cls(chosen, precision, budget, slots)

    def on_cpu(self) -> "Compute":
        """What is computed on the CPU in any case, in float32: of a GPU's trainings, one at a time."""
        slots = self.slots if self.device.type == "cpu" else 1
        return replace(self, device=torch.device("cpu"), precision="fp32", slots=slots)

    def share_cores(self) -> None:
        """Give this process its part of the cores, where trainings share the CPU.

        The same part for one training that is alone: numbers must not depend on what else runs. ``OMP_NUM_THREADS``
        has the last word.
        """
        if self.device.type == "cpu" and self.slots > 1 and not os.environ.get("OMP_NUM_THREADS"):
            torch.set_num_threads(max(1, cores() // self.slots))

    @property
    def bf16(self) -> bool:
        """Training runs in bfloat16."""
        return self.precision == "bf16"

    @property
    def label(self) -> str:
        """For people and provenance, e.g. ``cpu, fp32`` or ``NVIDIA H100, bf16``: device and precision of training."""
        return f"{self._name}, {self.precision}"

    @property
    def _name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def conditions(self, *, training: bool) -> dict[str, Any]:
        """What must be the same for equal numbers, as facts beside a result (in words: ``training/conditions.py``)."""
        return {
            "device": self.label if training else f"{self._name}, fp32",  # scoring is always fp32
            "threads": torch.get_num_threads(),
            "cpu": cpu_instructions(),
        }

    def autocast(self) -> AbstractContextManager[object]:
        """Run what is inside in bfloat16 where this compute says so."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def products(self) -> AbstractContextManager[None]:
        """Inside, what is float32 is computed in this precision, and cuDNN is set: see ``full_precision``."""
        return full_precision() if self.precision == "fp32" else _float32_products("tf32")


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside, float32 is float32: no TF32 or bfloat16 within products and convolutions; afterwards all is as before.

    torch lets convolutions on a GPU use TF32, with 10 bits of mantissa, unless told otherwise. How cuDNN chooses its
    algorithms is set for the block, too (``CUDNN_BENCHMARK``, ``CUDNN_DETERMINISTIC``).
    """
    with _float32_products("ieee"):
        yield


@contextmanager
def _float32_products(wanted: Literal["ieee", "tf32"]) -> Iterator[None]:
    gpu: Any = torch.backends.cudnn
    cpu: Any = torch.backends.mkldnn
    # With those of recurrent layers, which nobody here uses: torch refuses to read settings that differ among them.
    of_gpu, of_cpu = (torch.backends.cuda.matmul, gpu.conv, gpu.rnn), (cpu.matmul, cpu.conv, cpu.rnn)
    switches: tuple[Any, ...] = (*of_gpu, *of_cpu)
    before = [switch.fp32_precision for switch in switches]
    algorithms = gpu.benchmark, gpu.deterministic
    try:
        for switch in switches:
            switch.fp32_precision = wanted if switch in of_gpu else "ieee"  # CPUs have no TF32
        gpu.benchmark, gpu.deterministic = CUDNN_BENCHMARK, CUDNN_DETERMINISTIC
        yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision
        gpu.benchmark, gpu.deterministic = algorithms


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, up to 1 GiB, for what it allocates next.

    A step of training on a CPU takes and frees memory for gradients and activations. The C library gives it back to the
    kernel, which clears every page that is taken again: 6 to 14% of a step of small batches. Numbers do not change.
    Only glibc can be told; elsewhere this does nothing.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_TRIM_THRESHOLD, 2**30)
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # larger blocks go back at once; glibc allows no more


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def trainings_that_fit(device: torch.device, feature_budget: int) -> int:
    """How many trainings may share a GPU: 1 to 4, by its free memory and by the cores that feed it.

    Of memory each is given its features' budget, in bytes, and 8 GiB for networks, gradients, moments and activations.
    A process asks once: later its own tensors would count as taken.
    """
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(_SLOTS_AT_MOST, cores() // _CORES_EACH, free // (feature_budget + _TRAINING_BYTES)))


def cpu_instructions() -> str:
    """What torch computes with on this CPU, e.g. ``AVX2`` or ``AVX-512, bf16``: sums are rounded otherwise in each."""
    level = torch.backends.cpu.get_cpu_capability()
    features = {"avx512_bf16": "bf16", "amx_bf16": "AMX"}
    capabilities = torch.cpu.get_capabilities()
    return ", ".join([level.replace("AVX512", "AVX-512"), *(n for k, n in features.items() if capabilities.get(k))])


def upload(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """An array or a tensor of the host on a device.

    To a GPU it is copied from memory that stays in place: the copy takes its turn behind the work that the GPU has, and
    the host goes on. From ordinary memory the host would wait for all of that work.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(values)) if isinstance(values, np.ndarray) else values
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def place(module: M, device: torch.device) -> M:
    """A module on a device, its convolutions in channels_last, the layout that CPUs and tensor cores prefer."""
    return module.to(device).to(memory_format=torch.channels_last)


def _native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without these instructions a CPU emulates bfloat16, hundreds of times slower than fp32.
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
