"""A deployed graph as a file of each format, and such a file opened again.

torch.export gives the graph, with any number of images of any height and width; torch's exporter makes ONNX of it, and
OpenVINO reads that. int8 is NNCF's, calibrated on training normals. Precisions:

- fp32: as everywhere in scoring.
- fp16: weights are kept in half precision, and computed with in the precision of whoever runs the file (float32 here).
- int8: convolutions between the image and the last features are computed in 8 bits; resize, normalisation, cosines and
  maps stay float32.

The libraries are the extra ``export``. What Intel's would tell of their use is not sent: see ``_quiet``.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from PIL import Image

from rkd_pipeline.detectors.deployed_graph import INPUT, THRESHOLD, DeployedGraph
from rkd_pipeline.detectors.exported_model import ExportCard
from rkd_pipeline.detectors.model_card import ModelCard
from rkd_pipeline.errors import DataError, RkdError

Format = Literal["onnx", "openvino", "torch"]
GraphPrecision = Literal["fp32", "fp16", "int8"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
PRECISIONS: tuple[GraphPrecision, ...] = ("fp32", "fp16", "int8")
INSTALL = "pip install 'rkd-pipeline[export]'"
CARD = "rkd_pipeline"  # the name of the card in a file's own metadata
CALIBRATION_IMAGES = 100  # that int8 is calibrated on; NNCF itself takes up to 300
_LARGE = 1024  # values from which a tensor is kept in half precision
Onnx: TypeAlias = Any  # onnx.ModelProto: the library is optional


class MissingLibrary(RkdError):
    """A library of the extra ``export`` that is not installed."""


def library(name: str) -> Any:
    """A module of the extra; raises ``MissingLibrary`` with the command that installs it."""
    _quiet()
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingLibrary(f"exported models need {name.partition('.')[0]} ({error}): {INSTALL}") from error


def _quiet() -> None:
    """OpenVINO and NNCF report their use over the network unless somebody objects: without this module they cannot."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # documented: the import then fails


def require_made(format_: str, precision: str) -> tuple[Format, GraphPrecision]:
    """The format and precision that are called so; raises ``RkdError`` where such a file is not made."""
    made = {str(name): name for name in SUFFIXES}.get(format_)
    at = {str(name): name for name in PRECISIONS}.get(precision)
    if made is None or at is None:
        known = f"formats: {', '.join(SUFFIXES)}; precisions: {', '.join(PRECISIONS)}"
        raise RkdError(f"{format_} at {precision} is not made; {known}")
    if (made, at) == ("torch", "int8"):
        raise RkdError(
            "torch runs no saved program in 8 bits on a CPU, it would only round to them; use --format onnx or openvino"
        )
    return made, at


def exported_program(graph: torch.nn.Module) -> "torch.export.ExportedProgram":
    """The graph with free numbers of images, rows and columns (two images or more are traced: one would be a case)."""
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("height"), 2: torch.export.Dim("width")}
    example = torch.zeros(2, 200, 300, 3, dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(graph.eval(), (example,), dynamic_shapes=(free,))


def onnx_model(graph: DeployedGraph) -> Onnx:
    """The graph as ONNX, float32; its threshold is the initializer ``threshold``."""
    library("onnxscript")
    program = exported_program(graph)
    made = torch.onnx.export(
        program, dynamo=True, input_names=[INPUT], output_names=graph.outputs, external_data=False, verbose=False
    )
    assert made is not None  # for mypy: only without dynamo
    model = made.model_proto
    for node in model.graph.node:  # the paths of this machine's files, which the exporter keeps for debugging
        del node.metadata_props[:]
        node.doc_string = ""
    return model


def in_int8(model: Onnx, images: np.ndarray) -> Onnx:
    """The same with its convolutions in 8 bits, ranges taken from uint8 images ``(N, H, W, 3)``."""
    nncf = library("nncf")
    data = nncf.Dataset([{INPUT: image[np.newaxis]} for image in images])
    ignored = nncf.IgnoredScope(names=sorted(_outside_convolutions(model)))
    nncf.set_log_level(logging.WARNING)
    with redirect_stdout(StringIO()):  # bars of its own
        return nncf.quantize(
            model, data, subset_size=len(images), ignored_scope=ignored, target_device=nncf.TargetDevice.CPU
        )


def _outside_convolutions(model: Onnx) -> set[str]:
    """Names of the nodes that no convolution comes both before and after: resize, normalisation, cosines, map."""
    nodes = list(model.graph.node)
    makers = {output: node for node in nodes for output in node.output}
    convolutions = [node for node in nodes if node.op_type in ("Conv", "ConvTranspose")]
    after: set[str] = set()
    reached = {output for node in convolutions for output in node.output}
    for node in nodes:  # in topological order, as ONNX demands
        if reached.intersection(node.input):
            after.add(node.name)
            reached.update(node.output)
    before: set[str] = set()
    waiting = list(convolutions)
    while waiting:
        for name in waiting.pop().input:
            if name in makers and makers[name].name not in before:
                before.add(makers[name].name)
                waiting.append(makers[name])
    return {n.name for n in nodes} - (after & before) - {n.name for n in convolutions}


def with_threshold(model: Onnx, threshold: float) -> None:
    """Set the threshold of a model that decides."""
    numpy_helper = library("onnx").numpy_helper
    (found,) = [initializer for initializer in model.graph.initializer if initializer.name == THRESHOLD]
    found.CopyFrom(numpy_helper.from_array(np.float32(threshold), THRESHOLD))


def _in_half(model: Onnx) -> Onnx:
    """A copy whose large weights are kept in half precision and cast where they are used."""
    onnx = library("onnx")
    made = onnx.ModelProto()
    made.CopyFrom(model)
    casts = []
    for tensor in made.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < _LARGE:
            continue
        name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], name=f"{name}_cast", to=1))
    for place, cast in enumerate(casts):
        made.graph.node.insert(place, cast)
    return made


