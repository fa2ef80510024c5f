"""Runs as jobs of a Ray cluster: one run, one job, in one process.

dagster-ray's launcher, and what it lacks here. Backfills, the UI and automation give runs no resources, so this one
adds them; a job that asked for no GPU sees none; and a job server that gives no clear answer is not taken for a dead
job, which would be started a second time. Where a second one starts all the same, ``fence.py`` lets one of them write.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from dagster_ray.core.run_launcher import RayRunLauncher

from resources import code_version, fence
from resources.compute import DEVICE_POOL
from resources.liveness import LAUNCHED_BY
from resources.ray_address import open_to_all
from rkd_pipeline.errors import RkdError

RESOURCES_TAG = "dagster-ray/config"
DOUBTFUL_ANSWERS = 12  # in a row, before a job that nobody knows of counts as gone
# Values in a job's environment stand in Ray's list of jobs and logs, and in Dagster's events when a job fails.
_SECRET = re.compile(
    r"PASSW|PASSPHRASE|SECRET|TOKEN|CREDENTIAL|_KEY$|_KEY_ID$|(^|_)SAS(_|$)|^RKD_(LOCKS|DAGSTER_DB|HOOK_URL)$",
    re.IGNORECASE,
)
_PASSWORD_IN_ADDRESS = re.compile(r"://[^/@]*:[^/@]+@")


class RkdRunLauncher(RayRunLauncher):
    """For ``run_launcher`` in dagster.yaml.

    Args:
        training_cpus: CPUs of a run that computes on a device; other runs have the ``num_cpus`` of ``ray``.
        training_gpus: GPUs of such a run: 1, or 0 on machines without.
        trainings_per_device: how many of them share a GPU.
        ray: as dagster-ray has it.

    Raises ``RkdError`` for what would let runs start where they cannot work, or show a secret.
    """

    def __init__(
        self, *, training_cpus: float = 1, training_gpus: int = 0, trainings_per_device: int = 1, **ray: Any
    ) -> None:
        if ray.get("num_gpus"):
            raise RkdError(
                "dagster.yaml, run_launcher: num_gpus under ray would be asked for by runs that compute nothing; set "
                "training_gpus"
            )
        if not ray.get("num_cpus"):
            raise RkdError(
                "dagster.yaml, run_launcher: num_cpus under ray is missing; what asks for nothing runs on the head"
            )
        for fault in open_to_all(ray.get("address", "")):
            raise RkdError(fault)
        _refuse_secrets("dagster.yaml, run_launcher: env_vars", _named(ray.get("env_vars")))
        _refuse_secrets("dagster.yaml, run_launcher: runtime_env", (ray.get("runtime_env") or {}).get("env_vars"))
        if trainings_per_device < 1:
            raise RkdError(f"dagster.yaml, run_launcher: trainings_per_device is {trainings_per_device}; at least 1")
        super().__init__(**ray)
        self._training = {"num_cpus": training_cpus, "num_gpus": training_gpus / trainings_per_device}
        self._doubtful: Counter[str] = Counter()

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """What dagster.yaml may say."""
        inherited: Any = super().config_type()
        return {
            **inherited,
            "training_cpus": dg.Field(dg.Float, default_value=1.0),
            "training_gpus": dg.Field(dg.IntSource, default_value=0),
            "trainings_per_device": dg.Field(dg.IntSource, default_value=1),
        }

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> "RkdRunLauncher":
        """As Dagster makes it from dagster.yaml."""
        own = {name: value for name, value in config_value.items() if name != "ray"}
        return cls(inst_data=inst_data, **config_value["ray"], **own)

    def _launch_ray_job(self, submission_id: str, entrypoint: str, run: dg.DagsterRun) -> None:
        """Where launches and resumptions meet; tags say what is asked for, and the job's environment what it is for."""
        self._instance.add_run_tags(run.run_id, LAUNCHED_BY)
        self._doubtful.pop(run.run_id, None)  # of the job before this one
        asked = json.loads(run.tags[RESOURCES_TAG]) if RESOURCES_TAG in run.tags else self._needs(run)
        environment = {fence.LAUNCHED: run.run_id, code_version.EXPECTED: code_version.this_code()}
        if asked.get("num_cpus", 0) >= 1:
            environment["OMP_NUM_THREADS"] = str(int(asked["num_cpus"]))  # torch would take all cores of the node
        if not asked.get("num_gpus"):
            environment["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves it unset: every GPU would be seen, and none reserved
        runtime = dict(asked.get("runtime_env") or self.runtime_env or {})
        of_tag = {**runtime.get("env_vars", {}), **_named(asked.get("env_vars"))}
        _refuse_secrets(f"the tag {RESOURCES_TAG} of run {run.run_id}", of_tag)
        runtime["env_vars"] = {**runtime.get("env_vars", {}), **environment}
        tagged = run.with_tags({**run.tags, RESOURCES_TAG: json.dumps({**asked, "runtime_env": runtime})})
        super()._launch_ray_job(submission_id, entrypoint, tagged)

    def _needs(self, run: dg.DagsterRun) -> dict[str, Any]:
        """By the pools of its assets: what queues for a device computes on one."""
        pools = (run.run_op_concurrency and run.run_op_concurrency.all_pools) or set()
        needs = self._training if DEVICE_POOL in pools else {"num_cpus": self.num_cpus}
        return {name: value for name, value in needs.items() if value}

    def check_run_worker_health(self, run: dg.DagsterRun) -> Any:
        """Dagster starts again what is not well. No answer, or none that can be read, is no sign of death yet.

        A run that a command carries out itself, such as the refresh at the end of `rkd run`, has no job to ask after.
        """
        said = super().check_run_worker_health(run)
        if not LAUNCHED_BY.items() <= run.tags.items():
            return type(said)(type(said.status).RUNNING, "carried out by the command that began it")
        if said.status.name != "UNKNOWN":
            self._doubtful.pop(run.run_id, None)
            return said
        self._doubtful[run.run_id] += 1
        if self._doubtful[run.run_id] >= DOUBTFUL_ANSWERS:
            return said
        return type(said)(type(said.status).RUNNING, said.msg)


def _named(variables: Sequence[str] | None) -> dict[str, str]:
    """Of ``NAME`` or ``NAME=value`` each; without a value it is that of this process."""
    return {name: value for name, _, value in (v.partition("=") for v in variables or [])}


def _refuse_secrets(where: str, environment: Mapping[str, str] | None) -> None:
    secret = [
        name
        for name, value in (environment or {}).items()
        if _SECRET.search(name) or _PASSWORD_IN_ADDRESS.search(str(value) or os.environ.get(name, ""))
    ]
    if secret:
        raise RkdError(
            f"{where} names {', '.join(secret)}, and Ray shows the values in its list of jobs; set them in the "
            "environment in which `ray start` runs on each machine instead"
        )
