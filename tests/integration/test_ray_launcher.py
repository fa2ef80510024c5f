"""The launcher of a cluster with a client that only notes what it is asked: no Ray is started."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
import yaml

from resources import code_version, ray_launcher
from resources.liveness import LAUNCHED_BY, fail_runs_that_never_began
from resources.ray_launcher import DOUBTFUL_ANSWERS, RESOURCES_TAG, RkdRunLauncher
from rkd_pipeline.definitions import build_defs
from rkd_pipeline.errors import RkdError
from rkd_pipeline.settings import Settings
from tests.integration.servers import LOCATION

CLUSTER = Path(__file__).parents[2] / "deploy" / "cluster"


class Client:
    """Stands in for Ray's job server."""

    def __init__(self) -> None:
        self.submitted: list[dict[str, Any]] = []
        self.answers: list[Any] = []

    def submit_job(self, **job: Any) -> None:
        self.submitted.append(job)

    def get_job_status(self, submission_id: str) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


def launcher(instance: dg.DagsterInstance, **settings: Any) -> tuple[RkdRunLauncher, Client]:
    made = RkdRunLauncher(**{"address": "http://127.0.0.1:1", "num_cpus": 0.5} | settings)
    made.register_instance(instance)
    client = Client()
    made.__dict__["client"] = client  # where the real one would be kept
    return made, client


@dg.job
def job() -> None:
    """Where the runs below say that their code is."""


def run(instance: dg.DagsterInstance, name: str, tags: dict[str, str] | None = None) -> dg.DagsterRun:
    """A run of a job of the project's own graph."""
    wanted = build_defs(Settings()).resolve_job_def(name)
    return instance.create_run_for_job(wanted, tags=tags, job_code_origin=dg.reconstructable(job).get_python_origin())


def submitted(made: RkdRunLauncher, client: Client, run: dg.DagsterRun) -> dict[str, Any]:
    made._launch_ray_job("an-id", "command", run)
    return client.submitted[-1]


def test_a_run_that_computes_gets_its_share_of_a_gpu(instance: dg.DagsterInstance) -> None:
    made, client = launcher(instance, training_cpus=3.0, training_gpus=1, trainings_per_device=4)
    job = submitted(made, client, run(instance, "train_and_evaluate"))
    assert (job["entrypoint_num_cpus"], job["entrypoint_num_gpus"]) == (3, 0.25)
    assert "CUDA_VISIBLE_DEVICES" not in job["runtime_env"]["env_vars"]  # Ray sets it to the one that was allotted


def test_other_runs_get_none_and_see_none(instance: dg.DagsterInstance) -> None:
    made, client = launcher(instance, training_gpus=1)
    job = submitted(made, client, run(instance, "list_teachers"))
    assert (job["entrypoint_num_cpus"], job["entrypoint_num_gpus"]) == (0.5, None)
    assert job["runtime_env"]["env_vars"]["CUDA_VISIBLE_DEVICES"] == ""


def test_a_tag_says_otherwise(instance: dg.DagsterInstance) -> None:
    made, client = launcher(instance, training_gpus=1)
    wanted = {RESOURCES_TAG: json.dumps({"num_cpus": 2, "num_gpus": 1, "resources": {"big": 1}})}
    job = submitted(made, client, run(instance, "list_teachers", wanted))
    assert (job["entrypoint_num_cpus"], job["entrypoint_num_gpus"], job["entrypoint_resources"]) == (2, 1, {"big": 1})


def test_a_job_knows_its_run_and_the_code_that_launched_it(instance: dg.DagsterInstance) -> None:
    made, client = launcher(instance)
    asked = run(instance, "list_teachers")
    environment = submitted(made, client, asked)["runtime_env"]["env_vars"]
    assert environment["RKD_LAUNCHED_RUN"] == asked.run_id
    assert json.loads(environment[code_version.EXPECTED]) == json.loads(code_version.this_code())
    tagged = instance.get_run_by_id(asked.run_id)
    assert tagged is not None
    assert tagged.tags["rkd/launched_by"] == "ray"


