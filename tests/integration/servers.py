"""``rkd ui`` as a test holds it: both servers and the daemon, asked through GraphQL, stopped or killed."""

import json
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from tests.integration.conftest import Rkd

START = 600  # seconds, for the servers: far more than they need on a free machine
LOCATION = "rkd_pipeline.definitions"  # the code location's name, as `rkd ui` starts it
PLACE = {"repositoryName": "__repository__", "repositoryLocationName": LOCATION}
ENDED = ("SUCCESS", "FAILURE", "CANCELED")


@dataclass(frozen=True)
class Pages:
    """Addresses of the two servers, and the process that started them."""

    dagster: str
    mlflow: str
    process: "subprocess.Popen[str]"

    @property
    def ports(self) -> list[int]:
        return [int(address.rsplit(":", 1)[1]) for address in (self.dagster, self.mlflow)]

    def graphql(self, query: str, **variables: object) -> dict[str, Any]:
        """The one result of a query."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.dagster}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            answer = json.load(reply)
        assert "errors" not in answer, answer["errors"]
        [result] = answer["data"].values()
        return dict(result)

    def add_training(self, key: str) -> None:
        """What the launch dialogue sends for a new key."""
        added = self.graphql(
            """mutation($place: RepositorySelector!, $key: String!) { addDynamicPartition(repositorySelector: $place,
               partitionsDefName: "training", partitionKey: $key) { __typename } }""",
            place=PLACE,
            key=key,
        )
        assert added["__typename"] in ("AddDynamicPartitionSuccess", "DuplicateDynamicPartitionError")

    def launch(self, job: str, partition: str = "", tags: dict[str, str] | None = None, **config: object) -> str:
        """What the launch dialogue sends; returns the run's id. A partition is ``target`` or ``target|training``."""
        sent = dict(tags or {})
        if partition:
            target, bar, training = partition.partition("|")
            sent |= {"dagster/partition": partition}
            sent |= {"dagster/partition/target": target, "dagster/partition/training": training} if bar else {}
        launched = self.graphql(
            """mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
               __typename ... on LaunchRunSuccess { run { runId } } } }""",
            params={
                "selector": PLACE | {"pipelineName": job},
                "mode": "default",
                "runConfigData": config,
                "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in sent.items()]},
            },
        )
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def status(self, run_id: str) -> str:
        found = self.graphql("query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run_id)
        return str(found["status"])

    def runs(self) -> list[dict[str, Any]]:
        """Newest first: runId, jobName, status, and tags as a mapping."""
        query = "{ runsOrError(limit: 200) { ... on Runs { results { runId jobName status tags { key value } } } } }"
        found = self.graphql(query)["results"]
        return [run | {"tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]

    def failure(self, run_id: str) -> str:
        """What a failed run's page says was wrong: the messages of its failures, and of the errors behind them."""
        query = """query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
            ... on RunFailureEvent { message error { message causes { message } } }
            ... on ExecutionStepFailureEvent { message error { message causes { message } } } } } } }"""
        errors = [e for e in self.graphql(query, id=run_id)["events"] if e]
        return json.dumps(errors)

    def wait_for_run(self, run_id: str, seconds: float = 240) -> str:
        """How a run ended."""
        return wait_until(lambda: (s := self.status(run_id)) in ENDED and s, f"run {run_id} to end", seconds)

    def processes(self, *words: str) -> list[psutil.Process]:
        """Processes of these servers whose command line holds every word."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in children if all(w in " ".join(_command(p)) for w in words)]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def wait_until(ask: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """The first answer that is true."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.5)
    return answer


def start(rkd: Rkd, **environment: str) -> Pages:
    """Start ``rkd ui`` and wait until both servers answer."""
    ports = [free_port(), free_port()]
    process = rkd.start("ui", "--port", str(ports[0]), "--mlflow-port", str(ports[1]), to_file=True, **environment)
    pages = Pages(*(f"http://127.0.0.1:{port}" for port in ports), process)
    for address in (f"{pages.dagster}/server_info", f"{pages.mlflow}/health"):
        wait_until(lambda address=address: answers(address) or process.poll() is not None, address, START)
        assert process.poll() is None, "rkd ui ended by itself"
    return pages


def stop(pages: Pages) -> None:
    """End the command, and see that both servers end with it."""
    pages.process.send_signal(signal.SIGTERM)
    pages.process.wait(timeout=60)
    for port in pages.ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def kill_everything(pages: Pages) -> None:
    """SIGKILL to the command and everything that it started."""
    family = [psutil.Process(pages.process.pid), *pages.processes()]
    for process in family:
        with_no_complaint(process.kill)
    psutil.wait_procs(family[1:], timeout=30)
    pages.process.wait(timeout=30)


def with_no_complaint(act: Callable[[], object]) -> None:
    """What is gone already needs no killing."""
    try:
        act()
    except psutil.NoSuchProcess:
        return


@contextmanager
def serving(rkd: Rkd, **environment: str) -> Iterator[Pages]:
    """The servers, for as long as the block."""
    pages = start(rkd, **environment)
    try:
        yield pages
    finally:
        if pages.process.poll() is None:
            stop(pages)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def listening(pages: Pages) -> set[str]:
    """Addresses on which any process of the command listens."""
    family = [psutil.Process(pages.process.pid), *pages.processes()]
    found = (c for p in family for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN)
    return {str(c.laddr.ip) for c in found}
