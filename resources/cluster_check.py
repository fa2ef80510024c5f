"""Whether a cluster can be relied on, before anything is computed on it: ``rkd check-cluster``."""

import ipaddress
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from resources.code_version import this_code
from resources.node_report import MARK
from rkd_pipeline.errors import RkdError
from rkd_pipeline.settings import Settings
from rkd_pipeline.store.open_store import open_store

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

CLOCK_SECONDS = 5.0  # by which clocks may differ
_PATIENCE = 180.0  # seconds for a node's report
_LABEL = "ray.io/node-id"


def check(settings: Settings) -> tuple[list[str], list[str]]:
    """The hosts that answered, and what is wrong, each with its fix; nothing is wrong where the second is empty.

    Raises ``RkdError`` where there is no cluster to ask.
    """
    from ray.job_submission import JobSubmissionClient

    address = os.environ.get("RKD_RAY", "")
    if not address or settings.dagster_yaml is None:
        raise RkdError("RKD_RAY and RKD_DAGSTER_YAML name the cluster; see docs/how-to/cluster.md")
    faults = list(_open_to_all(address))
    try:
        client = JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise RkdError(f"RKD_RAY={address}: no answer of Ray's job server ({str(error).splitlines()[0]})") from None
    nodes = _nodes(address)
    faults += limits_too_high(yaml.safe_load(settings.dagster_yaml.read_text(encoding="utf-8")), nodes)
    lock = f"check {uuid.uuid4().hex[:8]}"
    hosts = []
    with open_store(settings).lock(lock):  # which no node may get meanwhile
        asked = {node["node_id"]: _asked(client, node["node_id"], lock) for node in nodes}
        for node, job in asked.items():
            before = time.time()
            said = _said(client, job)
            if said is None:
                faults.append(
                    f"node {node[:8]} gave no report; `ray job logs {job}` may say why. Ray's dashboard agent must run "
                    "there, on a port of its own (--dashboard-agent-listen-port)"
                )
                continue
            hosts.append(said["host"])
            faults += [f"{said['host']}: {fault}" for fault in faults_of(said, settings, before, time.time())]
    return hosts, faults


def faults_of(said: Mapping[str, Any], settings: Settings, before: float, after: float) -> Iterator[str]:
    """What is wrong with a node by its report; ``before`` and ``after``: between which times, here, it was made."""
    if "error" in said:
        yield said["error"]
        return
    there, here = json.loads(said["code"]), json.loads(this_code())
    for name, version in here.items():
        if there.get(name) != version:
            yield f"{name} is {there.get(name)}, here it is {version}; install the same on all machines"
    if not said["lock_is_refused"]:
        yield "it got a lock that is held here; RKD_LOCKS and RKD_STORE must name the same on all machines"
    for name, own in (("RKD_STORE", settings.store_address), ("RKD_PRECISION", settings.precision)):
        if said[name.removeprefix("RKD_").lower()] != own:
            yield f"{name}={said[name.removeprefix('RKD_').lower()]}, here it is {own}; set the same on all machines"
    if not before - CLOCK_SECONDS <= said["time"] <= after + CLOCK_SECONDS:
        yield f"its clock is off by {said['time'] - after:.0f} s; let NTP set the clocks"
    for file in said["unreadable"]:
        yield f"{file}: not there; it must have the same path on all machines"


def limits_too_high(configuration: Mapping[str, Any], nodes: list[dict[str, Any]]) -> Iterator[str]:
    """Where dagster.yaml lets more runs through than Ray can place at once: they would wait in a queue nobody sees."""
    launcher = configuration["run_launcher"]["config"]
    trainings = int(configuration["concurrency"]["pools"]["default_limit"])
    cpus = sum(node["resources_total"].get("CPU", 0) for node in nodes)
    gpus = sum(node["resources_total"].get("GPU", 0) for node in nodes)
    if _number(launcher["training_gpus"]):
        room = int(gpus * _number(launcher["trainings_per_device"]))
        device = f"{gpus:g} GPUs"
    else:
        room, device = int(cpus / launcher["training_cpus"]), f"{cpus:g} CPUs"
    if trainings > room:
        yield f"dagster.yaml: default_limit of pools is {trainings}, and {device} hold {room} trainings; lower it"
    runs = int(configuration["concurrency"]["runs"]["max_concurrent_runs"])
    needed = trainings * launcher["training_cpus"] + (runs - trainings) * launcher["ray"]["num_cpus"]
    if needed > cpus:
        yield f"dagster.yaml: max_concurrent_runs is {runs}; they need {needed:g} CPUs of {cpus:g}; lower it"


def _number(value: Any) -> int:
    return int(os.environ[value["env"]]) if isinstance(value, dict) else int(value)


def _open_to_all(address: str) -> Iterator[str]:
    """Ray runs what anybody sends who reaches it."""
    if os.environ.get("RAY_AUTH_MODE") == "token":
        return
    host = urlsplit(address).hostname or ""
    found = {ipaddress.ip_address(info[4][0]) for info in socket.getaddrinfo(host, None)}
    if not all(ip.is_loopback for ip in found):
        yield f"RKD_RAY={address} is no loopback address, and RAY_AUTH_MODE=token is not set: anybody could run code"


def _nodes(address: str) -> list[dict[str, Any]]:
    """The nodes that run jobs."""
    from ray.util.state import list_nodes

    # Ray counts nodes that are gone as missing from its answer.
    answer = list_nodes(address=address, filters=[("state", "=", "ALIVE")], raise_on_missing_output=False)
    found = [node.asdict() for node in answer]
    return [node for node in found if node["resources_total"].get("CPU", 0)]


def _asked(client: "JobSubmissionClient", node: str, lock: str) -> str:
    # -P: the code that runs find, not what lies where Ray was started.
    command = f"python -P -m resources.node_report '{lock}'"
    path = {"PATH": os.environ["PATH"]}
    selector = {_LABEL: node}
    return client.submit_job(
        entrypoint=command, entrypoint_num_cpus=0.1, entrypoint_label_selector=selector, runtime_env={"env_vars": path}
    )


def _said(client: "JobSubmissionClient", job: str) -> dict[str, Any] | None:
    deadline = time.monotonic() + _PATIENCE
    while not client.get_job_status(job).is_terminal():
        if time.monotonic() > deadline:
            client.stop_job(job)
            return None
        time.sleep(0.5)
    try:
        said = client.get_job_logs(job)
    except RuntimeError:  # the head cannot ask the node's agent, for example because another process has its port
        return None
    lines = [line for line in said.splitlines() if line.startswith(MARK)]
    return json.loads(lines[-1].removeprefix(MARK)) if lines else None
