"""What a training configuration is, one frozen dataclass each: a class per system, an instance per recipe.

A recipe says how to train and, in a few fields marked as scoring, how to make the anomaly map. Recipes that differ
only in those share one training: ``trained_as`` finds it. Every image score and metric comes from one trained model.

Each recipe says which paper it stands for, which code, and where it deviates from them: ``docs/systems.md`` and the
report print that for every row. "Paper" alone is Masciulli 2022; RD4AD is the official code of Deng and Li 2022. The
paper took OCBE, decoder and map generator from the anomalib of June 2022, whose settings fill the gaps that the paper
leaves (batch size, width of the OCE).

Here are the paper's own three systems; ``related_work.py`` has those that the paper names, ``field_systems.py`` those
that the field uses today. To add a system: a class in one of these, and a module of the same name in ``detectors/``.
"""

from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Literal

from rkd_pipeline.models.architectures import ARCHITECTURES, CONVOLUTIONAL

LossName = Literal["kd", "kd_flat", "mkd"]
Reduction = Literal["sum", "mean"]
Schedule = Literal["constant", "cosine"]
Fusion = Literal["sum", "product"]
Localisation = Literal["guided", "gradient", "smoothgrad", "discrepancy"]
_PROSE = ("summary", "paper", "code", "deviation")
PAPERS_SYSTEMS = ("reverse_kd", "mkd", "uninformed_students")  # that the paper's tables compare
SCORING = {"scoring": True}  # metadata of a field that acts in scoring alone


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the loss on held-out normal images has not fallen for ``patience`` epochs; keep the best weights.

    The held-out part is the split's ``validation`` (25% of the normal training images, paper section 4.3).
    """

    patience: int = 15


@dataclass(frozen=True)
class Recipe:
    """How one model is trained; what follows in this class is common to all systems.

    Attributes:
        name: key.
        summary: one sentence for people.
        paper: whose numbers this recipe can be set beside.
        code: the code whose settings it has.
        deviation: where it differs from both; never empty, "none known" where that is so.
        teacher: architecture of the teacher, with torchvision's ImageNet-1k V1 weights unless a key names others (a
            vision transformer's key has to), or ``none`` for a system without one.
        side: image side in pixels; PIL bilinear, no crop.
        epochs: full schedule; a key may shorten it, and tables mark that. None: the system learns in one pass.
        early_stopping: None keeps the last epoch.
        sigma: of the Gaussian that smooths the map, in pixels; 0 leaves it as it is.
        calibrates: the split's ``calibration`` part is held out and sets thresholds, where the target has enough
            normal images for one; without, there is no threshold.
        shots: how many of the training images are used, drawn by the seed; None: all.
    """

    system: ClassVar[str]  # the module in detectors/
    title: ClassVar[str]  # for people, and the name in the benchmark
    score_rules: ClassVar[tuple[str, ...]]  # image scores (score_rules.py) that the system gives
    own_score: ClassVar[str] = "map_max"  # the one that its authors use: what the leaderboard ranks by
    networks: ClassVar[tuple[str, ...]] = tuple(ARCHITECTURES)  # its teachers' architectures; none: without a teacher
    localises: ClassVar[bool] = True  # it gives anomaly maps
    needs_validation: ClassVar[bool] = False  # held-out normals, whether or not training stops early
    # Fields that came later: left out of settings at their first value, so that earlier trainings stay valid.
    later: ClassVar[tuple[str, ...]] = ("calibrates", "shots")

    name: str
    summary: str
    paper: str
    code: str
    deviation: str
    teacher: str = "wide_resnet50_2"
    side: int = 224
    epochs: int | None = None
    early_stopping: EarlyStopping | None = None
    sigma: float = field(default=4.0, metadata=SCORING)
    calibrates: bool = field(default=False, kw_only=True)
    shots: int | None = field(default=None, kw_only=True)

    @property
    def held_out(self) -> bool:
        """Training sets the split's validation part aside, to stop by it or to normalise scores."""
        return self.needs_validation or self.early_stopping is not None

    @property
    def training_parts(self) -> tuple[str, ...]:
        """The parts of the split that the student learns from: all normal ones that are not held out."""
        spare = {"validation": not self.held_out, "calibration": not self.calibrates}
        return ("train", *(part for part, free in spare.items() if free))

    @property
    def scored_parts(self) -> tuple[str, ...]:
        """The parts that a trained model scores: what sets thresholds, and what tests. Never what stopped it."""
        return ("calibration", "test") if self.calibrates else ("test",)

    def settings(self) -> dict[str, Any]:
        """Everything that shapes the trained model or its scores, as plain values; part of provenance."""
        return dict(_settings(self))

    def training_settings(self) -> dict[str, Any]:
        """What shapes the trained model alone, without the name: equal for recipes that share a training."""
        scoring = {f.name for f in fields(self) if _is_scoring(f)}
        settings = {k: v for k, v in self.settings().items() if k not in scoring | {"name"}}
        return settings | {"system": self.system}


@cache  # a look at a store asks thousands of times for those of a few recipes
def _settings(recipe: Recipe) -> Mapping[str, Any]:
    # As JSON gives them back: provenance is compared with them.
    settings = {k: _without_tuples(v) for k, v in asdict(recipe).items() if k not in _PROSE}
    for f in fields(recipe):
        if f.name in recipe.later and getattr(recipe, f.name) == f.default:
            del settings[f.name]
    return settings


def _without_tuples(value: Any) -> Any:
    return [_without_tuples(v) for v in value] if isinstance(value, tuple) else value


def _is_scoring(f: "Field[Any]") -> bool:
    return bool(f.metadata.get("scoring"))


