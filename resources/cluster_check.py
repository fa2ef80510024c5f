"""Whether a cluster can be relied on, before anything is computed on it: ``rkd check-cluster``."""

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import yaml

from resources.code_version import this_code
from resources.node_report import FOLDER, FROM_THE_DESK, MARK
from resources.ray_address import open_to_all
from rkd_pipeline.errors import RkdError
from rkd_pipeline.settings import Settings
from rkd_pipeline.store.open_store import open_store, require_settings_of_a_shared_store

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
    faults = [*open_to_all(address)]
    try:
        client = JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise RkdError(f"RKD_RAY={address}: no answer of Ray's job server ({str(error).splitlines()[0]})") from None
    nodes = _nodes(address)
    faults += limits_too_high(yaml.safe_load(settings.dagster_yaml.read_text(encoding="utf-8")), nodes)
    require_settings_of_a_shared_store(settings, on_a_cluster=True)
    lock = f"check {uuid.uuid4().hex[:8]}"
    hosts = []
    store = open_store(settings)
    desk = store.document(FOLDER, lock)
    desk.write(FROM_THE_DESK)
    with store.lock(lock):  # which no node may get meanwhile
        before = time.time()
        asked = {node["node_id"]: _asked(client, node["node_id"], lock) for node in nodes}
        for node, job in asked.items():
            said = _said(client, job)
            if said is None:
                faults.append(
                    f"node {node[:8]} gave no report; `ray job logs {job}` may say why. It may be that all its CPUs "
                    "are at work (ask again later), or that Ray's dashboard agent does not run there, on a port of its "
                    "own (--dashboard-agent-listen-port)"
                )
                continue
            hosts.append(said["host"])
            said["seen_here"] = "wrote" in said and store.document(FOLDER, said["wrote"]).exists()
            found = faults_of(said, settings, store.place.identity, before, time.time())
            faults += [f"{said['host']}: {fault}" for fault in found]
    for document in store.documents(FOLDER):
        document.delete()
    return hosts, faults


def faults_of(said: Mapping[str, Any], settings: Settings, identity: str, before: float, after: float) -> Iterator[str]:
    """What is wrong with a node by its report.

    Args:
        said: what it reported.
        settings, identity: here: the settings, and which store it is.
        before, after: between which times, here, the report was made.
    """
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
    if said["store"] == settings.store_address and said["identity"] != identity:
        yield f"RKD_STORE={said['store']} is another store there; see that the folder is mounted there"
    elif not (said["sees"] and said["seen_here"]):
        who = "it does not see what was written here" if not said["sees"] else "what it wrote is not seen here"
        yield f"RKD_STORE={said['store']}: {who}; see that the folder is mounted without caching of its entries"
    if not before - CLOCK_SECONDS <= said["time"] <= after + CLOCK_SECONDS:
        yield f"its clock is off by {said['time'] - after:.0f} s; let NTP set the clocks"
    for file in said["unreadable"]:
        yield f"{file}: not there; it must have the same path on all machines"


def limits_too_high(configuration: Mapping[str, Any], nodes: list[dict[str, Any]]) -> Iterator[str]:
    """Where dagster.yaml lets more runs through than Ray can place at once: they would wait in a queue nobody sees."""
    launcher = configuration["run_launcher"]["config"]
    trainings = int(configuration["concurrency"]["pools"]["default_limit"])
    totals = [node["resources_total"] for node in nodes]
    cpus, gpus = (sum(total.get(kind, 0) for total in totals) for kind in ("CPU", "GPU"))
    each = float(launcher.get("training_cpus", 1))
    room = sum(int(total.get("CPU", 0) / each) for total in totals)  # no training runs on two nodes
    device = f"{cpus:g} CPUs"
    if _number(launcher.get("training_gpus", 0)):
        places = int(gpus * _number(launcher.get("trainings_per_device", 1)))
        room, device = min((room, device), (places, f"{gpus:g} GPUs"))
    if trainings > room:
        yield f"dagster.yaml: default_limit of pools is {trainings}, and {device} hold {room} trainings; lower it"
    runs = int(configuration["concurrency"]["runs"]["max_concurrent_runs"])
    needed = trainings * each + (runs - trainings) * launcher["ray"]["num_cpus"]
    if needed > cpus:
        yield f"dagster.yaml: max_concurrent_runs is {runs}; they need {needed:g} CPUs of {cpus:g}; lower it"


def _number(value: Any) -> int:
    return int(os.environ[value["env"]]) if isinstance(value, dict) else int(value)


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
