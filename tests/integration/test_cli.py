"""The command line over the demo: what it prints, what it returns, what it does again and what it does not."""

import errno
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from rkd_pipeline.cli.main import main
from rkd_pipeline.operations import status
from rkd_pipeline.results.schema import COLUMNS
from rkd_pipeline.stages.benchmark import read_benchmark
from rkd_pipeline.store.result_store import Ref
from rkd_pipeline.store.stage_versions import BENCHMARK, METRICS, TRAINED_MODEL
from tests.integration.conftest import DEMO, EPOCHS, RECIPE, TRAINING, Rkd


def test_a_run_ends_with_numbers_and_where_to_look(demo: Rkd) -> None:
    again = demo(*DEMO)
    assert again.returncode == 0
    assert "1 trainings: 1 were done before, 0 failed" in again.stdout
    assert f"| demo.weave | {TRAINING} |" in again.stdout.replace("  ", "")
    for place in ("table_demo.md", f"metrics/demo.weave/{TRAINING}/maps.png", "make ui, then http://127.0.0.1:3000"):
        assert place in again.stdout


def test_the_store_holds_everything_with_its_provenance(demo: Rkd) -> None:
    metrics = demo.store.require(METRICS, "demo.weave", TRAINING)
    assert {p.name for p in metrics.folder.iterdir()} == {
        "metrics.parquet", "maps.png", "scores.png", "curves.png", "losses.png", "provenance.json",
    }  # fmt: skip
    model = demo.store.require(TRAINED_MODEL, "demo.weave", TRAINING)
    assert model.facts["epochs_trained"] == EPOCHS
    assert model.provenance.parameters["epochs"] == EPOCHS
    assert not list((demo.store.root / "checkpoints").rglob("*.safetensors"))
    table = read_benchmark(demo.store.require(BENCHMARK))
    assert list(table.columns) == list(COLUMNS)
    ours = table[table["training"] == TRAINING]
    assert (ours["short_schedule"] & (ours["epochs"] == EPOCHS) & (ours["teacher"] == "resnet18.random")).all()
    assert ours["mlflow_run_id"].notna().all()
    published = table[table["origin"] == "published"]
    assert published["value"].between(0, 1).all()
    assert len(published) > 200


def test_mlflow_holds_the_report_with_its_tables_and_figures(demo: Rkd) -> None:
    import mlflow

    from resources.tracking import MlflowTracking

    record = json.loads((demo.store.root / "tracking" / "report.json").read_text())
    client = mlflow.MlflowClient(MlflowTracking(uri=record["uri"]).tracking_uri(demo.store))
    assert client.get_run(record["run_id"]).info.status == "FINISHED"
    stored = {
        f.path
        for folder in client.list_artifacts(record["run_id"])
        for f in client.list_artifacts(record["run_id"], folder.path)
    }
    assert {"report/report.html", "table_3/table_3.md", "figure_3/figure_3.png", "leaderboard/ranks.png"} <= stored
    assert {"ablation/ablation.md", "claims/claims.md"} <= stored


def test_the_events_of_a_training_stay_small(demo: Rkd) -> None:
    """Training, scores, metrics and mirror of one cell: what Dagster writes of it, in bytes; images are thumbnails."""
    sizes = {}
    for file in (demo.store.dagster_home / "history" / "runs").glob("*-*.db"):
        with closing(sqlite3.connect(file)) as database:
            rows = database.execute("select step_key, length(event) from event_logs").fetchall()
        if any(step == "trained_model" for step, _ in rows):
            sizes[file.stem] = sum(length for _, length in rows)
    assert sizes
    assert max(sizes.values()) < 100_000


def test_status_and_table_read_the_same_store(demo: Rkd) -> None:
    status = demo("status")
    assert status.returncode == 0
    assert "done" in status.stdout
    assert "mirrored" in status.stdout
    table = demo("table", "3")
    assert table.returncode == 0
    assert "| **Head CT** | published | 78.0 | 77.2 | 81.3 | 82.9 | 85.2 | 79.1 |" in table.stdout
    assert table.stdout.count("not measured") == 4 * 6  # demo images are not in the paper's table


def test_a_failed_partition_does_not_stop_the_others(demo: Rkd) -> None:
    """Head CT is not there: its training fails with the way out, the demo's is still done, and the status says so."""
    run = demo(*[w.replace("demo.weave", "head_ct,demo.weave") for w in DEMO], "--seeds", "0")
    assert run.returncode == 1
    assert "2 trainings: 1 were done before, 1 failed" in run.stdout
    assert "its data is not ready: Head CT - hemorrhage is not at" in run.stdout
    assert "set RKD_DATA to the folder that holds head_ct/" in run.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--targets", "demo.nope"], "unknown target 'demo.nope'; known: bmad.brain"),
        (["--recipes", "nope"], "unknown recipe 'nope'; known: anogan,"),
        (["--weights", "missing.pth"], "weights file missing.pth does not exist"),
        (["--targets", ","], "--targets is empty"),
        (["--seeds", "0,x"], "--seeds: 'x' is not a whole number from 0"),
        (["--epochs", "0"], "epochs must be at least 1"),
    ],
)
def test_wrong_words_are_answered_with_the_right_ones(
    demo: Rkd, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("RKD_STORE", "RKD_DATA", "DAGSTER_HOME"):  # main() sets them; monkeypatch puts them back
        monkeypatch.setenv(name, "")
    assert main([*DEMO, *arguments, "--store", str(demo.store.root)]) == 1
    answer = capfd.readouterr().err
    last = answer.splitlines()[-1]  # above it: what was being done
    assert last.startswith("rkd: ")
    assert says in last


def test_options_can_come_from_the_environment(demo: Rkd) -> None:
    run = demo(
        "run", RKD_TARGETS="demo.weave", RKD_RECIPES=RECIPE, RKD_SEEDS="0", RKD_TEACHER="resnet18",
        RKD_WEIGHTS="random", RKD_EPOCHS=str(EPOCHS),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "1 were done before" in run.stdout


def test_a_lost_event_log_or_a_damaged_result_is_put_right(demo: Rkd) -> None:
    """The store decides: a file cut short is made again, and Dagster hears of what it had forgotten."""
    metrics = demo.store.folder(Ref(METRICS.name, "demo.weave", TRAINING))
    before = json.loads((metrics / "provenance.json").read_text())
    table = metrics / "metrics.parquet"
    table.write_bytes(table.read_bytes()[:-1])
    assert "is missing or cut short" in demo("status").stdout
    run = demo(*DEMO)
    assert run.returncode == 0
    after = json.loads((metrics / "provenance.json").read_text())
    assert after["data_version"] == before["data_version"]
    assert len(pd.read_parquet(table)) > 0


def test_a_second_store_is_a_second_world(rkd_in: Callable[..., Rkd], demo: Rkd, tmp_path: Path) -> None:
    assert "no trainings yet" in rkd_in(tmp_path)("status").stdout
    assert "done" in demo("status").stdout


def test_a_full_disk_is_an_error_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(store: object) -> None:
        raise RuntimeError("could not save") from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("RKD_STORE", "RKD_DATA", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(status, "training_states", full)
    assert main(["status"]) == 1
    assert "No space left on device. Make room" in capsys.readouterr().err
