import time

import numpy as np
import torch

from rkd_pipeline.cost import Meter


def test_time_and_memory_are_of_what_ran_inside() -> None:
    big = np.ones(40_000_000)  # 305 MiB, before: must not count where the peak can be reset
    del big
    with Meter(torch.device("cpu")) as small:
        time.sleep(0.05)
    with Meter(torch.device("cpu")) as large:
        held = np.ones(25_000_000)  # 191 MiB
    assert held[0] == 1
    assert 0.05 <= small.seconds < 5
    assert large.peak_memory_bytes - small.peak_memory_bytes > 150 * 2**20
