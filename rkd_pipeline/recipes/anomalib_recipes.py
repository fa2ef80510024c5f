"""Recipes of anomalib's image models, all trained and scored by one adapter (``detectors/anomalib_model.py``).

A recipe names a model and those of its arguments that differ from anomalib's own; everything else is this project's.
Recipes are listed, and keys of them read, without anomalib.
"""

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import ClassVar, Literal

from rkd_pipeline.recipes.recipe import SCORING, GradientRecipe, Recipe

Argument = bool | int | float | str | tuple[str, ...] | tuple[int, ...]
Arguments = tuple[tuple[str, Argument], ...]


def anomalib_is_installed() -> bool:
    """The optional extra is there, so that its models can be trained; nothing is imported to find out."""
    return find_spec("anomalib") is not None


@dataclass(frozen=True)
class AnomalibModel(Recipe):
    """A model of anomalib that learns in one pass: without gradients, from features that it keeps.

    Attributes:
        model: class in ``anomalib.models.image``.
        arguments: of that class, by name; its backbone is the teacher's architecture and needs none.
        backbone: where pretrained weights come from: the teacher, or, to look at shapes and cost alone, drawn by the
            seed; such a model is no method of anybody.
    """

    system: ClassVar[str] = "anomalib_model"
    title: ClassVar[str] = "anomalib"
    score_rules: ClassVar[tuple[str, ...]] = ("image_score", "map_max")
    own_score: ClassVar[str] = "image_score"

    side: int = 256
    sigma: float = field(default=0.0, metadata=SCORING)  # anomalib's models smooth their maps themselves
    model: str = ""
    arguments: Arguments = ()
    backbone: Literal["teacher", "drawn"] = "teacher"


@dataclass(frozen=True)
class AnomalibTrained(AnomalibModel, GradientRecipe):
    """A model of anomalib that learns by gradient steps, with the optimisers and schedules that it brings along.

    ``learning_rate`` and ``betas`` play no part: where a model lets them be chosen, they are among its arguments.
    """

    has_validation_loss: ClassVar[bool] = False
    later: ClassVar[tuple[str, ...]] = (*Recipe.later, "learning_rate", "betas")

    epochs: int = 100


_BOTH = ("resnet18", "wide_resnet50_2")  # the two that several models know by name


@dataclass(frozen=True)
class AnomalibPadim(AnomalibModel):
    """PaDiM (Defard et al. 2021)."""

    title: ClassVar[str] = "PaDiM (anomalib)"
    networks: ClassVar[tuple[str, ...]] = _BOTH

    teacher: str = "resnet18"
    model: str = "Padim"


@dataclass(frozen=True)
class AnomalibPatchcore(AnomalibModel):
    """PatchCore (Roth et al. 2022)."""

    title: ClassVar[str] = "PatchCore (anomalib)"

    model: str = "Patchcore"


@dataclass(frozen=True)
class AnomalibDfm(AnomalibModel):
    """Deep feature modelling (Ahuja et al. 2019)."""

    title: ClassVar[str] = "DFM (anomalib)"

    teacher: str = "resnet50"
    model: str = "Dfm"


@dataclass(frozen=True)
class AnomalibDfkde(AnomalibModel):
    """Kernel density of deep features: anomalib's own."""

    title: ClassVar[str] = "DFKDE (anomalib)"
    localises: ClassVar[bool] = False
    score_rules: ClassVar[tuple[str, ...]] = ("image_score",)

    teacher: str = "resnet18"
    model: str = "Dfkde"
    arguments: Arguments = (("layers", ("layer3",)),)


@dataclass(frozen=True)
class AnomalibStfpm(AnomalibTrained):
    """Student-teacher feature pyramid matching (Wang et al. 2021)."""

    title: ClassVar[str] = "STFPM (anomalib)"

    teacher: str = "resnet18"
    model: str = "Stfpm"


@dataclass(frozen=True)
class AnomalibReverseDistillation(AnomalibTrained):
    """Reverse distillation (Deng and Li 2022)."""

    title: ClassVar[str] = "Reverse Distillation (anomalib)"

    batch_size: int = 16
    epochs: int = 200
    model: str = "ReverseDistillation"


@dataclass(frozen=True)
class AnomalibCfa(AnomalibTrained):
    """Coupled-hypersphere feature adaptation (Lee et al. 2022)."""

    title: ClassVar[str] = "CFA (anomalib)"
    networks: ClassVar[tuple[str, ...]] = _BOTH

    batch_size: int = 4
    epochs: int = 30
    model: str = "Cfa"


@dataclass(frozen=True)
class AnomalibCflow(AnomalibTrained):
    """CFLOW-AD (Gudovskiy et al. 2022)."""

    title: ClassVar[str] = "CFLOW (anomalib)"

    epochs: int = 50
    model: str = "Cflow"
    arguments: Arguments = (("layers", ("layer2", "layer3")),)


