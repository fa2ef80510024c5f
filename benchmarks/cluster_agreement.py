"""Whether a cluster gives the numbers of one machine: the demo's plan on both, compared byte for byte.

    python benchmarks/cluster_agreement.py [--plan demo]

It starts the cluster of the tests (PostgreSQL, two Ray nodes, MLflow, `rkd ui`) and orders the plan there, then runs
it in a store of one machine with as many threads. It exits with 1 where a result of a training differs. Half an hour on
two cores. Needs PostgreSQL's programs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rkd_pipeline.recipes.plans import PLANS, PlannedTraining, named
from rkd_pipeline.settings import Settings
from rkd_pipeline.store.open_store import open_store
from rkd_pipeline.store.result_store import Store
from rkd_pipeline.store.stage_versions import ANOMALY_SCORES, METRICS, TRAINED_MODEL
from tests.integration.cluster.lab import Lab, cluster
from tests.library.postgres_server import programs


def main() -> None:
    """Run the plan twice and compare."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--plan", choices=PLANS, default="demo")
    plan = options.parse_args().plan
    postgres = programs() or sys.exit("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with tempfile.TemporaryDirectory(prefix="agreement") as folder:
        with cluster(Path(folder), postgres) as lab:
            lab.start_ui()
            began = time.monotonic()
            process = lab.start("run", "--plan", plan)
            said, _ = process.communicate(timeout=3600)
            if process.returncode:
                sys.exit(said)
            there = versions(store_of(lab), named(plan))
        print(f"two nodes: {time.monotonic() - began:.0f} s", flush=True)
        began = time.monotonic()
        alone = Path(folder) / "alone"
        on_one_machine(alone, plan)
        print(f"one machine, one thread: {time.monotonic() - began:.0f} s")
        here = versions(Store(alone), named(plan))
    differ = [name for name, version in here.items() if there[name] != version]
    print(f"{len(here) - len(differ)} of {len(here)} results are the same, byte for byte")
    print("\n".join(f"differs: {name}" for name in differ), end="")
    sys.exit(bool(differ))


def store_of(lab: Lab) -> Store:
    """The cluster's store, as its desk opens it."""
    given = lab.environment
    return open_store(Settings(store=given["RKD_STORE"], locks=given["RKD_LOCKS"], cache=lab.folder / "looking"))


def on_one_machine(folder: Path, plan: str) -> None:
    """The plan in a store of its own, with the thread that a training has on the cluster."""
    own = {"RKD_STORE": str(folder), "RKD_DEVICE": "cpu", "RKD_PRECISION": "fp32", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "rkd_pipeline.cli", "run", "--plan", plan]
    subprocess.run(command, env=os.environ | own, check=True, stdout=subprocess.DEVNULL)


def versions(store: Store, cells: list[PlannedTraining]) -> dict[str, str]:
    """Hashes of everything that trainings gave: weights, scores and maps, metrics."""
    return {
        f"{stage.name} {cell.target} {cell.training}": store.require(stage, cell.target, cell.training).data_version
        for cell in cells
        for stage in (TRAINED_MODEL, ANOMALY_SCORES, METRICS)
    }


if __name__ == "__main__":
    main()
