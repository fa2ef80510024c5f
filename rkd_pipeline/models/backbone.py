"""Any frozen network as a source of features, for the systems that compare features and distil nothing."""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, TypeAlias

from rkd_pipeline.errors import RkdError
from rkd_pipeline.models.architectures import Transformer, Vgg, network
from rkd_pipeline.models.multiresolution import Source
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.models.weights import TeacherWeights

if TYPE_CHECKING:
    from rkd_pipeline.models.vision_transformer import VisionTransformer

Backbone: TypeAlias = "Teacher | Source | VisionTransformer"


def backbone(weights: TeacherWeights, blocks: Sequence[int] = ()) -> Backbone:
    """Blocks 1 to 3 of a ResNet, max-pools 2 to 5 of a VGG, or blocks of a vision transformer.

    Images are normalised as in its pretraining.

    Args:
        weights: of the network.
        blocks: of a vision transformer, from 1; none: those at a third, two thirds and the whole of its depth.

    Raises:
        RkdError: blocks of a network that is no vision transformer or has no such block; its library is not installed.
    """
    arch = network(weights.name.arch)
    if isinstance(arch, Transformer):
        made: VisionTransformer = import_module(arch.module).VisionTransformer(weights, blocks)
        return made
    if blocks:
        raise RkdError(f"blocks {', '.join(map(str, blocks))} are a vision transformer's, and {arch.name} is none")
    return Source(weights, normalise=True) if isinstance(arch, Vgg) else Teacher(weights)
