"""Device and precision as a Dagster resource."""

from typing import TYPE_CHECKING, Literal

import dagster as dg

from rkd_pipeline.settings import Settings

if TYPE_CHECKING:
    from rkd_pipeline.device import Compute


class ComputeResource(dg.ConfigurableResource):
    """Where training and scoring run, and how often a training saves itself."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    feature_gib: float = 4.0
    checkpoint_seconds: float = 30.0

    @classmethod
    def of(cls, settings: Settings) -> "ComputeResource":
        """As the settings ask for."""
        return cls(
            device=settings.device,
            precision=settings.precision,
            feature_gib=settings.feature_gib,
            checkpoint_seconds=settings.checkpoint_seconds,
        )

    def choose(self) -> "Compute":
        """The device and precision to use on this machine."""
        from rkd_pipeline.device import Compute

        return Compute.choose(self.device, self.precision, self.feature_gib)