def test_other_code_is_refused_and_says_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    there = json.loads(code_version.this_code()) | {"torch": "1.0", "rkd-pipeline": "another"}
    monkeypatch.setenv(code_version.EXPECTED, json.dumps(there))
    with pytest.raises(RkdError, match=r"rkd-pipeline \w+ here, another there; torch \S+ here, 1\.0 there") as refused:
        code_version.require_expected_code()
    assert "python" not in str(refused.value)
    monkeypatch.setenv(code_version.EXPECTED, code_version.this_code())
    code_version.require_expected_code()


def test_a_doubtful_answer_is_no_death(instance: dg.DagsterInstance) -> None:
    made, client = launcher(instance)
    started = run(instance, "list_teachers", LAUNCHED_BY)._replace(status=dg.DagsterRunStatus.STARTED)
    error = RuntimeError("500: the job server is busy")
    client.answers = [error] * DOUBTFUL_ANSWERS
    said = [made.check_run_worker_health(started).status.name for _ in range(DOUBTFUL_ANSWERS)]
    assert said == ["RUNNING"] * (DOUBTFUL_ANSWERS - 1) + ["UNKNOWN"]


def test_a_clear_answer_ends_the_doubt(instance: dg.DagsterInstance) -> None:
    from ray.job_submission import JobStatus

    made, client = launcher(instance)
    started = run(instance, "list_teachers", LAUNCHED_BY)._replace(status=dg.DagsterRunStatus.STARTED)
    error = RuntimeError("500")
    client.answers = [error, JobStatus.RUNNING] * DOUBTFUL_ANSWERS + [JobStatus.STOPPED]
    said = [made.check_run_worker_health(started).status.name for _ in range(2 * DOUBTFUL_ANSWERS)]
    assert set(said) == {"RUNNING"}
    assert made.check_run_worker_health(started).status.name == "FAILED"


def test_a_new_job_of_a_run_is_doubted_anew(instance: dg.DagsterInstance) -> None:
    """Else a job server that is still busy would use up all resumptions of a run in half a minute."""
    made, client = launcher(instance)
    started = run(instance, "list_teachers", LAUNCHED_BY)._replace(status=dg.DagsterRunStatus.STARTED)
    client.answers = [RuntimeError("500")] * (DOUBTFUL_ANSWERS + 1)
    said = [made.check_run_worker_health(started).status.name for _ in range(DOUBTFUL_ANSWERS)]
    assert said[-1] == "UNKNOWN"
    submitted(made, client, started)
    assert made.check_run_worker_health(started).status.name == "RUNNING"


def test_what_a_command_carries_out_itself_has_no_job_to_miss(instance: dg.DagsterInstance) -> None:
    made, client = launcher(instance)
    refresh = run(instance, "list_teachers", {"rkd/launched_by": "rkd"})._replace(status=dg.DagsterRunStatus.STARTED)
    client.answers = [RuntimeError("404: no such job")] * 2 * DOUBTFUL_ANSWERS
    said = {made.check_run_worker_health(refresh).status.name for _ in range(2 * DOUBTFUL_ANSWERS)}
    assert said == {"RUNNING"}


