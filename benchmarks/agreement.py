"""Reverse distillation here and in anomalib, on the same weights and images: how far they agree.

    .venv-benchmarks/bin/python benchmarks/agreement.py

The paper copied its modules from anomalib. Random weights, BatchNorm's statistics included, are copied from our student
into anomalib's; a small teacher (``embedded``) and a random Wide-ResNet-50-2 describe random images. Compared are
reconstructions, loss and maps. Exits with 1 where anything differs by more than float32 rounding explains.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from anomalib.models.components.backbone import get_decoder
from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode, AnomalyMapGenerator
from anomalib.models.image.reverse_distillation.components import get_bottleneck_layer
from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss

from rkd_pipeline.detectors.anomaly_map import anomaly_map
from rkd_pipeline.models.reverse_distillation import ReverseDistillation
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.models.teacher_files import TeacherName, TeacherRegistry
from rkd_pipeline.models.weights import load_weights
from rkd_pipeline.training.losses import discrepancy, l_kd_flat

SIDE, TOLERANCE = 128, 1e-5
REACH = (
    16  # of the Gaussian: closer to the border, anomalib mirrors without the outermost pixel, scipy (and RD4AD) with it
)
_FUSION = {"reduce_1.0": "conv1", "reduce_1.1": "bn1", "reduce_1.3": "conv2", "reduce_1.4": "bn2",
           "reduce_2.0": "conv3", "reduce_2.1": "bn3"}  # fmt: skip
_BLOCK = {"main.0": "conv1", "main.1": "bn1", "main.3": "conv2", "main.4": "bn2", "main.6": "conv3", "main.7": "bn3"}


def theirs(name: str) -> str:
    """anomalib's name of a tensor of our student."""
    part, rest = name.split(".", 1)
    if part == "ocbe":
        if rest.startswith("oce."):
            return "bottleneck.bn_layer." + rest.removeprefix("oce.")
        place, _, tensor = rest.rpartition(".")
        return f"bottleneck.{_FUSION[place]}.{tensor}"
    _, stage, block, place = rest.split(".", 3)
    place, _, tensor = place.rpartition(".")
    return (
        f"decoder.layer{int(stage) + 1}.{block}.{_BLOCK.get(place) or place.replace('shortcut', 'upsample')}.{tensor}"
    )


def randomised(student: ReverseDistillation) -> ReverseDistillation:
    """With statistics as a training would leave them: a fresh BatchNorm would hide a wrong one."""
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return student.eval()


@torch.no_grad()
def compare(teacher_name: str) -> bool:
    """Print the largest differences for one teacher; True where all are within the tolerance."""
    torch.manual_seed(0)
    teacher = Teacher(load_weights(TeacherRegistry(Path("teachers.toml")), TeacherName.parse(teacher_name)))
    student = randomised(ReverseDistillation(teacher.arch, "narrow"))
    bottleneck, decoder = get_bottleneck_layer(teacher.arch.name), get_decoder(teacher.arch.name)
    state = {theirs(name): tensor for name, tensor in student.state_dict().items()}
    for module, prefix in ((bottleneck, "bottleneck."), (decoder, "decoder.")):
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        found = module.load_state_dict(own, strict=False)
        unused = {"conv4.weight", *(f"bn4.{n}" for n in ("weight", "bias", "running_mean", "running_var"))}
        left = set(found.missing_keys) - unused - {"bn4.num_batches_tracked"}
        if left or found.unexpected_keys:
            sys.exit(f"names do not match: {left} {found.unexpected_keys}")
        module.eval()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8))
    features = teacher(images)
    ours, peers = student(features), [p.contiguous() for p in decoder(bottleneck(features))]
    contiguous = [f.contiguous() for f in features]  # anomalib's loss takes no other layout
    found = {f"reconstruction, scale {k + 1}": relative(a, b) for k, (a, b) in enumerate(zip(ours, peers, strict=True))}
    flat = l_kd_flat(features, ours).mean()
    found["flattened loss"] = relative(flat, ReverseDistillationLoss.forward(contiguous, peers))
    scales = [discrepancy(t, s) for t, s in zip(features, ours, strict=True)]
    for fusion, mode in (("sum", AnomalyMapGenerationMode.ADD), ("product", AnomalyMapGenerationMode.MULTIPLY)):
        of_anomalib = AnomalyMapGenerator((SIDE, SIDE), sigma=4, mode=mode)(peers, features)[:, 0]
        of_ours = anomaly_map(scales, SIDE, fusion=fusion, sigma=4.0)
        inside = np.s_[:, REACH:-REACH, REACH:-REACH]
        found[f"map, {fusion}, inside"] = relative(of_ours[inside], of_anomalib[inside])
        print(f"{teacher_name:28}{f'map, {fusion}, border too':28}{relative(of_ours, of_anomalib):.1e}  (not judged)")
    for what, difference in found.items():
        print(f"{teacher_name:28}{what:28}{difference:.1e}")
    return max(found.values()) <= TOLERANCE


def relative(ours: torch.Tensor, peer: torch.Tensor) -> float:
    """Largest difference over the peer's largest value."""
    return float((ours - peer).abs().max() / peer.abs().max())


if __name__ == "__main__":
    agreed = [compare(name) for name in ("embedded", "wide_resnet50_2.random")]
    sys.exit(0 if all(agreed) else 1)
