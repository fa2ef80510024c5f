"""One number that was measured, and the protocols under which numbers are: what was chosen, and on what."""

from dataclasses import dataclass

from rkd_pipeline.metrics.intervals import Interval
from rkd_pipeline.metrics.threshold import FALSE_POSITIVE_RATE, normals_needed
from rkd_pipeline.recipes.recipe import Recipe

LAST_EPOCH = "last epoch"
VALIDATION = "validation normals"
CALIBRATION = "calibration normals"
ORACLE = "oracle"
TRAINS_ON_ALL = "none: the recipe trains on all normals, so no held-out ones can set a threshold"
HELD_OUT_FOR_TRAINING = (
    "none: the recipe's held-out normals stop or normalise its training; a threshold needs others (a recipe that "
    "calibrates holds some out)"
)
TOO_FEW = (
    f"none: too few calibration normals to promise a false-positive rate of {FALSE_POSITIVE_RATE:.0%}: "
    "{found}, where {needed} are needed"
)
NO_ANOMALOUS = "none: no anomalous images"
NO_NORMAL = "none: no normal test images"
NO_MAPS = "none: the system scores images, and makes no anomaly maps"


def why_no_threshold(recipe: Recipe, calibration_images: int) -> str:
    """Why a training has no threshold, for its protocol; ``calibration_images`` is how many could have set it."""
    if recipe.calibrates:
        return TOO_FEW.format(found=calibration_images, needed=normals_needed())
    return HELD_OUT_FOR_TRAINING if recipe.held_out else TRAINS_ON_ALL


@dataclass(frozen=True)
class Measurement:
    """One number: which metric of which score, chosen on what, and its interval where there is one."""

    metric: str
    score_rule: str
    protocol: str
    value: float | None
    interval: Interval | None = None
