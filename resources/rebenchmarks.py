"""What a re-benchmark trains where nobody says otherwise, as a Dagster resource."""

import dagster as dg

from rkd_pipeline.settings import Settings


class RebenchmarkResource(dg.ConfigurableResource):
    """Plan (``RKD_REBENCHMARK_PLAN``), fresh seeds per configuration and repeat, trainings on another draw."""

    plan: str = "demo"
    seeds: int = 2
    new_draws: int = 0

    @classmethod
    def of(cls, settings: Settings) -> "RebenchmarkResource":
        """As the settings ask for."""
        return cls(
            plan=settings.rebenchmark_plan,
            seeds=settings.rebenchmark_seeds,
            new_draws=settings.rebenchmark_new_draws,
        )
