"""Any frozen network as a source of features, for the systems that compare features and distil nothing."""

from typing import TypeAlias

from rkd_pipeline.models.architectures import Vgg, network
from rkd_pipeline.models.multiresolution import Source
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.models.weights import TeacherWeights

Backbone: TypeAlias = Teacher | Source


def backbone(weights: TeacherWeights) -> Backbone:
    """Blocks 1 to 3 of a ResNet, or max-pools 2 to 5 of a VGG; images are normalised as in its pretraining."""
    if isinstance(network(weights.name.arch), Vgg):
        return Source(weights, normalise=True)
    return Teacher(weights)
