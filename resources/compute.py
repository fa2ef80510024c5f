"""Device and precision as a Dagster resource."""

from typing import TYPE_CHECKING, Literal

import dagster as dg

from resources.fence import launched_run
from rkd_pipeline.settings import Settings

if TYPE_CHECKING:
    from rkd_pipeline.device import Compute

# Of assets that compute on a device: how many such runs the daemon starts at once. Inside a run, file locks guard it.
DEVICE_POOL = "device"
# One run at a time rebuilds tables: of two, one could find the other's benchmark under its own tables, and fail.
TABLES_POOL = "tables"


class ComputeResource(dg.ConfigurableResource):
    """Where training and scoring run, how many at once, and how often a training saves itself."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    trainings_per_device: int | None = None
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    feature_gib: float = 4.0
    checkpoint_seconds: float = 30.0

    @classmethod
    def of(cls, settings: Settings) -> "ComputeResource":
        """As the settings ask for."""
        return cls(
            device=settings.device,
            trainings_per_device=settings.trainings_per_device,
            precision=settings.precision,
            feature_gib=settings.feature_gib,
            checkpoint_seconds=settings.checkpoint_seconds,
        )

    def choose(self) -> "Compute":
        """The device and precision to use on this machine; this process then has its part of the cores.

        A launched run has what its scheduler has allotted, and shares that with nobody.
        """
        from rkd_pipeline.device import ALLOTTED, Compute

        slots = ALLOTTED if launched_run() else self.trainings_per_device
        chosen = Compute.choose(self.device, self.precision, self.feature_gib, slots)
        chosen.share_cores()
        return chosen
