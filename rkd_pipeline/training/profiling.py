"""What a computation costs: time and memory, as facts beside its result."""

import resource
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Meter:
    """Time and peak memory of what runs inside ``with Meter(device) as meter:``; read it afterwards.

    Attributes:
        seconds: wall clock.
        peak_memory_bytes: on a GPU what torch's tensors took at most. On a CPU the largest resident size of the whole
            process: while inside where the kernel can reset its mark (Linux), otherwise since the process began.
    """

    seconds: float
    peak_memory_bytes: int

    def __init__(self, device: "torch.device") -> None:
        self._device = device

    def __enter__(self) -> "Meter":
        if self._device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            _reset_resident_peak()
        self._started = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)
            self.peak_memory_bytes = torch.cuda.max_memory_allocated(self._device)
        else:
            self.peak_memory_bytes = _resident_peak()
        self.seconds = time.monotonic() - self._started


def _reset_resident_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    except OSError:
        return  # the peak since the process began is what getrusage then tells


def _resident_peak() -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        # The BSDs and macOS: kilobytes, and bytes on macOS.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])