def save_onnx(model: Onnx, file: Path, format_: Format, precision: GraphPrecision, card: ExportCard) -> None:
    """Write an ONNX model, or the OpenVINO pair made of it: ``file`` is the ``.onnx`` or the ``.xml``."""
    text = json.dumps(asdict(card))
    if format_ == "onnx":
        onnx = library("onnx")
        made = _in_half(model) if precision == "fp16" else model
        onnx.helper.set_model_props(made, {CARD: text})
        onnx.checker.check_model(made)
        file.write_bytes(made.SerializeToString())
        return
    openvino = library("openvino")
    converted = openvino.Core().read_model(model.SerializeToString())
    converted.set_rt_info(text, [CARD])
    openvino.save_model(converted, str(file), compress_to_fp16=precision == "fp16")


class _Half(torch.nn.Module):
    """A graph whose large weights are kept in half precision and cast when it runs."""

    def __init__(self, graph: DeployedGraph) -> None:
        super().__init__()
        self.whole = graph
        for module in graph.modules():
            for value in list(module.parameters(recurse=False)):
                if value.numel() >= _LARGE:
                    value.data = value.data.half()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """As the graph's."""
        full = {name: value.float() for name, value in self.whole.named_parameters()}
        answers: tuple[torch.Tensor, ...] = torch.func.functional_call(self.whole, full, (images,))
        return answers


def save_torch(graph: DeployedGraph, file: Path, precision: GraphPrecision, card: ExportCard) -> None:
    """Write a torch program; the graph is used up at fp16."""
    program = exported_program(_Half(graph) if precision == "fp16" else graph)
    torch.export.save(program, file, extra_files={CARD: json.dumps(asdict(card))})


