"""Exported files in the runtimes that they are made for, against the detector that they were made from."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rkd_pipeline.detectors import graph_formats
from rkd_pipeline.detectors.anomaly_map import Scores
from rkd_pipeline.detectors.deployed_graph import DeployedGraph
from rkd_pipeline.detectors.exported_model import ExportCard
from rkd_pipeline.detectors.graph_formats import (
    ExportedFile,
    MissingLibrary,
    in_another_process,
    in_int8,
    onnx_model,
    require_made,
    save_onnx,
    save_torch,
    with_threshold,
)
from rkd_pipeline.detectors.model_card import ModelCard
from rkd_pipeline.detectors.reverse_kd import ReverseKDDetector
from rkd_pipeline.errors import DataError, RkdError
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.operations import watched_folder
from rkd_pipeline.operations.prediction import predict
from rkd_pipeline.statistics.export_parity import relative_difference
from rkd_pipeline.store.result_store import Store
from tests.library.test_deployed_graph import detector, noise

CARD = ExportCard(ModelCard("bolts", "rkd-official@resnet18.random~1e-s0", "resnet18.random", "0" * 64, 1.5), 0.5)
IMAGES = noise(3, 256, 256, 3)


@pytest.fixture(scope="module")
def original(random_teacher: Callable[[str], Teacher]) -> ReverseKDDetector:
    return detector(random_teacher("resnet18"))


@pytest.fixture(scope="module")
def expected(original: ReverseKDDetector) -> Scores:
    return original.score(IMAGES)


@pytest.fixture(scope="module")
def model(original: ReverseKDDetector) -> Any:
    """Made once: it is what takes seconds."""
    return onnx_model(DeployedGraph(original, 0.5))


def differs(file: Path, expected: Scores) -> tuple[float, float]:
    scores, maps, _ = ExportedFile(file, own=True)(IMAGES)
    assert scores.dtype == maps.dtype == np.float32
    assert expected.maps is not None
    return relative_difference(expected.images["map_max"], scores), relative_difference(expected.maps, maps)


@pytest.mark.parametrize(("format_", "suffix"), [("onnx", ".onnx"), ("openvino", ".xml")])
def test_fp32_scores_as_the_detector(model: Any, expected: Scores, tmp_path: Path, format_: Any, suffix: str) -> None:
    file = tmp_path / f"model{suffix}"
    save_onnx(model, file, format_, "fp32", CARD)
    assert max(differs(file, expected)) < 1e-5
    opened = ExportedFile(file)
    assert opened.card == CARD
    score, made, called = opened(noise(1, 300, 433, 3))  # of any size
    assert score.shape == (1,)
    assert made.shape == (1, 256, 256)
    assert called is not None
    assert called.tolist() == (score > 0.5).tolist()


@pytest.mark.parametrize(
    ("format_", "suffix"), [("onnx", ".onnx"), pytest.param("openvino", ".xml", marks=pytest.mark.slow)]
)
def test_fp16_halves_the_file(model: Any, expected: Scores, tmp_path: Path, format_: Any, suffix: str) -> None:
    sizes = []
    for precision in ("fp32", "fp16"):
        file = tmp_path / precision / f"model{suffix}"
        file.parent.mkdir()
        save_onnx(model, file, format_, precision, CARD)
        sizes.append(sum(f.stat().st_size for f in file.parent.iterdir()))
    assert sizes[1] < 0.52 * sizes[0]
    assert max(differs(file, expected)) < 5e-3


def test_images_of_several_sizes_are_predicted_one_by_one(model: Any, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    save_onnx(model, file, "onnx", "fp32", CARD)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, side in zip(paths, (100, 256), strict=True):
        Image.fromarray(noise(side, side + 7, 3)).save(path)
    found = predict(ExportedFile(file), paths, None)
    assert found.problems == 0
    assert found.table["anomalous"].tolist() == (found.table["score"] > 0.5).tolist()


def test_a_watched_folder_s_images_are_scored_by_a_file(model: Any, store: Store, tmp_path: Path) -> None:
    file, watched = tmp_path / "model.onnx", tmp_path / "watched"
    watched.mkdir()
    with pytest.raises(DataError, match=r"model\.onnx does not exist; RKD_WATCH_MODEL names a file"):
        watched_folder.look(store, watched, str(file))
    save_onnx(model, file, "onnx", "fp32", CARD)
    for name, side in (("a.png", 100), ("b.png", 256)):
        Image.fromarray(noise(side, side + 7, 3)).save(watched / name)
        os.utime(watched / name, (1e9, 1e9))
    result = watched_folder.score_new(store, watched_folder.look(store, watched, str(file)))
    rows = watched_folder.read_scored(result)
    expected = predict(ExportedFile(file), sorted(watched.iterdir()), None).table
    assert rows["score"].tolist() == expected["score"].tolist()
    assert rows["anomalous"].tolist() == expected["anomalous"].tolist()
    assert result.facts["model"] == str(file)
    assert watched_folder.look(store, watched, str(file)).new == []
    save_onnx(model, file, "onnx", "fp32", replace(CARD, threshold=0.6))
    assert watched_folder.look(store, watched, str(file)).new == ["a.png", "b.png"]  # another model


@pytest.mark.slow  # the integration test of the gate does this too
def test_order_batches_and_process_change_nothing(model: Any, expected: Scores, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    save_onnx(model, file, "onnx", "fp32", CARD)
    scores, maps = in_another_process(file, IMAGES, tmp_path)
    assert expected.maps is not None
    assert relative_difference(expected.images["map_max"], scores) < 1e-5
    assert relative_difference(expected.maps, maps) < 1e-5


def test_the_file_names_no_place_of_this_machine(model: Any) -> None:
    content = model.SerializeToString()
    assert str(Path(graph_formats.__file__).parent).encode() not in content
    assert str(Path.home()).encode() not in content or len(str(Path.home())) < 6


@pytest.mark.slow
@pytest.mark.parametrize(("format_", "suffix"), [("onnx", ".onnx"), ("openvino", ".xml")])
def test_int8_is_near_and_takes_another_threshold(
    model: Any, expected: Scores, tmp_path: Path, format_: Any, suffix: str
) -> None:
    made = in_int8(model, noise(4, 256, 256, 3))
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("QuantizeLinear") > 20
    with_threshold(made, 100.0)
    file = tmp_path / f"model{suffix}"
    save_onnx(made, file, format_, "int8", CARD)
    assert max(differs(file, expected)) < 0.05
    _, _, called = ExportedFile(file)(IMAGES)
    assert called is not None
    assert not called.any()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_torch_program_scores_alike(
    original: ReverseKDDetector, expected: Scores, tmp_path: Path, precision: Any
) -> None:
    file = tmp_path / "model.pt2"
    save_torch(DeployedGraph(original, 0.5), file, precision, CARD)
    assert max(differs(file, expected)) < (1e-5 if precision == "fp32" else 5e-3)
    assert ExportedFile(file, own=True).card == CARD


def test_what_is_no_exported_model_is_refused(tmp_path: Path) -> None:
    named = {"a.onnx": b"no model", "b.txt": b"", "c.xml": b"<net/>", "d.pt2": b"pickle"}
    for name, content in named.items():
        (tmp_path / name).write_bytes(content)
    for name, said in (
        ("a.onnx", "no model that `rkd export` wrote"),
        ("b.txt", "ends in none of"),
        ("c.xml", "c.bin is missing"),
        ("d.pt2", "runs code"),
        ("e.onnx", "does not exist"),
    ):
        with pytest.raises(DataError, match=said):
            ExportedFile(tmp_path / name)


def test_a_missing_library_is_said_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingLibrary, match=r"pip install 'rkd-pipeline\[export\]'"):
        graph_formats.library("onnxruntime")


def test_use_is_reported_to_nobody() -> None:
    """OpenVINO and NNCF would, over the network, unless the module that does it is not there."""
    graph_formats.library("openvino")
    assert sys.modules["openvino_telemetry"] is None


@pytest.mark.parametrize(("format_", "precision"), [("torch", "int8"), ("tflite", "fp32"), ("onnx", "fp8")])
def test_what_is_not_made_is_refused(format_: str, precision: str) -> None:
    with pytest.raises(RkdError):
        require_made(format_, precision)
