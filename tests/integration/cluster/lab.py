"""A cluster on one machine, of the files that people use: deploy/cluster/dagster.yaml, and cluster.env's settings.

A Ray head and its nodes, PostgreSQL, MLflow, and `rkd ui` with its daemon; all on loopback. Each node has a folder of
its own for what a machine keeps.
"""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.integration.conftest import TIMEOUT
from tests.integration.servers import answers, free_port, wait_until
from tests.integration.tracking_server import TrackingServer
from tests.library.postgres_server import PostgresServer
from tests.library.postgres_server import serving as serving_postgres
from tests.library.s3_servers import BUCKET
from tests.library.shared_places import SharedPlace, shared_place

ROOT = Path(__file__).parents[3]
SECRET = "a-secret"  # the password of the database
START = 240  # seconds, far more than a free machine needs


@dataclass
class Node:
    """One raylet with its agents and the jobs that it runs."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path
    cache: str

    def family(self) -> list[psutil.Process]:
        """Everything that lives by this node, jobs too; what has lost its parent is known by the node's own folder."""
        found: dict[int, psutil.Process] = {}
        with suppress(psutil.NoSuchProcess):
            head = psutil.Process(self.process.pid)
            found = {process.pid: process for process in (head, *head.children(recursive=True))}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("RKD_CACHE") == self.cache:
                    found[process.pid] = process
        return list(found.values())

    def signal(self, number: signal.Signals) -> list[psutil.Process]:
        """To all of them, as where a machine is switched off, or frozen; returns them."""
        family = self.family()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        return family


