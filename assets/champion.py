"""The champion of each target, and whether new trainings keep up with it."""

from typing import Any

import dagster as dg

from assets.anomaly_scores import metrics
from assets.partitions import grid_key, of_its_target, target_partitions
from assets.reporting import OWNER, inline_images, user_errors
from resources.storage import StoreResource
from resources.tracking import ALIAS, MlflowTracking, TrackingError
from rkd_pipeline.operations import champions
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import METRICS

NAME = "champion"


champion = dg.AssetSpec(
    NAME,
    deps=of_its_target(metrics),
    partitions_def=target_partitions,
    group_name="models",
    kinds={"python", "mlflow"},
    owners=[OWNER],
    code_version="1",
    description="The trained model that predicts for a target. Each challenge spends a part of the error rate that all "
    "challenges of a target share. So neither a click nor a change upstream materialises this: the job "
    "`challenge_champions`, `rkd champion challenge` and `rkd champion force` report it. Its number is `selected`, and "
    "enters no table. MLflow's registered model of the target carries the alias `champion`.",
)


@dg.op
def challenge(context: dg.OpExecutionContext, store: StoreResource, tracking: MlflowTracking) -> None:
    """Let every other finished configuration of a target challenge its champion, at a gate.

    Challenger and champion are compared over the repeats that both were trained on, paired per test image, by image
    AUROC; what is better beyond the noise of images and trainings, corrected for looking often, replaces it. Only
    recipes with an honest threshold can be champion.
    """
    opened = store.open()
    with user_errors():
        try:
            outcome = champions.challenge(opened, context.partition_key)
        except champions.NoChampion as error:
            context.log.warning(str(error))
            return
        mlflow_has = _registered(opened, outcome.champion, tracking, {"dagster.run_id": context.run_id})
    lines = dg.MetadataValue.md("\n".join(f"- {line}" for line in outcome.lines))
    metadata: dict[str, Any] = {"moved": outcome.moved, "challengers": lines, "mlflow": mlflow_has}
    if page := tracking.page(f"models/{context.partition_key}"):
        metadata["mlflow_page"] = dg.MetadataValue.url(page)
    metadata |= shown(opened, outcome.champion)
    context.log_event(dg.AssetMaterialization(NAME, partition=context.partition_key, metadata=metadata))


@dg.job(partitions_def=target_partitions)
def challenge_champions() -> None:
    """Let every finished configuration of one target challenge its champion, and report who is champion now."""
    challenge()


def _registered(store: Store, champion: champions.Champion, tracking: MlflowTracking, tags: dict[str, str]) -> str:
    """Mirror a champion; says what MLflow has, or that it is away."""
    try:
        version = tracking.mirror_champions(store, champion.target, tags)
    except TrackingError as error:
        return f"did not take it ({error}); {error.advice}"
    return f"models:/{champion.target}@{ALIAS} is version {version}"


def told(store: Store, champion: champions.Champion, tracking: MlflowTracking, instance: dg.DagsterInstance) -> str:
    """Tell MLflow and Dagster of a champion that was made on the command line; says how MLflow took it."""
    mlflow_has = _registered(store, champion, tracking, {})
    metadata: dict[str, Any] = {"moved": True, "mlflow": mlflow_has} | shown(store, champion)
    instance.report_runless_asset_event(dg.AssetMaterialization(NAME, partition=champion.target, metadata=metadata))
    return f"MLflow  {mlflow_has}"


def shown(store: Store, champion: champions.Champion) -> dict[str, Any]:
    """What a champion's page shows."""
    history = [
        f"{r.number}. `{r.training}`, since {r.since}, {r.how}: {r.why}"
        for r in champions.champions_of(store, champion.target)
    ]
    result = store.find(Ref(METRICS.name, champion.target, champion.training))
    page: dict[str, Any] = {
        "champion": dg.MetadataValue.md(champions.champions_table(store, [champion]).to_markdown(index=False)),
        "history": dg.MetadataValue.md("\n".join(history)),
        "folder": dg.MetadataValue.path(str(champion.folder)),
    }
    return page | ({"maps": inline_images(result.folder / "maps.png")} if result else {})


@dg.op(description="Send to MLflow what it lacks: finished trainings, the report, champions.")
def send_what_is_missing(context: dg.OpExecutionContext, store: StoreResource, tracking: MlflowTracking) -> None:
    """Every training that is sent is reported as a materialisation of ``mlflow_run``. Fails where something was not."""
    failed: list[TrackingError] = []
    with user_errors():
        for sent in tracking.mirror_missing(store.open(), {"dagster.run_id": context.run_id}):
            if isinstance(sent, TrackingError):
                failed.append(sent)
                continue
            context.log.info(f"{sent.what}: {sent.mlflow_id}")
            if sent.training is not None:
                key = grid_key(*sent.training)
                context.log_event(
                    dg.AssetMaterialization("mlflow_run", partition=key, metadata={"mlflow_run_id": sent.mlflow_id})
                )
    if failed:
        said = "; ".join(str(error) for error in failed)
        again = "goes on from here" if all(error.passing for error in failed) else "goes on once that is mended"
        raise dg.Failure(f"MLflow did not take everything: {said}. `rkd mirror` {again}", allow_retries=False)


@dg.job(description="Complete the mirror in MLflow after it was away: nothing is trained.")
def mirror_to_mlflow() -> None:
    """The mirror job."""
    send_what_is_missing()


JOBS = [mirror_to_mlflow, challenge_champions]
