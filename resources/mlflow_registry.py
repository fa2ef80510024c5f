"""Champions in MLflow: a registered model per target, a version per champion, and the alias of the present one."""

from contextlib import nullcontext
from typing import Any

from resources.mlflow_client import CONTENT_TAG, MODEL_TAG, Server, has_model, still_there
from resources.mlflow_mirror import log_model
from resources.mlflow_once import Item, Sending, Tags
from rkd_pipeline.operations.champions import Champion
from rkd_pipeline.stages.mirror_records import TRACKING_FOLDER, mirror_marks, mlflow_run_id, read_tracking
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import TRAINED_MODEL

ALIAS = "champion"


def champion_item(store: Store, champion: Champion) -> Item:
    """A version of the target's registered model, for one champion."""
    record = store.document(TRACKING_FOLDER, "champions", champion.target, f"{champion.number:04d}.json")
    marks = mirror_marks(read_tracking(record), f"champion {champion.target} {champion.number} {champion.model}")

    def send(server: Server, tags: Tags, _: Any) -> str:
        model = store.find(Ref(TRAINED_MODEL.name, champion.target, champion.training))
        same = model is not None and model.data_version == champion.model
        run_id = mlflow_run_id(store, champion.target, champion.training) if same else None
        return register(server, champion, model_of(server, run_id), tags)

    def find(server: Server, _: str | None) -> str | None:
        return version_of(server, champion.target, set(marks))

    return Item(record, marks, find, lambda: nullcontext(Sending(send)))


def register(server: Server, champion: Champion, mirrored: tuple[str, str] | None, tags: dict[str, str]) -> str:
    """A version of the target's registered model; returns its number.

    ``mirrored`` are the run and logged model of the champion's training, where MLflow has that very model.
    """
    from mlflow.exceptions import MlflowException

    about = (
        f"Scores images of {champion.target}. The alias `{ALIAS}` is moved by the gate alone (challenger and "
        "champion on the same repeats, paired per image, better beyond noise), or by hand, with the reason kept."
    )
    try:
        server.client.create_registered_model(champion.target, {"rkd.target": champion.target}, about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    run_id, model_id = mirrored or _log_champion(server, champion, tags)
    selected = champion.selected
    chosen_by = "not known" if selected["value"] is None else f"{selected['value']:.4f}"
    version_tags = tags | {
        "rkd.training": champion.training,
        "rkd.reign": str(champion.number),
        "rkd.how": champion.how,
        "rkd.model_data_version": champion.model,
        f"rkd.{selected['protocol']}.{selected['metric']}": chosen_by,
    }
    made = server.client.create_model_version(
        champion.target,
        f"models:/{model_id}",
        run_id=run_id,
        model_id=model_id,
        tags=version_tags,
        description=f"{champion.training}, champion number {champion.number}, {champion.how}: {champion.why}",
    )
    return str(made.version)


def version_of(server: Server, target_name: str, contents: set[str]) -> str | None:
    """The version of a champion, with its model; one whose model is gone can score nothing, and is deleted."""
    found = None
    for version in server.client.search_model_versions(f"name = '{target_name}'"):
        if version.tags.get(CONTENT_TAG) not in contents:
            continue
        # Its field ``model_id`` is empty in what a search gives.
        if has_model(server, str(version.source).removeprefix("models:/")):
            found = str(version.version)
        else:
            server.client.delete_model_version(target_name, version.version)
    return found


def point_alias(server: Server, target_name: str, version: str) -> None:
    """Let the alias name the present champion, whoever has moved it meanwhile."""
    known: dict[str, Any] = server.client.get_registered_model(target_name).aliases
    if str(known.get(ALIAS)) != version:
        server.client.set_registered_model_alias(target_name, ALIAS, version)


def model_of(server: Server, run_id: str | None) -> tuple[str, str] | None:
    """Run and logged model of a training's mirror; None where MLflow lacks either."""
    if run_id is None or not still_there(server, run_id, with_model=True):
        return None
    return run_id, str(server.client.get_run(run_id).data.tags[MODEL_TAG])


def _log_champion(server: Server, champion: Champion, tags: dict[str, str]) -> tuple[str, str]:
    """A run for a champion whose training is no longer what it was; the model is the champion's own copy."""
    import mlflow

    named = {"rkd.target": champion.target, "rkd.training": champion.training, "rkd.champion": str(champion.number)}
    run = server.client.create_run(
        server.experiment, run_name=f"champion {champion.number} of {champion.target}", tags=tags | named
    )
    run_id = str(run.info.run_id)
    mlflow.set_tracking_uri(server.uri)
    with mlflow.start_run(run_id):
        return run_id, log_model(champion.folder, named)