class ExportedFile:
    """A file that ``rkd export`` wrote, ready to score images on the CPU.

    Args:
        file: ``.onnx``, ``.xml`` with its ``.bin`` beside it, or ``.pt2``.
        threads: that it may use; None: as the runtime likes it.
        own: this process, or its parent, has written it. Others' torch programs are refused: torch's loader runs what
            they bring along, which the loaders of the other formats do not.

    Raises ``DataError`` for what is no such file, ``MissingLibrary`` where its runtime is not installed.
    """

    def __init__(self, file: Path, *, threads: int | None = None, own: bool = False) -> None:
        openers = {".onnx": _open_onnx, ".xml": _open_openvino, ".pt2": _open_torch}
        if file.suffix not in openers:
            raise DataError(f"{file} is no exported model: its name ends in none of {', '.join(openers)}")
        if not file.is_file():
            raise DataError(f"{file} does not exist; `rkd export TARGET --output {file}` writes it")
        if file.suffix == ".xml" and not file.with_suffix(".bin").is_file():
            raise DataError(f"{file.with_suffix('.bin')} is missing: it belongs to {file}; copy both")
        if file.suffix == ".pt2" and not own:
            raise DataError(f"{file}: torch's loader runs code that such a file brings; use --format onnx or openvino")
        try:
            self._run, text = openers[file.suffix](file, threads)
            record = json.loads(text)
            self.card = ExportCard(ModelCard(**record["model"]), record["threshold"])
        except RkdError:
            raise
        except Exception as error:  # of a dozen kinds, as many as the runtimes have
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{file} is no model that `rkd export` wrote, or is damaged ({reason})") from error
        self.file = file

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Score uint8 images ``(N, H, W, 3)``.

        Returns:
            Scores float32 ``(N,)``, maps float32 ``(N, S, S)``, and decisions bool ``(N,)`` where it has a threshold.
        """
        score, made, *called = self._run(np.ascontiguousarray(images))
        return score, made, called[0].astype(bool) if called else None

    def prepare(self, image: Image.Image) -> np.ndarray:
        """An image at its own size, uint8 ``(H, W, 3)``: the graph resizes it."""
        return np.asarray(image.convert("RGB"))

    def score_prepared(self, pixels: Sequence[np.ndarray]) -> tuple[pd.DataFrame, np.ndarray]:
        """As ``ExportedModel.score_prepared``, of images of any sizes; columns ``score`` and ``anomalous``."""
        answers = [self(image[np.newaxis]) for image in pixels]
        table = pd.DataFrame({"score": [float(score[0]) for score, _, _ in answers]})
        called = pd.array([pd.NA if c is None else bool(c[0]) for _, _, c in answers], "boolean")
        return table.assign(anomalous=called), np.concatenate([made for _, made, _ in answers])


def _open_onnx(file: Path, threads: int | None) -> tuple[Any, str]:
    runtime = library("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {INPUT: images}), session.get_modelmeta().custom_metadata_map[CARD]


def _open_openvino(file: Path, threads: int | None) -> tuple[Any, str]:
    openvino = library("openvino")
    model = openvino.Core().read_model(file)
    # Where a CPU has bfloat16, OpenVINO would round to it unasked.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    settings |= {} if threads is None else {"INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    outputs = list(compiled.outputs)

    def run(images: np.ndarray) -> list[np.ndarray]:
        found = compiled(images)
        return [found[output] for output in outputs]

    return run, str(model.get_rt_info([CARD]).astype(str))


def _open_torch(file: Path, threads: int | None) -> tuple[Any, str]:
    extra = {CARD: ""}
    program = torch.export.load(file, extra_files=extra).module()

    def run(images: np.ndarray) -> list[np.ndarray]:
        from rkd_pipeline.device import full_precision

        before = torch.get_num_threads()
        torch.set_num_threads(threads or before)
        try:
            with torch.no_grad(), full_precision():
                return [answer.numpy() for answer in program(torch.tensor(images))]
        finally:
            torch.set_num_threads(before)

    return run, extra[CARD]


def files_of(file: Path) -> list[Path]:
    """All files of an exported model that is named by one of them."""
    return [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]


def in_another_process(file: Path, images: np.ndarray, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Scores and maps of uint8 images ``(N, S, S, 3)``, in an order and in batches of their own, in a new process.

    ``folder`` takes files on the way. Raises ``RkdError`` with what the process said where it failed.
    """
    import subprocess

    order = np.random.default_rng(len(images)).permutation(len(images))
    given, scores, maps = (folder / name for name in ("images.npy", "scores.npy", "maps.npy"))
    np.save(given, images[order])
    command = [sys.executable, "-m", __name__, str(file), str(given), str(scores), str(maps)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": _import_path()})
    if done.returncode:
        raise RkdError(f"{file} could not be run in a process of its own: {done.stderr.strip()[-500:]}")
    back = np.argsort(order)
    return np.load(scores)[back], np.load(maps)[back]


def _import_path() -> str:
    return os.pathsep.join(filter(None, sys.path))


def _batches(images: np.ndarray, sizes: Sequence[int] = (5, 1, 3)) -> Iterator[np.ndarray]:
    start, turn = 0, 0
    while start < len(images):
        yield images[start : start + sizes[turn % len(sizes)]]
        start, turn = start + sizes[turn % len(sizes)], turn + 1


def main(file: str, images: str, scores: str, maps: str) -> None:
    """Score an array of images with an exported file; writes two arrays."""
    model = ExportedFile(Path(file), own=True)
    found = [model(batch) for batch in _batches(np.load(images, mmap_mode="r"))]
    np.save(scores, np.concatenate([score for score, _, _ in found]))
    np.save(maps, np.concatenate([made for _, made, _ in found]))


if __name__ == "__main__":
    main(*sys.argv[1:])
