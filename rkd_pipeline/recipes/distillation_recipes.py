"""Recipes of the relatives of Reverse KD: other systems in which a student learns a frozen teacher's features."""

from dataclasses import dataclass, field
from typing import ClassVar

from rkd_pipeline.recipes.recipe import SCORING, EarlyStopping, GradientRecipe, Recipe


@dataclass(frozen=True)
class STFPM(GradientRecipe):
    """Student-Teacher Feature Pyramid Matching (Wang et al. 2021); the defaults are its official code's.

    Attributes:
        momentum: of SGD, which has no betas: those of Adam play no part.
    """

    system: ClassVar[str] = "stfpm"
    title: ClassVar[str] = "STFPM"
    score_rules: ClassVar[tuple[str, ...]] = ("map_max",)
    weight_decay: ClassVar[float] = 1e-4

    teacher: str = "resnet18"
    side: int = 256
    learning_rate: float = 0.4
    batch_size: int = 32
    epochs: int = 100
    sigma: float = field(default=0.0, metadata=SCORING)
    momentum: float = 0.9


@dataclass(frozen=True)
class RKDAD(GradientRecipe):
    """Relation-based KD (Cheng et al. 2021), of which no code is known; the defaults are this project's."""

    system: ClassVar[str] = "rkdad"
    title: ClassVar[str] = "Relation-based KD"
    score_rules: ClassVar[tuple[str, ...]] = ("image_score", "map_max")
    own_score: ClassVar[str] = "image_score"

    teacher: str = "resnet18"
    side: int = 224
    learning_rate: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    batch_size: int = 32
    epochs: int = 200


_WANG = "Wang et al. 2021"
_STFPM_CODE = "official code of STFPM"
_CHENG = "Cheng et al. 2021; Yim et al. 2017, eq. 1, 2"
_RKDAD_DEVIATION = (
    "of the paper only the abstract was read: layers (blocks 1 to 3, so two matrices of equal weight), image side, Adam, "
    "its rate and schedule are ours; maps by gradients are ours, too"
)

RECIPES: tuple[Recipe, ...] = (
    STFPM("stfpm", "a student of the teacher's shape learns the directions of its features", _WANG, _STFPM_CODE,
          "the best epoch is that of the lowest training loss on the split's validation part, a quarter of the normal "
          "images, where the code holds out a fifth and takes the lowest mean of their maps",
          early_stopping=EarlyStopping(patience=100)),
    STFPM("stfpm-brief", "STFPM on small images in small batches: enough steps in a schedule of minutes", _WANG,
          _STFPM_CODE, "128 pixels, not 256; batches of 4, not 32; nothing is held out, the last epoch is kept",
          side=128, batch_size=4, epochs=12),
    RKDAD("rkdad", "a student of the teacher's shape learns inner products of adjacent layers", _CHENG, "none known",
          _RKDAD_DEVIATION),
    RKDAD("rkdad-brief", "RKDAD on small images in small batches: enough steps in a schedule of minutes", _CHENG,
          "none known", f"{_RKDAD_DEVIATION}; 128 pixels, not 224; batches of 4, not 32", side=128, batch_size=4,
          epochs=12),
)  # fmt: skip