@dataclass
class Lab:
    """What the cluster's machines share, and the machines."""

    folder: Path
    environment: dict[str, str]
    postgres: PostgresServer
    tracking: TrackingServer
    place: SharedPlace
    nodes: dict[str, Node] = field(default_factory=dict)
    ui: "subprocess.Popen[bytes] | None" = None
    ports: dict[str, int] = field(default_factory=dict)

    def environment_of(self, machine: str) -> dict[str, str]:
        """Of everything that runs on one machine."""
        return os.environ | self.environment | {"RKD_CACHE": str(self.folder / machine / "cache")}

    def start_head(self) -> None:
        """Ray's head, which runs no jobs."""
        self.ports = {name: self.ports.get(name) or free_port() for name in ("ray", "jobs", "client")}
        self.environment |= {"RKD_RAY": f"http://127.0.0.1:{self.ports['jobs']}"}
        # A head on a machine of its own would not see the nodes' processes, and take them for a head that still runs.
        (self.folder / "ray" / "ray_current_cluster").unlink(missing_ok=True)
        self._ray(
            "head",
            *("--head", f"--port={self.ports['ray']}", "--num-cpus=0", "--num-gpus=0"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={self.ports['jobs']}"),
            *(f"--ray-client-server-port={self.ports['client']}", f"--temp-dir={self.folder / 'ray'}"),
        )
        self.wait_for_jobs_server()

    def wait_for_jobs_server(self) -> None:
        """Until the head takes jobs."""
        wait_until(lambda: self._head_says("/api/version"), "Ray's head", START)

    def start_node(self, name: str, cpus: int = 2) -> Node:
        """A machine that runs jobs; waits until the head knows it."""
        for _ in range(3):  # `ray start` gives up after 30 seconds, which no option changes: too few on a busy machine
            node = self._ray(
                name,
                *(f"--address=127.0.0.1:{self.ports['ray']}", f"--num-cpus={cpus}", "--num-gpus=0"),
                f"--resources={json.dumps({name: 1})}",
            )
            wait_until(lambda node=node: self._is_alive(name) or node.process.poll() is not None, name, START)
            if node.process.poll() is None:
                return node
        raise AssertionError(f"node {name} does not start: {node.log.read_text()[-2000:]}")

    def replace_node(self, name: str) -> Node:
        """Kills what is left of a node, frozen or not, and starts one of its name."""
        psutil.wait_procs(self.nodes[name].signal(signal.SIGKILL), timeout=30)
        return self.start_node(name)

    def _is_alive(self, name: str) -> bool:
        said = self._head_says("/api/v0/nodes") or {"data": {"result": {"result": []}}}
        nodes = said["data"]["result"]["result"]
        return any(node["state"] == "ALIVE" and name in node["resources_total"] for node in nodes)

    def _ray(self, name: str, *arguments: str) -> Node:
        log = self.folder / f"{name}.log"
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
        # Two nodes of one machine would have one port for what tells their jobs' logs.
        own = ("--node-ip-address=127.0.0.1", f"--dashboard-agent-listen-port={free_port()}")
        with log.open("ab") as said:
            process = subprocess.Popen(
                [*command, *own, *arguments],
                env=self.environment_of(name), stdout=said, stderr=said, start_new_session=True,
            )  # fmt: skip
        self.nodes[name] = Node(name, process, log, self.environment_of(name)["RKD_CACHE"])
        return self.nodes[name]

    def start_ui(self) -> str:
        """Dagster's pages and daemon, on the machine ``desk``; returns the pages' address."""
        port = self.ports.setdefault("dagster", free_port())
        with (self.folder / "ui.log").open("ab") as said:
            self.ui = subprocess.Popen(
                [sys.executable, "-m", "rkd_pipeline.cli", "ui", "--port", str(port)],
                env=self.environment_of("desk"), stdout=said, stderr=said, start_new_session=True, cwd=ROOT,
            )  # fmt: skip
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{address}/server_info"), "Dagster's pages", START)
        return address

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """A command at the desk, in the background."""
        return subprocess.Popen(
            [sys.executable, "-m", "rkd_pipeline.cli", *arguments],
            env=self.environment_of("desk"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True, cwd=ROOT,
        )  # fmt: skip

    def rkd(self, *arguments: str) -> str:
        """A command at the desk, to its end; returns what it printed."""
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, said
        return said

    def jobs(self) -> list[dict[str, object]]:
        """Ray's list of jobs."""
        return list(self._head_says("/api/jobs/") or [])

    def _head_says(self, what: str) -> Any:
        """None where it gives no answer."""
        request = urllib.request.Request(self.environment["RKD_RAY"] + what)
        request.add_header("Authorization", f"Bearer {self.environment['RAY_AUTH_TOKEN']}")
        with suppress(OSError), urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)
        return None

    def drivers(self, node: str) -> list[psutil.Process]:
        """The processes of runs on a node."""
        found = []
        for process in self.nodes[node].family():
            with suppress(psutil.Error):
                program, *words = process.cmdline()
                if "python" in program and {"execute_run", "resume_run"} & set(words):  # not the shell around it
                    found.append(process)
        return found


@contextmanager
def cluster(
    folder: Path, postgres_programs: Path, kind: str = "folder", nodes: tuple[str, ...] = ("a", "b")
) -> Iterator[Lab]:
    """A running cluster for the block, its results in a place of one of ``shared_places.KINDS``."""
    with ExitStack() as ended:
        place = ended.enter_context(shared_place(kind, folder))
        database = ended.enter_context(serving_postgres(postgres_programs))
        tracking = _tracking(folder / "mlflow", database, place)
        tracking.start()
        ended.callback(tracking.close)
        (folder / "data").mkdir()
        environment = (
            _cluster_env()
            | place.environment
            | {
                "RKD_DATA": str(folder / "data"),
                "RKD_STORE": place.address,
                "RKD_LOCKS": database.address,
                "RKD_LOCK_SILENCE": "8",
                "RKD_DAGSTER_DB": database.address.replace("postgresql://", "postgresql+psycopg2://"),
                "RKD_DAGSTER_YAML": str(ROOT / "deploy" / "cluster" / "dagster.yaml"),
                "MLFLOW_TRACKING_URI": tracking.uri,
                "RKD_DEVICE": "cpu",
                "RKD_PRECISION": "fp32",
                "RKD_CHECKPOINT_SECONDS": "0",
                "RKD_UPLOAD_SECONDS": "0.2",
                "RKD_TRAINING_GPUS": "0",
                "RKD_TRAININGS_PER_DEVICE": "1",
                "RAY_AUTH_TOKEN": "t" * 48,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(ROOT),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            }
        )
        lab = Lab(folder, environment, database, tracking, place)
        ended.callback(_stop, lab)
        lab.start_head()
        for name in nodes:
            lab.start_node(name)
        yield lab


def _cluster_env() -> dict[str, str]:
    """What deploy/cluster/cluster.env sets, before the tests' own addresses and short times take its place."""
    lines = (ROOT / "deploy" / "cluster" / "cluster.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _tracking(folder: Path, database: PostgresServer, place: SharedPlace) -> TrackingServer:
    """As docs/how-to/cluster.md says where there is a bucket: on PostgreSQL, artifacts in the bucket."""
    if place.server is None:
        return TrackingServer(folder)
    address = database.create("mlflow").replace("postgresql://", "postgresql+psycopg2://")
    further = place.environment | {"MLFLOW_S3_ENDPOINT_URL": place.server.endpoint}
    return TrackingServer(folder, address, f"s3://{BUCKET}/mlflow", further)


def _stop(lab: Lab) -> None:
    processes = [process for node in lab.nodes.values() for process in node.family()]
    if lab.ui is not None:
        with suppress(psutil.NoSuchProcess):
            ui = psutil.Process(lab.ui.pid)
            processes += [ui, *ui.children(recursive=True)]
    # What has lost its parent, a driver of a node that was killed, still names the folder in its environment.
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(lab.folder) in process.environ().get("RKD_CACHE", ""):
                processes.append(process)
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=30)
