"""MLflow as somebody to talk to: where it is, what its errors mean, and what it still has of what it was sent."""

import os
import re
import sqlite3
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

import rkd_pipeline
from rkd_pipeline.addresses import shown
from rkd_pipeline.errors import RkdError, no_room

EXPERIMENT = "rkd-pipeline"
DEFAULT_EXPERIMENT = "0"  # MLflow makes it in every new database
_NOTE_TAG = "mlflow.note.content"
_FIRST_WORDS = "One run per training, flat"
ABOUT = (
    f"{_FIRST_WORDS}: shown by the switch *Model training*, at the top left, where *GenAI* shows traces. "
    "Filter by tags: `tags.\"rkd.target\" = 'demo.weave'`, `rkd.recipe`, `rkd.teacher`, `rkd.seed`, `rkd.repeat`; "
    "compare runs to lay their curves over each other. A mirror: the store is the truth."
)
KIND_TAG = "mlflow.experimentKind"
KIND = "custom_model_development"  # MLflow's word for training
CONTENT_TAG = "rkd.content"  # says what a run mirrors
BEGUN_TAG = "rkd.begun"  # says which training, on which data, began a run
ATTEMPT_TAG = "rkd.attempt"  # says which attempt of which store made a run
MODEL_TAG = "rkd.mlflow_model"
SETTING = "MLFLOW_TRACKING_URI"
PROBE_SECONDS = 5.0
# A server that is away must not hold up a benchmark: seconds, not MLflow's minutes.
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",  # a project in the current folder is none of the model's
}
_environment = threading.RLock()  # the process has one: two threads must not put back each other's settings
# Packages whose errors mean that MLflow did not take something: itself, and what it talks through.
_THEIRS = (
    *("mlflow", "requests", "urllib3", "http", "sqlalchemy", "sqlite3", "alembic"),
    *("botocore", "boto3", "s3transfer", "google", "azure", "paramiko"),
)
_FIXES = {
    401: "give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    403: "see whether this user may write there, and whether the server's --allowed-hosts names its address",
    404: f"see whether {SETTING} names an MLflow tracking server, with the path that it is served under",
}
# MLflow's tables that name places of artifacts.
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


class TrackingError(RkdError):
    """MLflow did not take what was sent.

    Attributes:
        passing: whether the same attempt may succeed later without anything being changed.
    """

    def __init__(self, what: str, *, passing: bool) -> None:
        self.passing = passing
        super().__init__(what)

    def of(self, what: str) -> "TrackingError":
        """The same error, naming what was to be sent."""
        return type(self)(f"{what}: {self}", passing=self.passing)

    @property
    def advice(self) -> str:
        """What to do about it. Trying again is advised only where that alone can help."""
        return "`rkd mirror` sends it later" if self.passing else "once that is mended, `rkd mirror` sends it"


class TrackingAway(TrackingError):
    """MLflow's server does not answer: nothing else need be tried for now."""


@dataclass(frozen=True)
class Server:
    """An MLflow that answered: its tracking URI, a client of it, and our experiment's id."""

    uri: str
    client: Any
    experiment: str


def probe(uri: str) -> None:
    """Raise ``TrackingAway`` unless the server answers at all: seconds, where MLflow's own call takes a minute."""
    if not uri.startswith(("http://", "https://")):
        return
    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=PROBE_SECONDS)
    except (requests.ConnectionError, requests.Timeout) as error:
        if isinstance(error, requests.exceptions.SSLError):
            return  # it is there; MLflow has settings of its own for certificates
        raise TrackingAway(
            f"no answer from the tracking server {shown(uri)} ({SETTING}) within {PROBE_SECONDS:.0f} s", passing=True
        ) from error
    except requests.RequestException as error:
        raise TrackingError(f"{SETTING}: {without_passwords(str(error))}", passing=False) from error