def test_a_job_that_ended_before_its_first_event_is_a_failed_run(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.job_submission import JobStatus

    made, client = launcher(instance)
    client.__dict__["get_job_info"] = lambda submission_id: SimpleNamespace(message="exit code 127")
    monkeypatch.setattr(type(instance), "run_launcher", property(lambda self: made))
    waiting, gone, own = (run(instance, "list_teachers", tags) for tags in (LAUNCHED_BY, LAUNCHED_BY, None))
    for each in (waiting, gone, own):
        instance.report_dagster_event(dg.DagsterEvent("PIPELINE_STARTING", "list_teachers"), run_id=each.run_id)
    answers = {waiting.run_id: JobStatus.PENDING, gone.run_id: JobStatus.FAILED}
    monkeypatch.setattr(client, "get_job_status", lambda job: next(a for r, a in answers.items() if r in job))
    assert fail_runs_that_never_began(instance) == [gone.run_id]
    found = {found.run_id: found.status.name for found in instance.get_runs()}
    assert found == {waiting.run_id: "STARTING", gone.run_id: "FAILURE", own.run_id: "STARTING"}
    client.__dict__["get_job_status"] = lambda job: (_ for _ in ()).throw(ConnectionError("the cluster is away"))
    assert fail_runs_that_never_began(instance) == []


def test_no_secret_goes_into_a_job_by_its_run_s_tag(instance: dg.DagsterInstance) -> None:
    made, client = launcher(instance)
    for asked in ({"runtime_env": {"env_vars": {"HF_TOKEN": "hidden"}}}, {"env_vars": ["HF_TOKEN=hidden"]}):
        wanted = json.dumps({"num_cpus": 1} | asked)
        with pytest.raises(RkdError, match="names HF_TOKEN") as refused:
            submitted(made, client, run(instance, "list_teachers", {RESOURCES_TAG: wanted}))
        assert "hidden" not in str(refused.value)
    assert client.submitted == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_gpus": 1}, "set training_gpus"),
        ({"num_cpus": None}, "num_cpus under ray is missing"),
        ({"env_vars": ["PATH", "AWS_SECRET_ACCESS_KEY"]}, "AWS_SECRET_ACCESS_KEY"),
        ({"env_vars": ["PGPASSWORD=hidden"]}, "PGPASSWORD"),
        ({"env_vars": ["RKD_LOCKS"]}, "RKD_LOCKS"),
        ({"env_vars": ["RKD_DAGSTER_DB"]}, "RKD_DAGSTER_DB"),
        ({"env_vars": ["MLFLOW_TRACKING_URI=https://me:hidden@host"]}, "MLFLOW_TRACKING_URI"),
        ({"runtime_env": {"env_vars": {"AZURE_STORAGE_ACCOUNT_KEY": "hidden"}}}, "AZURE_STORAGE_ACCOUNT_KEY"),
        ({"trainings_per_device": 0}, "at least 1"),
    ],
)
def test_what_could_not_work_is_refused_at_start(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RkdError, match=said) as refused:
        RkdRunLauncher(**{"address": "http://127.0.0.1:1", "num_cpus": 1} | settings)
    assert "hidden" not in str(refused.value)


def test_the_cluster_s_files_say_what_the_code_takes() -> None:
    """Every setting of cluster.env is one, none is a secret, and dagster.yaml asks for no others."""
    lines = (CLUSTER / "cluster.env").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    known = {f"RKD_{name.upper()}" for name in Settings.model_fields}
    of_dagster_yaml = {"RKD_RAY", "RKD_DAGSTER_DB", "RKD_TRAINING_GPUS", "RKD_TRAININGS_PER_DEVICE"}
    assert {name for name in given if name.startswith("RKD_")} <= known | of_dagster_yaml
    addresses = {"RKD_LOCKS", "RKD_DAGSTER_DB"}  # may hold a password, and hold none here
    assert not [name for name in given if ray_launcher._SECRET.search(name) and name not in addresses]
    assert not [value for value in given.values() if ray_launcher._PASSWORD_IN_ADDRESS.search(value)]
    assert ":" not in given["RKD_LOCKS"].removeprefix("postgresql://").split("@")[0]  # a user, and no password
    configuration = yaml.safe_load((CLUSTER / "dagster.yaml").read_text())
    limits = configuration["concurrency"]
    assert limits["runs"]["max_concurrent_runs"] > limits["pools"]["default_limit"]  # others pass what trains
    asked = {name for name in of_dagster_yaml if f"{{env: {name}}}" in (CLUSTER / "dagster.yaml").read_text()}
    assert asked == of_dagster_yaml


@pytest.mark.parametrize("folder", [CLUSTER, CLUSTER.parents[1]], ids=["cluster", "repository"])
def test_services_and_rkd_ui_name_the_code_alike(folder: Path) -> None:
    """What is switched on or off belongs to the name of the code location."""
    [location] = yaml.safe_load((folder / "workspace.yaml").read_text())["load_from"]
    assert location["python_module"]["module_name"] == build_defs.__module__
    assert location["python_module"]["location_name"] == LOCATION
