"""Jobs that do a whole plan: every training that it lacks, a run each, then what is made from all of them."""

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from assets.partitions import TRAINING_DIMENSION, grid_key, offer_targets
from assets.reporting import user_errors
from resources import last_words
from resources.compute import ComputeResource
from resources.storage import DataResource, StoreResource
from resources.tracking import MlflowTracking
from rkd_pipeline.data.catalog import targets_of
from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.models.teacher_files import EMBEDDED, TeacherName
from rkd_pipeline.recipes.ablation_design import INTERACTIONS
from rkd_pipeline.recipes.plans import ABLATION_CENTRE, ABLATION_EPOCHS, PlannedTraining, ablation

Resources = Mapping[str, Any]
_DEMO_TEXTURES = [t.name for t in targets_of("demo") if t.kind == "texture"]
# No retry by the daemon: a run inside a run belongs to that one, which goes on, or is launched again.
_TAGS = {"rkd/launched_by": "job run_ablation", "dagster/max_retries": "0"}


class AblationConfig(dg.Config):
    """What to take apart; the default needs no download."""

    targets: list[str] = Field(_DEMO_TEXTURES, description="such as mvtec_ad.screw")
    centres: list[str] = Field([ABLATION_CENTRE], description="recipes from which one factor at a time is changed")
    seeds: list[int] = Field([0], description="of initialisation and order; each reads its own repeat of the split")
    teacher: str = Field(EMBEDDED, description="as in keys: wide_resnet50_2, resnet18.4c740094, embedded")
    epochs: int | None = Field(ABLATION_EPOCHS, description="schedule; null: the recipe's own")
    interactions: list[str] = Field(
        ["*".join(pair) for pair in INTERACTIONS], description="pairs of factors that are changed together too"
    )

    def cells(self) -> list[PlannedTraining]:
        """Every training; raises ``RkdError`` for what cannot be trained."""
        pairs = [(one, other) for one, _, other in (text.partition("*") for text in self.interactions)]
        named = TeacherName.parse(self.teacher)
        return ablation(self.targets, self.centres, self.seeds, teacher=named, epochs=self.epochs, interactions=pairs)


def ablation_job(definitions: Callable[[Resources], dg.Definitions]) -> dg.JobDefinition:
    """The job ``run_ablation``. ``definitions`` gives the graph over resources: its jobs are what is run per cell."""

    @dg.op(name="ablate", description="Train and score what is missing, then rebuild the tables and the report.")
    def ablate(
        context: dg.OpExecutionContext,
        config: AblationConfig,
        store: StoreResource,
        data_folder: DataResource,
        compute: ComputeResource,
        tracking: MlflowTracking,
    ) -> None:
        graph = definitions({"store": store, "data_folder": data_folder, "compute": compute, "tracking": tracking})
        with user_errors():
            cells = config.cells()
            for name in config.targets:
                targets_in(store.open()).target(name)
            offer_targets(context.instance, targets_in(store.open()))
        context.instance.add_dynamic_partitions(TRAINING_DIMENSION, list(dict.fromkeys(c.training for c in cells)))

        def launch(job: str, partition: str | None = None) -> bool:
            # What Dagster itself cannot go on from, such as a full disk, ends this run too: with words of its own.
            with user_errors(), last_words.kept_for_the_outer_run():
                result = graph.resolve_job_def(job).execute_in_process(
                    instance=context.instance, partition_key=partition, raise_on_error=False, tags=_TAGS
                )
            if not result.success:
                context.log.error(f"{job} {partition or ''} failed: see run {result.run_id}")
            return result.success

        ready = {target: launch("prepare_target", target) for target in dict.fromkeys(c.target for c in cells)}
        launch("list_teachers")
        failed = [str(cell) for cell in cells if not (ready[cell.target] and _whole(launch, cell, context.log.info))]
        if not launch("refresh_tables"):
            failed.append("refresh_tables")
        if failed:
            raise dg.Failure(f"{len(failed)} of {len(cells)} failed: {'; '.join(failed)}", allow_retries=False)

    @dg.job(
        name="run_ablation",
        description="The ablation of some targets: whatever training and scoring is missing, then tables and report. "
        "Launch it again to go on.",
    )
    def job() -> None:
        ablate()

    return job


def _whole(launch: Callable[[str, str], bool], cell: PlannedTraining, say: Callable[[str], Any]) -> bool:
    """One cell, trained and judged in both ways; what is done already is found in the store and takes no time."""
    say(f"{cell.target} {cell.training}")
    key = grid_key(cell.target, cell.training)
    return all(launch(job, key) for job in ("train_and_evaluate", "score_product_maps"))
