"""anomalib's Reverse Distillation in its own runtimes, for benchmarks: untrained, for speed does not hang on weights.

What anomalib itself gives is measured: its pre-processing (resize, normalisation), network, map and post-processing, in
torch and in its own exports to ONNX and OpenVINO, in float32.
"""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch
from anomalib.models import ReverseDistillation
from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss

Score = Callable[[np.ndarray], object]  # of uint8 images (N, H, W, 3) of one size


def untrained(backbone: str, side: int) -> Any:
    """The model as its users make it, for square images of ``side`` pixels, without downloaded weights."""
    return ReverseDistillation(
        backbone,
        pre_trained=False,
        pre_processor=ReverseDistillation.configure_pre_processor((side, side)),
        evaluator=False,
        visualizer=False,
    ).eval()


def exported(model: Any, folder: Path) -> dict[str, Path]:
    """Runtime to the file of anomalib's own export; both take images of any size in any number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        return {"onnx": model.to_onnx(folder), "openvino": model.to_openvino(folder)}


def engines(model: Any, files: dict[str, Path], threads: int) -> dict[str, Score]:
    """One function for each runtime, which scores images as they come from their files."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(files["onnx"]), options, providers=["CPUExecutionProvider"])
    [taken] = session.get_inputs()
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}  # as ours has them
    compiled = core.compile_model(core.read_model(files["openvino"]), "CPU", settings)

    def in_torch(images: np.ndarray) -> object:
        with torch.inference_mode():
            return model(torch.from_numpy(_batch(images)))

    return {
        "torch": in_torch,
        "onnx": lambda images: session.run(None, {taken.name: _batch(images)}),
        "openvino": lambda images: compiled(_batch(images)),
    }


def _batch(images: np.ndarray) -> np.ndarray:
    """As anomalib's own inferencers make it: float32 ``(N, 3, H, W)`` in [0, 1]."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32) / 255


def training_step(backbone: str, side: int, learning_rate: float, betas: tuple[float, float]) -> Callable[[Any], None]:
    """anomalib's step over a batch of uint8 images ``(N, side, side, 3)``: teacher, student, loss, backward, Adam."""
    model = untrained(backbone, side).train()
    network = model.model
    parameters = [*network.decoder.parameters(), *network.bottleneck.parameters()]
    optimiser = torch.optim.Adam(parameters, learning_rate, betas)
    loss_of = ReverseDistillationLoss()

    def step(images: np.ndarray) -> None:
        loss = loss_of(*network(model.pre_processor(torch.from_numpy(_batch(images)))))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step
