"""The learning rate over the epochs of a training, relative to the recipe's own."""

import math

from rkd_pipeline.recipes.recipe import Schedule

_WARM_UP = 0.1  # of the schedule


def relative_rate(schedule: Schedule, epoch: int, epochs: int) -> float:
    """The factor of an epoch, in (0, 1]: that of its middle.

    ``cosine`` rises in a line over the first tenth of the schedule, then falls to 0 by half a cosine (Loshchilov and
    Hutter 2017, without restarts): a short training then ends with small steps, as a long one does by wandering less.

    Args:
        schedule: ``constant`` or ``cosine``.
        epoch: from 0.
        epochs: length of the schedule; that a training may stop before its end changes nothing.
    """
    if schedule == "constant":
        return 1.0
    done = (epoch + 0.5) / epochs
    if done < _WARM_UP:
        return done / _WARM_UP
    return (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP))) / 2
