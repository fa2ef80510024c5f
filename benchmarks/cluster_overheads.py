"""What a run on a cluster costs beside its training: a backfill of many small partitions on two nodes of one machine.

    python benchmarks/cluster_overheads.py --partitions 100

It starts the cluster of the tests (PostgreSQL, Ray, MLflow, `rkd ui`), launches one backfill as the UI would, and
waits. Every partition must have had one run, which succeeded, and its results must have been committed once; else it
exits with 1. Then it splits each run's time into parts. Needs PostgreSQL's programs.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rkd_pipeline.data import synthetic
from rkd_pipeline.settings import Settings
from rkd_pipeline.store.open_store import open_store
from rkd_pipeline.store.stage_versions import METRICS, TRAINED_MODEL
from tests.integration.cluster.lab import Lab, cluster
from tests.integration.servers import PLACE, Pages
from tests.library.postgres_server import programs

TARGET, RECIPE = "few", "stfpm-brief"
TRAINING = ("--targets", TARGET, "--recipes", RECIPE, "--epochs", "1", "--teacher", "resnet18", "--weights", "random")
BACKFILL = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) { __typename
    ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
STATE = """query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"""
RUNS = """query($id: String!, $limit: Int!) { runsOrError(filter: {tags: [{key: "dagster/backfill", value: $id}]},
    limit: $limit) { ... on Runs { results { runId status creationTime startTime endTime
    tags { key value } } } } }"""
EVENTS = """query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events { __typename
    ... on MessageEvent { timestamp stepKey } } } } }"""
# Part to the two moments that it lies between.
PARTS = {
    "waits in Dagster's queue": ("created", "RunStartingEvent"),
    "launched: the daemon and Ray's job server": ("RunStartingEvent", "ray_start"),
    "process begins: Ray's driver, imports": ("ray_start", "RunStartEvent"),
    "trains, scores, measures, mirrors": ("RunStartEvent", "RunSuccessEvent"),
    "ends: until Ray's job has": ("RunSuccessEvent", "ray_end"),
}


def main() -> None:
    """Run the backfill and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=100)
    parser.add_argument("--json", type=Path, help="write the moments of every run there")
    asked = parser.parse_args()
    postgres = programs() or sys.exit("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with tempfile.TemporaryDirectory(prefix="overheads") as folder, cluster(Path(folder), postgres) as lab:
        lab.rkd("add-target", TARGET, str(images(Path(folder))))
        pages = Pages(lab.start_ui(), lab.tracking.uri, lab.ui)
        lab.rkd("run", *TRAINING, "--seeds", "0")  # the target's data, which every partition needs
        keys = [f"{RECIPE}@resnet18.random~1e-s{seed}r0" for seed in range(1, asked.partitions + 1)]
        for key in keys:
            pages.add_training(key)
        began = time.monotonic()
        backfill = launched(pages, [f"{TARGET}|{key}" for key in keys])
        while (state := pages.graphql(STATE, id=backfill)["status"]) in ("REQUESTED",):
            time.sleep(5)
        wall = time.monotonic() - began
        moments = [moments_of(pages, lab, run) for run in runs_of(pages, backfill, len(keys))]
        wrong = mistakes(lab, keys, moments)
    if asked.json:
        asked.json.write_text(json.dumps(moments, indent=1))
    print(f"backfill {state}: {len(moments)} runs of {len(keys)} partitions in {wall:.0f} s")
    print("\n".join(wrong) or "each partition had one run, and each result was committed once")
    print("| part of a run | median s | least | most |\n|---|---|---|---|")
    for part, (begin, end) in PARTS.items():
        spent = [m[end] - m[begin] for m in moments if begin in m and end in m]
        if spent:
            print(f"| {part} | {statistics.median(spent):.1f} | {min(spent):.1f} | {max(spent):.1f} |")
    print(f"| events | {statistics.median(m['events'] for m in moments):.0f} | | |")
    sys.exit(bool(wrong))


def images(folder: Path) -> Path:
    """24 good and 6 bad ones, of the demo's weave."""
    (defect, *_) = synthetic.TARGETS["weave"].DEFECTS
    for name, count, kind in (("good", 24, None), ("bad", 6, defect)):
        for number in range(count):
            pixels, _ = synthetic.image("weave", synthetic.SEED, number, kind)
            synthetic.save(pixels, folder / "few" / name / f"{number:03d}.png")
    return folder / "few"


def launched(pages: Pages, partitions: list[str]) -> str:
    """The backfill's id."""
    selector = {"partitionSetName": "train_and_evaluate_partition_set", "repositorySelector": PLACE}
    said = pages.graphql(BACKFILL, params={"selector": selector, "partitionNames": partitions})
    if said["__typename"] != "LaunchBackfillSuccess":
        sys.exit(f"the backfill was not launched: {said}")
    return str(said["backfillId"])


def runs_of(pages: Pages, backfill: str, partitions: int) -> list[dict[str, Any]]:
    """Every run of the backfill, retries too."""
    found = pages.graphql(RUNS, id=backfill, limit=10 * partitions)["results"]
    return [run | {"tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]


def moments_of(pages: Pages, lab: Lab, run: dict[str, Any]) -> dict[str, Any]:
    """Seconds since 1970 of what happened to a run."""
    events = [e for e in pages.graphql(EVENTS, id=run["runId"])["events"] if e.get("timestamp")]
    first: dict[str, Any] = {"created": run["creationTime"], "status": run["status"], "events": len(events)}
    first["partition"] = run["tags"]["dagster/partition"]
    for event in events:
        first.setdefault(event["__typename"], float(event["timestamp"]) / 1000)
    for job in lab.jobs():
        if run["runId"] in str(job.get("metadata")) or run["runId"] in str(job.get("submission_id")):
            if job.get("start_time"):
                first["ray_start"] = float(str(job["start_time"])) / 1000
            if job.get("end_time"):
                first["ray_end"] = float(str(job["end_time"])) / 1000
    return first


def mistakes(lab: Lab, keys: list[str], moments: list[dict[str, Any]]) -> list[str]:
    """What is not as it should be, in words."""
    found = [f"{m['partition']}: {m['status']}" for m in moments if m["status"] != "SUCCESS"]
    had = [m["partition"] for m in moments]
    found += [
        f"{TARGET}|{key}: {had.count(f'{TARGET}|{key}')} runs" for key in keys if had.count(f"{TARGET}|{key}") != 1
    ]
    environment = lab.environment_of("further")
    settings = Settings(
        **{name: environment[f"RKD_{name.upper()}"] for name in ("store", "locks", "cache", "lock_silence")}
    )
    store = open_store(settings)
    for key in keys:
        for stage in (TRAINED_MODEL, METRICS):
            number = store.require(stage, TARGET, key).record.number
            if number != 1:
                found.append(f"{stage.name} of {key} was committed {number} times")
    return found


if __name__ == "__main__":
    main()
