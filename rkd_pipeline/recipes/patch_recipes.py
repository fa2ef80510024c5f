"""Recipes of the systems that compare a frozen network's features, and learn in one pass: no epochs, no gradients."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rkd_pipeline.models.architectures import NETWORKS, TRANSFORMERS
from rkd_pipeline.recipes.recipe import SCORING, Recipe


@dataclass(frozen=True)
class PatchRecipe(Recipe):
    """What the systems have in common that describe patches (``detectors/patch_features.py``).

    Attributes:
        scales: of the teacher's features, from 0, the finest. A vision transformer's three are its blocks at a third,
            two thirds and the whole of its depth, all of one grid.
        blocks: of a vision transformer, from 1: these in place of ``scales``. None: ``scales``.
        joined: features of several scales or blocks stand side by side, or are averaged (where all have one length).
        neighbourhood: side of the square of positions over which features are averaged; 1 averages nothing.
        interpolation: how coarser scales are brought to the finest one's grid.
        top_share: of an image's patches: ``image_score`` is the mean distance of the farthest ones. 0: the system has
            a rule of its own, or no such score.
    """

    networks: ClassVar[tuple[str, ...]] = tuple(NETWORKS)
    score_rules: ClassVar[tuple[str, ...]] = ("map_max",)
    later: ClassVar[tuple[str, ...]] = (*Recipe.later, "blocks", "joined", "top_share")

    teacher: str = "resnet18"
    scales: tuple[int, ...] = (1, 2)
    neighbourhood: int = 1
    interpolation: Literal["nearest", "bilinear"] = "bilinear"
    blocks: tuple[int, ...] = field(default=(), kw_only=True)
    joined: Literal["side by side", "mean"] = field(default="side by side", kw_only=True)
    top_share: float = field(default=0.0, kw_only=True, metadata=SCORING)

    @property
    def taken(self) -> tuple[int, ...]:
        """Which of the teacher's outputs are taken, from 0: its scales, or all of the chosen blocks."""
        return tuple(range(len(self.blocks))) or self.scales


@dataclass(frozen=True)
class PaDiM(PatchRecipe):
    """PaDiM (Defard et al. 2021).

    Attributes:
        dimensions: how many of the features are kept, drawn by the seed.
        ridge: added to the diagonal of every covariance.
    """

    system: ClassVar[str] = "padim"
    title: ClassVar[str] = "PaDiM"

    scales: tuple[int, ...] = (0, 1, 2)
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    dimensions: int = 100
    ridge: float = 0.01


@dataclass(frozen=True)
class PatchCore(PatchRecipe):
    """PatchCore (Roth et al. 2022).

    Attributes:
        share: of the training patches that the memory bank keeps.
        projection: dimensions of the random projection in which patches are chosen.
        neighbours: of the nearest bank entry, that weigh the image's score.
        patches_at_most: from which the bank is chosen; of more, that many are drawn by the seed. None: from all.
        distance: ``cosine`` is 1 less the cosine, and the bank's patches have length 1.
    """

    system: ClassVar[str] = "patchcore"
    title: ClassVar[str] = "PatchCore"
    later: ClassVar[tuple[str, ...]] = (*PatchRecipe.later, "distance")
    score_rules: ClassVar[tuple[str, ...]] = ("image_score", "map_max")
    own_score: ClassVar[str] = "image_score"

    teacher: str = "wide_resnet50_2"
    neighbourhood: int = 3
    share: float = 0.1
    projection: int = 128
    neighbours: int = 9
    patches_at_most: int | None = 400_000
    distance: Literal["euclidean", "cosine"] = field(default="euclidean", kw_only=True)


@dataclass(frozen=True)
class AnomalyDINO(PatchCore):
    """AnomalyDINO (Damm et al. 2025): all normal patches' features of a vision transformer, compared by cosine."""

    title: ClassVar[str] = "AnomalyDINO"


@dataclass(frozen=True)
class SubspaceAD(PatchRecipe):
    """SubspaceAD (2026): distance from the principal subspace of normal patches.

    Attributes:
        explained: share of the variance that the subspace keeps.
        squared: the distance is the square of the length that the subspace leaves.
    """

    system: ClassVar[str] = "subspace"
    title: ClassVar[str] = "SubspaceAD"
    later: ClassVar[tuple[str, ...]] = (*PatchRecipe.later, "squared")

    neighbourhood: int = 3
    explained: float = 0.99
    squared: bool = field(default=False, kw_only=True, metadata=SCORING)