def open_experiment(uri: str, artifacts: Path | None, *, moves: bool) -> Server:
    """A client, and our experiment, made where it is not there yet and restored where it was deleted.

    Args:
        uri: tracking URI.
        artifacts: folder for artifacts of a new experiment; None: the server decides.
        moves: database and artifacts lie in one folder that can be moved: addresses inside follow it.
    """
    import mlflow

    client = mlflow.MlflowClient(uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    location = None if artifacts is None else artifacts.as_uri()
    if found is None:
        made = client.create_experiment(EXPERIMENT, artifact_location=location, tags={_NOTE_TAG: ABOUT, KIND_TAG: KIND})
        if moves:
            _hide_default_experiment(client)
        return Server(uri, client, str(made))
    server = Server(uri, client, str(found.experiment_id))
    if moves and artifacts is not None and found.artifact_location != location:
        _move_addresses(artifacts.with_name("mlflow.db"), found.artifact_location, artifacts.as_uri())
    if found.lifecycle_stage == "deleted":  # its name stays taken, so that no other can be made
        _restore_experiment(server)
    if KIND_TAG not in found.tags:  # of before; whoever sets another one keeps it
        client.set_experiment_tag(server.experiment, KIND_TAG, KIND)
        if found.tags.get(_NOTE_TAG, "").startswith(_FIRST_WORDS):  # ours, not somebody's own
            client.set_experiment_tag(server.experiment, _NOTE_TAG, ABOUT)
        if moves:
            _hide_default_experiment(client)
    return server


def _hide_default_experiment(client: Any) -> None:
    """MLflow's own empty experiment goes to the bin, once: people look for ours. One with runs in it stays."""
    default = client.get_experiment(DEFAULT_EXPERIMENT)
    if default.lifecycle_stage == "active" and not client.search_runs([DEFAULT_EXPERIMENT], max_results=1):
        client.delete_experiment(DEFAULT_EXPERIMENT)


def _move_addresses(database: Path, before: str, now: str) -> None:
    """Where MLflow's artifacts were, they are no longer: their folder was moved, or copied, together with the store."""
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        for table, column in _PLACES:
            connection.execute(
                f"UPDATE {table} SET {column} = :now || substr({column}, length(:before) + 1) "
                f"WHERE {column} = :before OR substr({column}, 1, length(:before) + 1) = :before || '/'",
                {"now": now, "before": before},
            )


def _restore_experiment(server: Server) -> None:
    """Bring back the experiment, and of its runs, which all come with it, those that are whole."""
    server.client.restore_experiment(server.experiment)
    for run in server.client.search_runs([server.experiment], max_results=50_000):
        if not _is_whole(server, run, with_model=MODEL_TAG in run.data.tags):
            server.client.delete_run(run.info.run_id)


def still_there(server: Server, run_id: str, *, with_model: bool = False) -> bool:
    """Whether MLflow has a run, complete, and the model that was logged with it; what is in its bin comes back."""
    run = _or_none(server.client.get_run, run_id)
    if run is None or not _is_whole(server, run, with_model=with_model):
        return False
    if run.info.lifecycle_stage == "deleted":
        server.client.restore_run(run_id)
    return True


def _is_whole(server: Server, run: Any, *, with_model: bool) -> bool:
    finished = run.info.status == "FINISHED"
    return finished and (not with_model or has_model(server, run.data.tags.get(MODEL_TAG)))


def has_model(server: Server, model_id: str | None) -> bool:
    """Whether MLflow has a logged model."""
    return bool(model_id) and _or_none(server.client.get_logged_model, model_id) is not None


def _or_none(get: Any, *what: Any) -> Any:
    """What MLflow has under an id; None where there is nothing (left)."""
    from mlflow.exceptions import MlflowException

    try:
        return get(*what)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            return None
        raise


def delete_run(server: Server, run_id: str) -> None:
    """Delete a run and the models that were logged in it; fine where it is gone."""
    run = _or_none(server.client.get_run, run_id)
    if run is None:
        return
    ours = f"source_run_id = '{run_id}'"
    for model in server.client.search_logged_models([server.experiment], filter_string=ours):
        server.client.delete_logged_model(model.model_id)
    if run.info.lifecycle_stage != "deleted":
        server.client.delete_run(run_id)


@contextmanager
def reachable() -> Iterator[None]:
    """As ``answering``, and without MLflow's hints. For the main thread: warnings' filters are the process's."""
    with answering(), warnings.catch_warnings():
        # Hints for interactive use: integer columns, ambiguous sources, no input example.
        warnings.simplefilter("ignore")
        yield


@contextmanager
def answering() -> Iterator[None]:
    """Short patience and little talk inside; what MLflow, the network or a database raises becomes ``TrackingError``.

    Everything else passes: an error of our own must not look like a server that is away. One thread at a time.
    """
    with _environment, _settings(_IMPATIENT | _QUIET):
        try:
            yield
        except Exception as error:
            if not _is_theirs(error):
                raise
            raise TrackingError(_in_words(error), passing=_is_passing(error)) from error


@contextmanager
def _settings(wanted: dict[str, str]) -> Iterator[None]:
    # MLflow writes the address that it is told into the environment, where our settings would read it.
    before = {name: os.environ.get(name) for name in (*wanted, SETTING)}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _is_theirs(error: Exception) -> bool:
    causes = list(_chain(error))
    if any(isinstance(e, RkdError) or _is_of_our_code(e) for e in causes[1:]) or isinstance(error, RkdError):
        return False  # MLflow runs our model's code, and wraps what that raises
    return not no_room(error) and _is_of_theirs(error)


def _is_of_theirs(error: BaseException) -> bool:
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, ConnectionError | TimeoutError) or not packages.isdisjoint(_THEIRS)


def _is_of_our_code(cause: BaseException) -> bool:
    """Whether what MLflow has wrapped came out of our code: of a cause, the trace begins where MLflow called it."""
    files = (frame.filename for frame in traceback.extract_tb(cause.__traceback__))
    ours = (str(Path(rkd_pipeline.__file__).parent), str(Path(__file__).parent))
    return not _is_of_theirs(cause) and any(file.startswith(ours) for file in files)


def _is_passing(error: Exception) -> bool:
    """Whether time alone may cure it: nobody answers, too busy, a locked database; not a refusal."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError
    from sqlalchemy.exc import OperationalError as Locked

    if re.search("CERTIFICATE_VERIFY_FAILED|SSLError|out-of-date database schema", str(error)):
        return False
    if isinstance(error, MlflowException):
        status = _status(error)
        return status in (408, 429) or status >= 500
    if isinstance(error, requests.RequestException):
        return isinstance(error, requests.ConnectionError | requests.Timeout)
    if isinstance(error, SQLAlchemyError):
        return isinstance(error, Locked) or (isinstance(error, DBAPIError) and error.connection_invalidated)
    return isinstance(error, OSError | sqlite3.OperationalError)


def _status(error: Any) -> int:
    return int(error.get_http_status_code())


def _in_words(error: Exception) -> str:
    from mlflow.exceptions import MlflowException

    said = without_passwords(f"{type(error).__name__}: {error}".strip())
    fix = _FIXES.get(_status(error)) if isinstance(error, MlflowException) else None
    return f"{said}; {fix}" if fix else said


def without_passwords(text: str) -> str:
    """A text in which addresses name no user and password.

    >>> without_passwords("POST https://robot:s3cret@mlflow.example.org/api failed")
    'POST https://mlflow.example.org/api failed'
    """
    return re.sub(r"(?<=://)[^/\s@]+@", "", text)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