@dataclass(frozen=True)
class GradientRecipe(Recipe):
    """A recipe of a system that learns by gradient steps, epoch by epoch.

    Attributes:
        learning_rate, betas, weight_decay: of Adam.
        batch_size: images per step; the last, smaller batch of an epoch is kept.
    """

    weight_decay: ClassVar[float] = 0.0
    has_validation_loss: ClassVar[bool] = True  # its held-out images have a loss that training can stop by

    epochs: int = 200
    learning_rate: float = 0.005
    betas: tuple[float, float] = (0.5, 0.99)
    batch_size: int = 32


@dataclass(frozen=True)
class ReverseKD(GradientRecipe):
    """Reverse KD (Deng and Li 2022), the paper's own subject; the defaults are the paper's configuration.

    Attributes:
        oce_width: whose one-class embedding: ``narrow`` as anomalib builds it, ``wide`` as the official code does. With
            ResNet-34 as a teacher anomalib's has two blocks, not three.
        loss: ``kd`` per position (eq. 1, 2), ``kd_flat`` (official code), ``mkd`` (eq. 4).
        val_reduction: over channels in L_val: ``sum`` as eq. 3 prints it, ``mean`` as the code of MKD has it.
        lambda_: of eq. 4; None balances its terms before the first step, as the paper describes.
        fusion: of the scales' maps; ``product`` as in the anomalib of June 2022.
        schedule: of the learning rate over the epochs: ``constant`` as in both sources, or ``cosine``
            (``training/rate_schedule.py``).
    """

    system: ClassVar[str] = "reverse_kd"
    title: ClassVar[str] = "Reverse KD"
    score_rules: ClassVar[tuple[str, ...]] = ("map_max", "l_kd", "l_val", "l_mkd")
    later: ClassVar[tuple[str, ...]] = (*Recipe.later, "fusion", "lambda_", "schedule")

    oce_width: Literal["wide", "narrow"] = "narrow"
    loss: LossName = "kd"
    val_reduction: Reduction = "sum"
    lambda_: float | None = None
    fusion: Fusion = field(default="sum", metadata=SCORING)
    schedule: Schedule = "constant"


@dataclass(frozen=True)
class MultiresolutionKD(GradientRecipe):
    """Multiresolution KD (Salehi et al. 2021); the defaults are its official code's for MVTec AD.

    Attributes:
        cloner: ``small`` (the code's configuration B) or ``equal``, with the source's own widths (A).
        weighted: the term that lambda multiplies: ``value`` in the code, ``direction`` in the papers' equation.
        lambda_: that weight.
        normalise: ImageNet's mean and deviation taken out of images; the code does not.
        localisation: map by guided backpropagation through the cloner, by the plain gradient, by SmoothGrad, or, which
            is not the authors', by the discrepancy of source and cloner at each position, as Reverse KD makes it.
        own_range: each map by gradients is brought to [0, 1] by itself, as in the code: none compares with another.
    """

    system: ClassVar[str] = "mkd"
    title: ClassVar[str] = "Multiresolution KD"
    score_rules: ClassVar[tuple[str, ...]] = ("loss", "map_max")
    own_score: ClassVar[str] = "loss"
    networks: ClassVar[tuple[str, ...]] = tuple(CONVOLUTIONAL)

    teacher: str = "vgg16"
    side: int = 128
    learning_rate: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    batch_size: int = 64
    epochs: int = 602
    cloner: Literal["small", "equal"] = "small"
    weighted: Literal["value", "direction"] = "value"
    lambda_: float = 0.5
    normalise: bool = False
    localisation: Localisation = field(default="guided", metadata=SCORING)
    own_range: bool = field(default=True, metadata=SCORING)


@dataclass(frozen=True)
class UninformedStudents(GradientRecipe):
    """Uninformed Students (Bergmann et al. 2020).

    Attributes:
        receptive_fields: sides of the patches, one scale each.
        students: per scale.
        width: channels of the first layers; the middle ones have twice as many.
        descriptor: length of a patch's descriptor.
        patches: drawn per image, scale and epoch; 1 estimates the dense loss without bias.
        window: side of the random window of each image in which students train on every pixel, a multiple of 8 that
            divides ``side``; 0 trains on patches.
        descriptor_pictures, descriptor_steps, descriptor_batch: the images by formula on which the descriptor
            networks are distilled from the teacher, and for how long.
    """

    system: ClassVar[str] = "uninformed_students"
    title: ClassVar[str] = "Uninformed Students"
    score_rules: ClassVar[tuple[str, ...]] = ("map_max",)
    needs_validation: ClassVar[bool] = True
    weight_decay: ClassVar[float] = 1e-5
    later: ClassVar[tuple[str, ...]] = (*Recipe.later, "window")

    teacher: str = "resnet18"
    side: int = 256
    learning_rate: float = 0.0001
    betas: tuple[float, float] = (0.9, 0.999)
    batch_size: int = 8
    epochs: int = 100
    sigma: float = field(default=0.0, metadata=SCORING)
    receptive_fields: tuple[int, ...] = (17, 33, 65)
    students: int = 3
    width: int = 128
    descriptor: int = 128
    patches: int = 64
    window: int = 0
    descriptor_pictures: int = 2048
    descriptor_steps: int = 50_000
    descriptor_batch: int = 64


def deviations_of(wanted: Recipe, teacher: str) -> str:
    """What to say about a row of a recipe with a teacher: the recipe's deviation, and another source."""
    if teacher == wanted.teacher:
        return wanted.deviation
    arch, _, weights = teacher.partition(".")
    other = (
        f"weights {weights} in place of its own"
        if arch == wanted.teacher
        else f"{teacher} in place of {wanted.teacher}"
    )
    return f"{other}; {wanted.deviation}"
