"""Recipes of the systems that compare a frozen network's features, and learn in one pass: no epochs, no gradients."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from rkd_pipeline.models.architectures import NETWORKS
from rkd_pipeline.recipes.recipe import Recipe


@dataclass(frozen=True)
class PatchRecipe(Recipe):
    """What the systems have in common that describe patches (``detectors/patch_features.py``).

    Attributes:
        scales: of the teacher's features, from 0, the finest; their features stand side by side.
        neighbourhood: side of the square of positions over which features are averaged; 1 averages nothing.
        interpolation: how coarser scales are brought to the finest one's grid.
    """

    networks: ClassVar[tuple[str, ...]] = tuple(NETWORKS)
    score_rules: ClassVar[tuple[str, ...]] = ("map_max",)

    teacher: str = "resnet18"
    scales: tuple[int, ...] = (1, 2)
    neighbourhood: int = 1
    interpolation: Literal["nearest", "bilinear"] = "bilinear"


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
        patches_at_most: from which the bank is chosen; of more, that many are drawn by the seed.
    """

    system: ClassVar[str] = "patchcore"
    title: ClassVar[str] = "PatchCore"
    score_rules: ClassVar[tuple[str, ...]] = ("image_score", "map_max")
    own_score: ClassVar[str] = "image_score"

    teacher: str = "wide_resnet50_2"
    neighbourhood: int = 3
    share: float = 0.1
    projection: int = 128
    neighbours: int = 9
    patches_at_most: int = 400_000


@dataclass(frozen=True)
class SubspaceAD(PatchRecipe):
    """SubspaceAD (2026): distance from the principal subspace of normal patches.

    Attributes:
        explained: share of the variance that the subspace keeps.
    """

    system: ClassVar[str] = "subspace"
    title: ClassVar[str] = "SubspaceAD"

    neighbourhood: int = 3
    explained: float = 0.99


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