@dataclass(frozen=True)
class AnomalibFastflow(AnomalibTrained):
    """FastFlow (Yu et al. 2021)."""

    title: ClassVar[str] = "FastFlow (anomalib)"
    networks: ClassVar[tuple[str, ...]] = _BOTH

    teacher: str = "resnet18"
    epochs: int = 500
    model: str = "Fastflow"


@dataclass(frozen=True)
class AnomalibUflow(AnomalibTrained):
    """U-Flow (Tailanian et al. 2024)."""

    title: ClassVar[str] = "U-Flow (anomalib)"
    networks: ClassVar[tuple[str, ...]] = _BOTH

    side: int = 448
    batch_size: int = 16
    epochs: int = 200
    model: str = "Uflow"


@dataclass(frozen=True)
class AnomalibSupersimplenet(AnomalibTrained):
    """SuperSimpleNet (Rolih et al. 2024)."""

    title: ClassVar[str] = "SuperSimpleNet (anomalib)"

    epochs: int = 300
    model: str = "Supersimplenet"


@dataclass(frozen=True)
class AnomalibGanomaly(AnomalibTrained):
    """GANomaly (Akcay et al. 2018)."""

    title: ClassVar[str] = "GANomaly (anomalib)"
    networks: ClassVar[tuple[str, ...]] = ()
    localises: ClassVar[bool] = False
    score_rules: ClassVar[tuple[str, ...]] = ("image_score",)

    teacher: str = "none"
    model: str = "Ganomaly"


# Models that are no systems here, and why; docs/systems.md says so of each.
UNFIT = {
    "AnomalyVFM": "it downloads a trained model; there is no training here to compare",
    "CFM": "it learns from point clouds beside images",
    "Draem": "it downloads a texture data set (DTD) when it is made",
    "Dsr": "it downloads a trained autoencoder when its training starts",
    "EfficientAd": "it downloads its teacher and ImageNette when its training starts",
    "SuperADD": "its backbone has 840 million parameters, and images must be at least as large as its patches of 448",
    "VlmAd": "it asks a language model",
    "WinClip": "it needs CLIP and the package open_clip, and learns nothing",
}

_CODE = "anomalib 2.7.0"
_IMAGES = (
    "images resized as everywhere in this benchmark (Pillow, antialiased), teacher's weights torchvision's, not timm's"
)
_SCHEDULE = f"{_IMAGES}; the last epoch is kept, never the best on test images"
_RECALLED = f"{_SCHEDULE}; length of the schedule and batch recalled, not re-read"
_DEFARD, _ROTH, _AHUJA, _WANG = "Defard et al. 2021", "Roth et al. 2022", "Ahuja et al. 2019", "Wang et al. 2021"
_DENG, _LEE, _GUDOVSKIY, _YU = "Deng and Li 2022", "Lee et al. 2022", "Gudovskiy et al. 2022", "Yu et al. 2021"
_TAILANIAN, _ROLIH, _AKCAY = "Tailanian et al. 2024", "Rolih et al. 2024", "Akcay et al. 2018"
_LAYERS = "layers 2 and 3, not 2 to 4: a teacher ends at layer 3"
_FIXED = (
    "a map is brought to its scale by the highest likelihood of training images, where the code takes that of the "
    "images scored with it: a score would depend on its batch"
)
_SMALL = "ResNet-18 and images of 128 pixels"

