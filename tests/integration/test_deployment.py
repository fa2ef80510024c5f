"""A trained model as a file: materialised as an asset, held to its gate, and taken out of the store."""

from pathlib import Path

import dagster as dg
import numpy as np
import onnxruntime
import pytest

from assets.deployment import PARITY, parity_result
from assets.partitions import TARGET_DIMENSION, TRAINING_DIMENSION, grid_key
from rkd_pipeline.definitions import build_defs
from rkd_pipeline.errors import DataError
from rkd_pipeline.settings import Settings
from rkd_pipeline.stages.anomaly_scores import read_scores
from rkd_pipeline.stages.datasets import open_prepared
from rkd_pipeline.stages.deployment import copy_export, read_parity, wanted_export
from rkd_pipeline.statistics.export_parity import Finding
from rkd_pipeline.store.stage_versions import ANOMALY_SCORES, EXPORTED_MODEL
from tests.integration.conftest import TRAINING, Rkd

TARGET = "demo.weave"


def test_an_exported_model_passes_its_gate_and_runs_without_this_project(demo: Rkd, tmp_path: Path) -> None:
    instance = dg.DagsterInstance.ephemeral()
    instance.add_dynamic_partitions(TARGET_DIMENSION, [TARGET])
    instance.add_dynamic_partitions(TRAINING_DIMENSION, [TRAINING])
    job = build_defs(Settings(store=demo.store.root)).resolve_job_def("export_model")
    done = job.execute_in_process(instance=instance, partition_key=grid_key(TARGET, TRAINING))
    (checked,) = [e for e in done.get_asset_check_evaluations() if e.check_name == PARITY]
    assert checked.passed

    exported = wanted_export(demo.store, TARGET, TRAINING, "onnx", "fp32")
    assert exported is not None
    assert {str(name).partition("[")[0] for name in exported.provenance.inputs} == {
        "trained_model",
        "anomaly_scores",
        "metrics",
        "split",
        "prepared_images",
    }
    verdict, findings = read_parity(exported)
    assert verdict == "passed"
    assert [f.name for f in findings] == ["scores", "maps", "scores from files", "maps from files"]

    (file,) = copy_export(exported, tmp_path / "weave.onnx")
    with pytest.raises(DataError, match=r"ends in \.onnx"):
        copy_export(exported, tmp_path / "weave.xml")
    scores, _ = read_scores(demo.store.require(ANOMALY_SCORES, TARGET, TRAINING))
    test = scores[scores["part"] == "test"].tail(3)
    _, arrays = open_prepared(demo.store, TARGET, 256)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    score, *_ = session.run(None, {"images": arrays.images(list(test["image_id"]))[:]})
    np.testing.assert_allclose(score, test["map_max"], rtol=1e-4)


def test_only_a_failed_gate_blocks() -> None:
    findings = [Finding("image_auroc", "cannot be told", "too few images")]
    severities = [parity_result(verdict, findings).severity for verdict in ("failed", "cannot be told")]
    assert severities == [dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN]
    assert [parity_result(v, findings).passed for v in ("passed", "cannot be told", "failed")] == [True, False, False]


def test_the_asset_is_of_its_stage() -> None:
    asset = build_defs(Settings()).resolve_assets_def(EXPORTED_MODEL.name)
    assert asset.specs_by_key[dg.AssetKey(EXPORTED_MODEL.name)].code_version == str(EXPORTED_MODEL.version)
