"""A store that a newer version of the package has worked in: `rkd status` says so, and nothing there is lost."""

import json
from pathlib import Path

import pytest

from rkd_pipeline.cli.main import main
from rkd_pipeline.errors import NewerResult
from rkd_pipeline.operations import freshness
from rkd_pipeline.operations.pruning import prunable
from rkd_pipeline.operations.status import training_states
from rkd_pipeline.stages.benchmark import build_benchmark
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import METRICS, TRAINED_MODEL
from tests.library.arena import TARGET, Finish

OLD, NEWER_METRICS, NEWER_MODEL = (f"rkd@resnet18.random~1e-s{seed}" for seed in range(3))


def records(store: Store) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in store.root.rglob("provenance.json")}


def test_newer_results_are_named_and_nothing_is_deleted_or_written_beside_them(
    arena: tuple[Store, Finish], capsys: pytest.CaptureFixture[str]
) -> None:
    store, finish = arena
    for training in (OLD, NEWER_METRICS, NEWER_MODEL):
        finish(training, 1.0)
    for ref in (Ref(METRICS.name, TARGET, NEWER_METRICS), Ref(TRAINED_MODEL.name, TARGET, NEWER_MODEL)):
        file = store.folder(ref) / "provenance.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"stage_version": 77, "unheard_of": 1}))
    before = records(store)

    states = training_states(store).set_index("training")
    assert states.loc[OLD, "state"] == "done"
    for training, stage in ((NEWER_METRICS, "metrics"), (NEWER_MODEL, "trained_model")):
        said = states.loc[training, "state"]
        assert said.startswith(f"not readable: {stage}[{TARGET}, {training}] was made by version 77 of {stage} ")
        assert "upgrade rkd-pipeline" in said
        assert states.loc[training, "mlflow"] == "not known"

    for change in (prunable, build_benchmark):
        with pytest.raises(NewerResult, match="was made by version 77"):
            change(store)
    assert freshness.stale_trainings(store) == {}  # what cannot be read is not to be trained again either
    assert main(["prune", "--yes", "--store", str(store.root)]) == 1
    assert "upgrade rkd-pipeline" in capsys.readouterr().err
    assert records(store) == before