RECIPES: tuple[Recipe, ...] = (
    AnomalibPadim("anomalib-padim", "anomalib's PaDiM", _DEFARD, _CODE, _IMAGES),
    AnomalibPadim("anomalib-padim-brief", "anomalib's PaDiM on small images", _DEFARD, _CODE,
                  f"128 pixels, not 256; {_IMAGES}", side=128),
    AnomalibPatchcore("anomalib-patchcore", "anomalib's PatchCore", _ROTH, _CODE, _IMAGES),
    AnomalibPatchcore("anomalib-patchcore-brief", "anomalib's PatchCore on small images", _ROTH, _CODE,
                      f"{_SMALL}; {_IMAGES}", teacher="resnet18", side=128),
    AnomalibDfm("anomalib-dfm", "principal components of deep features, and the error of their reconstruction",
                _AHUJA, _CODE, _IMAGES),
    AnomalibDfm("anomalib-dfm-brief", "anomalib's DFM on small images", _AHUJA, _CODE, f"{_SMALL}; {_IMAGES}",
                teacher="resnet18", side=128),
    AnomalibDfkde("anomalib-dfkde", "kernel density of deep features; no maps", "none", _CODE,
                  f"layer 3, not 4: a teacher ends there; {_IMAGES}"),
    AnomalibDfkde("anomalib-dfkde-brief", "anomalib's DFKDE on small images", "none", _CODE,
                  f"layer 3, not 4: a teacher ends there; 128 pixels, not 256; {_IMAGES}", side=128),
    AnomalibStfpm("anomalib-stfpm", "anomalib's STFPM", _WANG, _CODE, _RECALLED),
    AnomalibStfpm("anomalib-stfpm-brief", "anomalib's STFPM on small images, for a schedule of minutes", _WANG, _CODE,
                  f"{_SMALL}; batches of 2 for 6 epochs; {_SCHEDULE}", side=128, batch_size=2, epochs=6),
    AnomalibReverseDistillation("anomalib-reverse-distillation", "anomalib's Reverse Distillation", _DENG, _CODE,
                                f"{_SCHEDULE}; length of the schedule recalled, not re-read"),
    AnomalibReverseDistillation("anomalib-reverse-distillation-brief",
                                "anomalib's Reverse Distillation on small images, for a schedule of minutes", _DENG,
                                _CODE, f"{_SMALL}; batches of 4 for 4 epochs; {_SCHEDULE}", teacher="resnet18",
                                side=128, batch_size=4, epochs=4),
    AnomalibCfa("anomalib-cfa", "anomalib's CFA", _LEE, _CODE, _RECALLED),
    AnomalibCfa("anomalib-cfa-brief", "anomalib's CFA on small images, for a schedule of minutes", _LEE, _CODE,
                f"{_SMALL}; 6 epochs; {_SCHEDULE}", teacher="resnet18", side=128, epochs=6),
    AnomalibCflow("anomalib-cflow", "anomalib's CFLOW", _GUDOVSKIY, _CODE, f"{_LAYERS}; {_FIXED}; {_RECALLED}"),
    AnomalibCflow("anomalib-cflow-brief", "anomalib's CFLOW on small images, for a schedule of minutes", _GUDOVSKIY,
                  _CODE, f"{_SMALL}; 2 blocks, not 8, at a learning rate of .001, not .0001, "
                  f"4 epochs; {_LAYERS}; {_FIXED}; {_SCHEDULE}", teacher="resnet18", side=128, batch_size=8, epochs=4,
                  arguments=(("layers", ("layer2", "layer3")), ("coupling_blocks", 2),
                             ("lr", 0.001))),
    AnomalibFastflow("anomalib-fastflow", "anomalib's FastFlow", _YU, _CODE, _RECALLED),
    AnomalibFastflow("anomalib-fastflow-brief", "anomalib's FastFlow on small images, for a schedule of minutes", _YU,
                     _CODE, f"{_SMALL}; 4 steps of flow, not 8; batches of 8 for 12 epochs; {_SCHEDULE}", side=128,
                     batch_size=8, epochs=12, arguments=(("flow_steps", 4),)),
    AnomalibUflow("anomalib-uflow", "anomalib's U-Flow, with a Wide-ResNet-50-2", _TAILANIAN, _CODE,
                  f"Wide-ResNet-50-2, not two CaiT; {_RECALLED}"),
    AnomalibUflow("anomalib-uflow-brief", "anomalib's U-Flow on small images, for a schedule of minutes", _TAILANIAN,
                  _CODE, f"{_SMALL}, not two CaiT at 448; 2 steps of flow, not 4; batches of 8 for 12 epochs; "
                  f"{_SCHEDULE}", teacher="resnet18", side=128, batch_size=8, epochs=12,
                  arguments=(("flow_steps", 2),)),
    AnomalibSupersimplenet("anomalib-supersimplenet", "anomalib's SuperSimpleNet", _ROLIH, _CODE, _SCHEDULE),
    AnomalibSupersimplenet("anomalib-supersimplenet-brief",
                           "anomalib's SuperSimpleNet on small images, for a schedule of minutes", _ROLIH, _CODE,
                           f"{_SMALL}; layer 2, not 2 and 3; batches of 2 for 6 epochs, not 32 for 300; {_SCHEDULE}",
                           teacher="resnet18", side=128, batch_size=2, epochs=6, arguments=(("layers", ("layer2",)),)),
    AnomalibGanomaly("anomalib-ganomaly", "anomalib's GANomaly; no teacher, no maps", _AKCAY, _CODE,
                     "images resized as everywhere in this benchmark (Pillow, antialiased); the last epoch is kept, "
                     "never the best on test images; length of the schedule recalled, not re-read"),
    AnomalibGanomaly("anomalib-ganomaly-brief", "anomalib's GANomaly on tiny images, for a schedule of minutes",
                     _AKCAY, _CODE, "64 pixels, not 256; 16 channels at first, not 64; batches of 8 for 20 epochs; "
                     "images resized as everywhere in this benchmark (Pillow, antialiased)", side=64, batch_size=8,
                     epochs=20, arguments=(("n_features", 16),)),
)  # fmt: skip
