"""One number that was measured, and the protocols under which numbers are: what was chosen, and on what."""

from dataclasses import dataclass

from rkd_pipeline.metrics.intervals import Interval
from rkd_pipeline.metrics.threshold import FALSE_POSITIVE_RATE

LAST_EPOCH = "last epoch"
VALIDATION = "validation normals"
ORACLE = "oracle"
NO_VALIDATION = "none: the recipe trains on all normals, so no held-out ones can set a threshold"
TOO_FEW = f"none: too few validation normals to promise a false-positive rate of {FALSE_POSITIVE_RATE:.0%}"


@dataclass(frozen=True)
class Measurement:
    """One number: which metric of which score, chosen on what, and its interval where there is one."""

    metric: str
    score_rule: str
    protocol: str
    value: float | None
    interval: Interval | None = None
