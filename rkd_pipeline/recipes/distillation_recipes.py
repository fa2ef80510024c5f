"""Recipes of the relatives of Reverse KD: other systems in which a student learns a frozen teacher's features."""

from dataclasses import dataclass, field
from typing import ClassVar

from rkd_pipeline.models.architectures import OceWidth
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


@dataclass(frozen=True)
class RDPlusPlus(GradientRecipe):
    """RD++ (Tien et al. 2023); the defaults are its official code's, but for the term of optimal transport.

    Attributes:
        oce_width: as Reverse KD's.
        projection_rate: learning rate of the projections; ``learning_rate`` is that of embedding and decoder.
        projection_weight: of the loss that teaches the projections.
        transport: weight of optimal transport in it; 0 leaves it out.
        noise: amplitude of pseudo-anomalies, of an image in [0, 1].
    """

    system: ClassVar[str] = "rdpp"
    title: ClassVar[str] = "RD++"
    score_rules: ClassVar[tuple[str, ...]] = ("map_max",)

    side: int = 256
    betas: tuple[float, float] = (0.5, 0.999)
    batch_size: int = 16
    oce_width: OceWidth = "wide"
    projection_rate: float = 0.001
    projection_weight: float = 0.2
    transport: float = 1.0
    noise: float = 0.2


@dataclass(frozen=True)
class ReContrast(GradientRecipe):
    """ReContrast (Guo et al. 2023), from the paper as it is recalled, not from its code.

    Attributes:
        oce_width: as Reverse KD's.
        encoder_rate: learning rate of the encoder; ``learning_rate`` is that of embedding and decoder.
        mining: how many deviations above the mean a position's discrepancy must be to teach, at first and at last.
        mining_grows: in which share of the training it goes from the first to the last.
        drop_at, drop: share of the training after which learning rates are multiplied by ``drop``.
        renews_statistics: BatchNorm of the learning encoder uses the batches' statistics, not its pretraining's.
    """

    system: ClassVar[str] = "recontrast"
    title: ClassVar[str] = "ReContrast"
    score_rules: ClassVar[tuple[str, ...]] = ("map_max",)
    weight_decay: ClassVar[float] = 1e-5

    side: int = 256
    learning_rate: float = 0.002
    betas: tuple[float, float] = (0.9, 0.999)
    batch_size: int = 16
    epochs: int = 130
    oce_width: OceWidth = "wide"
    encoder_rate: float = 1e-5
    mining: tuple[float, float] = (-3.0, 1.0)
    mining_grows: float = 0.1
    drop_at: float = 0.8
    drop: float = 0.2
    renews_statistics: bool = True


_WANG = "Wang et al. 2021"
_STFPM_CODE = "official code of STFPM"
_CHENG = "Cheng et al. 2021; Yim et al. 2017, eq. 1, 2"
_RKDAD_DEVIATION = (
    "of the paper only the abstract was read: layers (blocks 1 to 3, so two matrices of equal weight), image side, "
    "Adam, its rate and schedule are ours; maps by gradients are ours, too"
)
_TIEN = "Tien et al. 2023"
_RDPP_CODE = "official code of RD++"
_RDPP_DEVIATION = (
    "value noise of the same octaves in place of simplex noise; 200 epochs and the last one kept, where the code sets "
    "10 to 300 by category and keeps the best on the test images; every batch is a step, where the code computes the "
    "gradients of every other batch and throws them away; images resized by Pillow, antialiased, where the code's "
    "OpenCV does not smooth"
)
_TRANSPORT = (
    "optimal transport between the positions of an image and of another, on a grid of 8 by 8, by 1 - cosine: the "
    "code's own term compares a batch with itself in another order, and is zero"
)
_GUO = "Guo et al. 2023"
_RECONTRAST_DEVIATION = (
    "recalled, not re-read, and never compared with the authors' code, which has no licence: AdamW and its settings, "
    "the drop of the learning rate by .2 after four fifths, the growth of mining in the first tenth, size and number "
    "of batches; 130 epochs are the 2,000 steps of 246 images; one decoder without heads of its own for either "
    "encoder; the encoder's BatchNorm uses the batches' statistics for every target, where the authors choose by "
    "category"
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
    RDPlusPlus("rdpp", "Reverse KD from projected features, taught with pseudo-anomalies and optimal transport", _TIEN,
               f"{_RDPP_CODE}, but for optimal transport", f"{_TRANSPORT}; {_RDPP_DEVIATION}"),
    RDPlusPlus("rdpp-code", "RD++ without optimal transport, which its code computes as zero", _TIEN, _RDPP_CODE,
               _RDPP_DEVIATION, transport=0.0),
    RDPlusPlus("rdpp-brief", "RD++ on small images in small batches: enough steps in a schedule of minutes", _TIEN,
               f"{_RDPP_CODE}, but for optimal transport", f"192 pixels, not 256; batches of 2, not 16, at a learning "
               f"rate of .002, not .005; 5 epochs; {_TRANSPORT}; {_RDPP_DEVIATION}", side=192, batch_size=2,
               learning_rate=0.002, epochs=5),
    ReContrast("recontrast", "encoder and decoder learn together, against a frozen encoder", _GUO,
               "none: written from the paper", _RECONTRAST_DEVIATION),
    ReContrast("recontrast-brief", "ReContrast on small images in small batches: enough steps in a schedule of minutes",
               _GUO, "none: written from the paper", "128 pixels, not 256; batches of 2, not 16; 6 epochs; the "
               "encoder's BatchNorm keeps its statistics, since batches are too small for new ones; "
               f"{_RECONTRAST_DEVIATION}", side=128, batch_size=2, epochs=6, renews_statistics=False),
)  # fmt: skip
