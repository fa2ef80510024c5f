"""What MLflow was sent, as the store has it on record: of trainings, champions and the report."""

from collections.abc import Mapping
from typing import Any

from rkd_pipeline.errors import StoreError
from rkd_pipeline.store.document import Document
from rkd_pipeline.store.files import text_sha256
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import METRICS, REPORT, TRAINED_MODEL

TRACKING_FOLDER = "tracking"
_SEND_AGAIN = "delete it: `rkd mirror` makes it again"


def mlflow_run_id(store: Store, target_name: str, training: str) -> str | None:
    """The MLflow run that mirrors a training as it is in the store now; None before tracking has received it.

    By the mirror's record: MLflow itself is asked by ``rkd mirror`` alone.
    """
    record = read_tracking(tracking_file(store, target_name, training))
    if record is None or record["content"] not in tracking_contents(store, record, target_name, training):
        return None
    return str(record["run_id"])


def report_record(store: Store) -> Document:
    """Where the mirror of the report is recorded."""
    return store.document(TRACKING_FOLDER, "report.json")


def mirrored_report(store: Store) -> str | None:
    """MLflow's run of the report as it is now, if it is on record; whether MLflow still has it is not asked."""
    report, record = store.find(Ref(REPORT.name)), read_tracking(report_record(store))
    if report is None or record is None:
        return None
    return str(record["run_id"]) if record["content"] in mirror_marks(record, report.data_version, "report") else None


def tracking_contents(
    store: Store, record: Mapping[str, Any] | None, target_name: str, training: str
) -> tuple[str, ...]:
    """What the mirror of a training is marked with; empty where there is no training. See ``mirror_marks``."""
    model, metrics = (store.find(Ref(stage.name, target_name, training)) for stage in (TRAINED_MODEL, METRICS))
    if model is None or metrics is None:
        return ()
    return mirror_marks(record, f"{model.data_version} {metrics.data_version}", f"{target_name} {training}")


def mirror_marks(record: Mapping[str, Any] | None, versions: str, name: str = "") -> tuple[str, ...]:
    """Marks of what is mirrored, from its data versions: the one that is set now first, then that of an old record.

    Old marks held the address of MLflow too, so that a store that was moved was sent again as a whole.
    """
    marks = [text_sha256(f"{name} {versions}")[:16]]
    if record is not None and record.get("uri"):
        marks.append(text_sha256(f"{record['uri']} {versions}")[:16])
    return tuple(marks)


def read_tracking(record: Document) -> dict[str, Any] | None:
    """What is on record of a mirror: ``run_id``, ``content`` and, for people, ``uri``. None where nothing is.

    Raises ``StoreError`` for a damaged file.
    """
    given = record.read_json(_SEND_AGAIN)
    if given is None:
        return None
    try:
        found = dict(given)
        found["run_id"], found["content"]
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{record} is damaged ({error}); {_SEND_AGAIN}") from error
    return found


def tracking_file(store: Store, target_name: str, training: str) -> Document:
    """Where the mirror of a training is recorded."""
    return store.document(TRACKING_FOLDER, target_name, f"{training}.json")
