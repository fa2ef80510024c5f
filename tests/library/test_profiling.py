import json
import subprocess
import sys

MEASURED = """
import json, time
import numpy, torch
from rkd_pipeline.training.profiling import Meter

with Meter(torch.device("cpu")) as small:
    time.sleep(0.05)
with Meter(torch.device("cpu")) as large:
    held = numpy.ones(25_000_000)
print(json.dumps([small.seconds, small.peak_memory_bytes, large.peak_memory_bytes, int(held.nbytes)]))
"""


def test_time_and_memory_are_of_what_ran_inside() -> None:
    # In a process of its own: where the kernel cannot reset its mark, an earlier test's peak would hide this one.
    printed = subprocess.run([sys.executable, "-c", MEASURED], check=True, capture_output=True, text=True).stdout
    seconds, small, large, held = json.loads(printed)
    assert 0.05 <= seconds < 5
    assert 0.8 * held < large - small < 1.5 * held
