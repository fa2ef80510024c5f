"""Systems that are compared: one module each, all trained, scored and judged the same way.

What belongs in a system's module: how its teacher looks at images, what a training step computes, how a trained
model scores images. What does not: the loop, seeds, checkpoints, stopping (``training/loop.py``), metrics, the store.

A recipe's class names its module; the module offers ``SYSTEM``. Stages, tables, leaderboard and scorer know only what
stands here: to add a system, write a module and a recipe (``recipes/named_recipes.py``).
"""

from abc import ABC, abstractmethod
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from rkd_pipeline.data.rows import Images
    from rkd_pipeline.detectors.anomaly_map import Scores
    from rkd_pipeline.models.weights import TeacherWeights
    from rkd_pipeline.recipes.recipe import Recipe
    from rkd_pipeline.training.task import FittingTask, TaskInputs, TrainingTask

R = TypeVar("R", bound="Recipe")
T = TypeVar("T", bound="nn.Module")


class Detector(ABC):
    """A trained model that scores images, in full float32 precision whatever is set around it."""

    def __init_subclass__(cls) -> None:
        """Every system's ``score`` runs in full precision, those of systems to come too."""
        from rkd_pipeline.device import full_precision

        super().__init_subclass__()
        if "score" in vars(cls):
            # mypy takes every method that is set for a slip; here it is how no system can forget the precision.
            cls.score = full_precision()(cls.score)  # type: ignore[method-assign]

    @abstractmethod
    def score(self, images: "Images", *, batch_size: int = 32) -> "Scores":
        """Every image score of uint8 images ``(N, S, S, 3)``, and anomaly maps if the system makes some, in float32."""


class System(ABC, Generic[R, T]):
    """How one system trains and scores, given its kind of recipe ``R`` and its kind of teacher ``T``."""

    @abstractmethod
    def teacher(self, weights: "TeacherWeights", recipe: R) -> T:
        """The frozen network that is distilled or whose features are compared, on the CPU."""

    @abstractmethod
    def task(self, recipe: R, teacher: T, given: "TaskInputs") -> "TrainingTask | FittingTask":
        """What a training computes: steps, where the recipe has epochs; the teacher is on the device."""

    @abstractmethod
    def detector(
        self, recipe: R, teacher: T, state: "dict[str, Tensor]", lambda_: float, device: "torch.device"
    ) -> Detector:
        """A trained model on a device; ``state`` is what its training left. Raises where they do not fit."""


def system_of(recipe: "Recipe") -> System[Any, Any]:
    """The system that a recipe trains."""
    system: System[Any, Any] = import_module(f"{__name__}.{recipe.system}").SYSTEM
    return system
