"""Under what conditions a result was computed, in words: equal numbers need equal conditions.

The facts are recorded beside each training and scoring (``Compute.conditions``); results of before lack some of them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

NOT_RECORDED = "not recorded"


def in_words(facts: Mapping[str, Any]) -> str:
    """Device, precision, CPU instructions and threads of a result's facts.

    >>> in_words({"device": "cpu, fp32", "cpu": "AVX2", "threads": 2})
    'cpu, fp32, 2 threads, AVX2'
    >>> in_words({"device": "cpu, bf16"})
    'cpu, bf16, threads not recorded, CPU instructions not recorded'
    """
    threads = facts.get("threads")
    counted = f"threads {NOT_RECORDED}" if threads is None else f"{threads} thread{'' if threads == 1 else 's'}"
    device = facts.get("device") or f"device {NOT_RECORDED}"
    return ", ".join([device, counted, facts.get("cpu") or f"CPU instructions {NOT_RECORDED}"])


def computed_on(trained: Mapping[str, Any], scored: Mapping[str, Any]) -> str:
    """Of a training and its scoring, from the facts of both."""
    both = in_words(trained), in_words(scored)
    return both[0] if both[0] == both[1] else f"trained: {both[0]}; scored: {both[1]}"


def remark(conditions: Iterable[object]) -> str:
    """What stands below a table of numbers computed under these conditions; empty where there are none."""
    found = sorted({NOT_RECORDED if c is None or pd.isna(c) else str(c) for c in conditions})
    if not found:
        return ""
    return (
        f"Computed on: {' | '.join(found)}. Another device, precision, number of threads or set of CPU instructions "
        "rounds otherwise, and a training carries that on: equal numbers need all four equal."
    )
