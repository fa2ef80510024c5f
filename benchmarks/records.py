"""What a benchmark found, as JSON beside its table: with the machine and the versions that it was measured on."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile")
_PACKAGES = ("torch", "onnxruntime", "openvino", "nncf", "scikit-learn", "anomalib", "adeval")


def write(file: Path | None, benchmark: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows where a file is asked for."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"benchmark": benchmark, "machine": machine(), "rows": list(rows)}, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Date, CPU, what it can do, and versions."""
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = dict(line.split(":", 1) for line in cpu.splitlines() if ":" in line)
    about = {key.strip(): value.strip() for key, value in found.items()}
    has = set(about.get("flags", "").split())
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": about.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "instructions": [flag for flag in _FLAGS if flag in has],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {package: _version(package) for package in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