@dataclass(frozen=True)
class SubspaceDINO(SubspaceAD):
    """SubspaceAD as it is published: with a score of the image from its farthest patches, on chosen blocks."""

    networks: ClassVar[tuple[str, ...]] = tuple(TRANSFORMERS)
    score_rules: ClassVar[tuple[str, ...]] = ("image_score", "map_max")
    own_score: ClassVar[str] = "image_score"


@dataclass(frozen=True)
class OneGaussian(PatchRecipe):
    """The first stage of Deep-anomaly (Sabokrou et al. 2018): one Gaussian over all positions of a feature map.

    Attributes:
        ridge: added to the diagonal of the covariance, as a share of its mean.
    """

    system: ClassVar[str] = "one_gaussian"
    title: ClassVar[str] = "One Gaussian"

    scales: tuple[int, ...] = (1,)
    ridge: float = 0.001


@dataclass(frozen=True)
class FeatureDictionary(PatchRecipe):
    """The feature dictionary of Napoletano et al. (2018).

    Attributes:
        explained: share of the variance that PCA keeps.
        centres: of k-means: the dictionary.
        nearest: over how many of them the distance is averaged.
        patches_at_most: on which PCA and k-means run; of more, that many are drawn by the seed.
    """

    system: ClassVar[str] = "feature_dictionary"
    title: ClassVar[str] = "Feature dictionary"

    side: int = 128
    scales: tuple[int, ...] = (2,)
    explained: float = 0.95
    centres: int = 10
    nearest: int = 5
    patches_at_most: int = 50_000


@dataclass(frozen=True)
class DeepOneClass(Recipe):
    """A one-class classifier on a network's features of the whole image (Andrews et al. 2016, Burlina et al. 2019).

    Attributes:
        classifier: scikit-learn's one-class SVM, isolation forest, or local outlier factor.
    """

    system: ClassVar[str] = "deep_one_class"
    title: ClassVar[str] = "Deep features, one-class classifier"
    networks: ClassVar[tuple[str, ...]] = tuple(NETWORKS)
    localises: ClassVar[bool] = False
    score_rules: ClassVar[tuple[str, ...]] = ("image_score",)
    own_score: ClassVar[str] = "image_score"

    teacher: str = "vgg16"
    classifier: Literal["one_class_svm", "isolation_forest", "local_outlier_factor"] = "one_class_svm"


_PILLOW = "images resized as everywhere in this benchmark (Pillow, antialiased), and not cropped"
_CORNERS = f"{_PILLOW}; no other difference is known"
_SHOTS = "all training images, where the paper's main results are with 1 to 16 of them (add +shots=8)"
_SUBSPACE = (
    f"{_PILLOW}; the image's score is of the farthest 1% of patches, where the code takes pixels of the map; the map "
    "is smoothed by .8 pixels, which is what is left of the code's 4 when it is cut to 3 by 3 pixels"
)
_DEFARD = "Defard et al. 2021"
_ROTH = "Roth et al. 2022"
_MASCIULLI = "named in Masciulli 2022"

