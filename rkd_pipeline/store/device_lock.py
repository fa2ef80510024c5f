"""Who computes on a device: as many processes at once as share it."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from rkd_pipeline.store.result_store import Store

if TYPE_CHECKING:
    from rkd_pipeline.device import Compute


def on_device(store: Store, compute: "Compute") -> AbstractContextManager[None]:
    """Hold one of a device's places for the block; waits for one where all are taken, and logs by whom.

    A place is a lock of this machine that the kernel frees when its process dies. ``compute.slots`` says how many there
    are (``RKD_TRAININGS_PER_DEVICE``). What a cluster's scheduler has allotted to this process needs no lock.
    """
    from rkd_pipeline.device import ALLOTTED  # here, since torch takes seconds to load

    if compute.slots == ALLOTTED:
        return nullcontext()
    return store.machine_slot(f"device {compute.device}", compute.slots)
