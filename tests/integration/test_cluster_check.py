"""What ``rkd check-cluster`` finds wrong, from what nodes report; the asking itself is in cluster/test_faults.py."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import yaml
from ray.job_submission import JobStatus, JobSubmissionClient

from resources.cluster_check import CLOCK_SECONDS, _said, check, faults_of, limits_too_high
from resources.code_version import this_code
from resources.node_report import report
from resources.ray_address import open_to_all
from rkd_pipeline.errors import RkdError
from rkd_pipeline.settings import Settings

NOW = 1_000_000.0
GOOD: dict[str, Any] = {
    "host": "a",
    "code": this_code(),
    "time": NOW,
    "lock_is_refused": True,
    "store": "file:///shared",
    "identity": "this one",
    "sees": True,
    "seen_here": True,
    "precision": "fp32",
    "unreadable": [],
}
SETTINGS = Settings(store="file:///shared", precision="fp32")


def test_a_node_that_agrees_has_no_fault() -> None:
    assert list(faults_of(GOOD, SETTINGS, "this one", NOW, NOW + 1)) == []


@pytest.mark.parametrize(
    ("differs", "said"),
    [
        ({"code": json.dumps(json.loads(this_code()) | {"ray": "1.0"})}, r"ray is 1\.0, here it is"),
        ({"lock_is_refused": False}, "it got a lock that is held here"),
        ({"store": "file:///other"}, "RKD_STORE=file:///other, here it is file:///shared"),
        (
            {"identity": "begun there"},
            "RKD_STORE=file:///shared is another store there; see that the folder is mounted",
        ),
        ({"sees": False}, "it does not see what was written here"),
        ({"seen_here": False}, "what it wrote is not seen here"),
        ({"precision": "bf16"}, "RKD_PRECISION=bf16, here it is fp32"),
        ({"time": NOW - 3 * CLOCK_SECONDS}, "its clock is off by -16 s"),
        ({"unreadable": ["RKD_DATA=/data"]}, "RKD_DATA=/data: not there"),
        ({"error": "RKD_LOCKS=...: refused"}, "RKD_LOCKS=...: refused"),
    ],
)
def test_what_differs_is_said(differs: dict[str, Any], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        assert list(faults_of(GOOD | differs, SETTINGS, "this one", NOW, NOW + 1)) == []


def configuration(trainings: int, runs: int, gpus: int, share: int = 1) -> dict[str, Any]:
    launcher = {"ray": {"num_cpus": 1}, "training_cpus": 2.0, "training_gpus": gpus, "trainings_per_device": share}
    limits = {"pools": {"default_limit": trainings}, "runs": {"max_concurrent_runs": runs}}
    return {"run_launcher": {"config": launcher}, "concurrency": limits}


# Of ten CPUs a node has room for one training of six; and what dagster.yaml leaves out has the launcher's defaults.
WIDE = {"run_launcher": {"config": {"ray": {"num_cpus": 1}, "training_cpus": 6.0, "training_gpus": 0}}}
BARE = {"run_launcher": {"config": {"ray": {"num_cpus": 1}}}}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (configuration(8, 10, 1, 4), []),
        (configuration(9, 10, 1, 4), ["default_limit of pools is 9, and 2 GPUs hold 8 trainings"]),
        (configuration(8, 13, 1, 4), ["max_concurrent_runs is 13; they need 21 CPUs of 20"]),
        (configuration(10, 10, 0), []),
        (configuration(11, 11, 0), ["20 CPUs hold 10 trainings", "they need 22 CPUs of 20"]),
        (configuration(6, 6, 0) | WIDE, ["20 CPUs hold 2 trainings", "they need 36 CPUs of 20"]),
        (configuration(20, 20, 0) | BARE, []),
    ],
)
def test_limits_fit_what_the_cluster_holds(given: dict[str, Any], said: list[str]) -> None:
    nodes = [{"resources_total": {"CPU": 10.0, "GPU": 1.0}}] * 2
    found = list(limits_too_high(given, nodes))
    assert len(found) == len(said)
    assert all(part in fault for part, fault in zip(said, found, strict=True))


def test_the_file_that_comes_along_can_be_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RKD_TRAINING_GPUS", "0")
    file = Path(__file__).parents[2] / "deploy" / "cluster" / "dagster.yaml"
    assert list(limits_too_high(yaml.safe_load(file.read_text()), [{"resources_total": {"CPU": 3.0}}])) == []


@pytest.mark.parametrize(("address", "wrong"), [("http://127.0.0.1:8265", False), ("http://10.0.0.1:8265", True)])
def test_a_cluster_that_others_reach_needs_a_token(address: str, wrong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert bool(list(open_to_all(address))) == wrong
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert list(open_to_all(address)) == []


def test_a_node_reports_what_it_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RKD_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("RKD_DATA", str(tmp_path / "nowhere"))
    said = report("a lock")
    assert said["unreadable"] == [f"RKD_DATA={tmp_path / 'nowhere'}"]
    assert not said["lock_is_refused"]  # nobody holds it
    monkeypatch.setenv("RKD_STORE", "file:///shared")
    assert "RKD_LOCKS is not set" in report("a lock")["error"]


def test_without_a_cluster_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RKD_RAY", raising=False)
    with pytest.raises(RkdError, match="RKD_RAY and RKD_DAGSTER_YAML name the cluster"):
        check(Settings())


def test_a_node_whose_log_ray_cannot_fetch_has_given_no_report() -> None:
    client = create_autospec(JobSubmissionClient, instance=True)
    client.get_job_status.return_value = JobStatus.SUCCEEDED
    client.get_job_logs.side_effect = RuntimeError("Request failed with status code 500: Port out of range 0-65535")
    assert _said(client, "job") is None