RECIPES: tuple[Recipe, ...] = (
    PaDiM("padim", "a Gaussian for every position", _DEFARD, "official code of PaDiM, ResNet-18",
          f"{_PILLOW}: 224 pixels, where the code crops 224 from 256"),
    PaDiM("padim-wide", "a Gaussian for every position, of Wide-ResNet-50-2", _DEFARD,
          "official code of PaDiM, WideResNet-50-2", f"{_PILLOW}: 224 pixels, where the code crops 224 from 256",
          teacher="wide_resnet50_2", dimensions=550),
    PaDiM("padim-brief", "PaDiM on small images", _DEFARD, "official code of PaDiM, ResNet-18",
          f"{_PILLOW}; 128 pixels, not 224", side=128),
    PatchCore("patchcore", "a bank of normal patches, and the nearest of them", _ROTH, "official code of PatchCore",
              f"{_PILLOW}: 224 pixels, where the code crops 224 from 256; features of both scales side by side, where "
              "the code averages each to 1,024 numbers; of more than 400,000 patches so many are drawn"),
    PatchCore("patchcore-brief", "PatchCore on small images", _ROTH, "official code of PatchCore",
              f"{_PILLOW}; 128 pixels, not 224; ResNet-18, not Wide-ResNet-50-2; features of both scales side by side, "
              "where the code averages each to 1,024 numbers", side=128, teacher="resnet18"),
    SubspaceAD("subspace", "distance from the principal subspace of normal patches", "SubspaceAD, CVPR 2026",
               "none used", "a ResNet's blocks 2 and 3 in place of DINOv2-g; images of one size, no rotated copies"),
    SubspaceAD("subspace-brief", "SubspaceAD on small images", "SubspaceAD, CVPR 2026", "none used",
               "a ResNet's blocks 2 and 3 in place of DINOv2-g; images of one size, no rotated copies; 128 pixels",
               side=128),
    AnomalyDINO("anomaly-dino", "the nearest of all normal patches by cosine, on DINOv2's features", "Damm et al. 2025",
                "official code of AnomalyDINO, ViT-S/14", f"{_SHOTS}; neither masks of the background nor rotated "
                "copies of training images, which the code has by default; images resized as everywhere in this "
                "benchmark (Pillow, bilinear) to a square of 448 pixels, where the code resizes the shorter edge "
                "(bicubic) and crops to whole patches; maps smoothed at 448 pixels, not at the image's own size",
                teacher="dinov2_vit_s14", side=448, scales=(2,), neighbourhood=1, share=1.0, patches_at_most=None,
                distance="cosine", top_share=0.01),
    SubspaceDINO("subspace-dino", "distance from the principal subspace of normal patches, on DINOv2's features",
                 "SubspaceAD, CVPR 2026", "official code of SubspaceAD, ViT-g/14 with registers, read in a copy",
                 f"{_SHOTS}, and those with 30 rotated copies; {_SUBSPACE}", teacher="dinov2_vit_g14_reg", side=672,
                 blocks=(23, 24, 25, 26, 27, 28, 29), joined="mean", neighbourhood=1, squared=True, top_share=0.01,
                 sigma=0.8),
    SubspaceDINO("subspace-dino-small", "subspace-dino with a ViT-S/14, on smaller images", "SubspaceAD, CVPR 2026",
                 "official code of SubspaceAD, read in a copy", "ViT-S/14 without registers, blocks 7 to 9 of 12, not "
                 f"23 to 29 of 40; 448 pixels, not 672; {_SHOTS}, and those with 30 rotated copies; {_SUBSPACE}",
                 teacher="dinov2_vit_s14", side=448, blocks=(7, 8, 9), joined="mean", neighbourhood=1, squared=True,
                 top_share=0.01, sigma=0.8),
    OneGaussian("one-gaussian", "one Gaussian for all positions", f"Sabokrou et al. 2018, {_MASCIULLI}",
                "none published", "first stage alone: the second, an autoencoder's Gaussian on doubtful regions, is "
                "left out; block 2 of a ResNet in place of AlexNet's second layer; single images in place of video"),
    OneGaussian("one-gaussian-brief", "one Gaussian for all positions, on small images",
                f"Sabokrou et al. 2018, {_MASCIULLI}", "none published",
                "first stage alone; block 2 of a ResNet in place of AlexNet's second layer; 128 pixels", side=128),
    FeatureDictionary("feature-dictionary", "distance to the nearest of ten normal patches",
                      f"Napoletano et al. 2018, {_MASCIULLI}", "none published",
                      "dense: the whole image at 128 pixels goes through the network, not patch by patch; block 3 of "
                      "ResNet-18, not its pooled last layer; k-means' centres in place of the patches next to them; no "
                      "limit on the distance is learnt from training images"),
    DeepOneClass("deep-ocsvm", "one-class SVM on VGG-16's features", f"Andrews et al. 2016, {_MASCIULLI}",
                 "none published", "the last max-pool, averaged over positions, standardised; scikit-learn's own "
                 "settings (RBF, gamma scale, nu .5), where the paper searched over them"),
    DeepOneClass("deep-isolation-forest", "isolation forest on VGG-16's features",
                 f"Burlina et al. 2019, {_MASCIULLI}", "none published",
                 "the last max-pool, averaged over positions, standardised; scikit-learn's own settings",
                 classifier="isolation_forest"),
    DeepOneClass("deep-lof", "local outlier factor on VGG-16's features", f"Burlina et al. 2019, {_MASCIULLI}",
                 "none published", "the last max-pool, averaged over positions, standardised; scikit-learn's own "
                 "settings", classifier="local_outlier_factor"),
)  # fmt: skip
