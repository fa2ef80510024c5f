"""Recipes of the systems that learn to rebuild normal images, and score what they cannot rebuild; without a teacher."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rkd_pipeline.recipes.recipe import SCORING, GradientRecipe, Recipe


@dataclass(frozen=True)
class ReconstructionRecipe(GradientRecipe):
    """What these systems have in common: everything they know is learnt from the normal images."""

    networks: ClassVar[tuple[str, ...]] = ()

    teacher: str = "none"
    betas: tuple[float, float] = (0.9, 0.999)
    sigma: float = field(default=0.0, metadata=SCORING)


@dataclass(frozen=True)
class Autoencoder(ReconstructionRecipe):
    """The autoencoders of Bergmann et al. (2018).

    Attributes:
        compare: image and reconstruction, in the loss and in the map: ``ssim`` (1 - SSIM) or ``l2`` (squared
            difference).
        patch: side of the squares that are rebuilt, a multiple of 16; ``side`` itself rebuilds whole images.
        crops: random squares of each image in an epoch.
        stride: between the squares that cover an image in scoring, whose maps are averaged; divides what ``side``
            exceeds ``patch`` by.
        latent: length of the code.
        width: channels of the first layer; others have up to four times as many.
    """

    system: ClassVar[str] = "autoencoder"
    title: ClassVar[str] = "Autoencoder"
    has_validation_loss: ClassVar[bool] = False
    score_rules: ClassVar[tuple[str, ...]] = ("map_max",)
    weight_decay: ClassVar[float] = 1e-5

    side: int = 256
    learning_rate: float = 0.0002
    batch_size: int = 4
    compare: Literal["ssim", "l2"] = "ssim"
    patch: int = 128
    crops: int = 32
    stride: int = field(default=32, metadata=SCORING)
    latent: int = 100
    width: int = 32


@dataclass(frozen=True)
class LatentSpaceAutoregression(ReconstructionRecipe):
    """Latent space autoregression (Abati et al. 2019).

    Attributes:
        width: channels of the first layer; others have up to eight times as many.
        code_length: entries of the code.
        bins: into which an entry of the code falls.
        density: channels, for each entry, of the masked layers that predict its bin.
        lambda_: weighs the surprise against the error.
    """

    system: ClassVar[str] = "lsa"
    title: ClassVar[str] = "Latent space autoregression"
    score_rules: ClassVar[tuple[str, ...]] = ("image_score",)
    own_score: ClassVar[str] = "image_score"
    localises: ClassVar[bool] = False
    needs_validation: ClassVar[bool] = True

    side: int = 64
    learning_rate: float = 0.001
    batch_size: int = 64
    width: int = 32
    code_length: int = 64
    bins: int = 100
    density: tuple[int, ...] = (32, 32, 32, 32)
    lambda_: float = 1.0


@dataclass(frozen=True)
class FAnoGAN(ReconstructionRecipe):
    """f-AnoGAN (Schlegl et al. 2019); with a search, its training scored as AnoGAN (Schlegl et al. 2017).

    Attributes:
        learning_rate, betas: of the GAN's two optimisers.
        width: channels of the discriminator's first layer; others have up to eight times as many.
        latent: length of the code.
        critic_steps: of the discriminator for one of the generator.
        penalty: weighs the gradient penalty.
        gan_share: of all steps that train the GAN; the others train the encoder.
        encoder_rate: learning rate of the encoder.
        kappa: weighs the discriminator's features in the encoder's loss and in the score.
        search_steps: on the code of each image in scoring; 0 asks the encoder.
        search_rate: learning rate of the search.
        search_weight: of the discriminator's features in AnoGAN's score; the pixels have the rest.
    """

    system: ClassVar[str] = "f_anogan"
    title: ClassVar[str] = "f-AnoGAN"
    has_validation_loss: ClassVar[bool] = False
    score_rules: ClassVar[tuple[str, ...]] = ("image_score", "map_max")
    own_score: ClassVar[str] = "image_score"

    side: int = 64
    learning_rate: float = 0.0001
    betas: tuple[float, float] = (0.0, 0.9)
    batch_size: int = 64
    epochs: int = 4000
    width: int = 64
    latent: int = 128
    critic_steps: int = 5
    penalty: float = 10.0
    gan_share: float = 0.5
    encoder_rate: float = 0.00005
    kappa: float = 1.0
    search_steps: int = field(default=0, metadata=SCORING)
    search_rate: float = field(default=0.01, metadata=SCORING)
    search_weight: float = field(default=0.1, metadata=SCORING)


_BERGMANN = "Bergmann et al. 2018"
_NONE = "none published"
_AUTOENCODER = (
    "layers as other people's code has them; optimiser, schedule, patches and latent size recalled, not re-read; SSIM "
    "over a window of equal weights, clipped at borders; nothing rotated or mirrored"
)
_PATCHES = (
    f"images of 256 pixels; fresh random patches in every epoch, about 10,000 of a set of 280 images, where the paper "
    f"cuts 10,000 once; in scoring, patches 32 pixels apart, not 30, so that they reach the border; {_AUTOENCODER}"
)
_WHOLE = f"whole images of 128 pixels, not patches; {_AUTOENCODER}"
_BRIEF = f"half the width, batches of 2, learning rate .001; {_WHOLE}"
_LSA_CODE = "official code of LSA (aimagelab/novelty-detection), CIFAR-10"
_LSA = (
    "images of 64 pixels, not 32; the official code trains nothing: optimiser, batches and epochs are ours, lambda its "
    "default; normalised on the split's validation part; no maps, as published"
)
_ABATI = "Abati et al. 2019"
_SCHLEGL = "Schlegl et al. 2019"
_GAN_CODE = "official code of f-AnoGAN"
_GAN = (
    "whole images of 64 pixels, not patches; half of the steps train the GAN and half the encoder, about 10,000 each "
    "for a set of 280 images, where the code has 7 epochs of its far larger set and 50,000 steps"
)
_SEARCH = (
    "the GAN of f-AnoGAN in place of a DCGAN; the search's rate is ours, its 500 steps and weights recalled, not "
    "re-read; every search begins at the same code"
)
_NARROW = "an eighth of the width; batches of 4, rates of .001, two steps of the discriminator for one of the generator"

RECIPES: tuple[Recipe, ...] = (
    Autoencoder("ssim-ae", "an autoencoder of patches, compared by structural similarity", _BERGMANN, _NONE, _PATCHES),
    Autoencoder("l2-ae", "an autoencoder of patches, compared by squared difference", _BERGMANN, _NONE, _PATCHES,
                compare="l2"),
    Autoencoder("ssim-ae-whole", "an autoencoder of whole images, compared by structural similarity", _BERGMANN, _NONE,
                _WHOLE, side=128, crops=1, batch_size=32),
    Autoencoder("l2-ae-whole", "an autoencoder of whole images, compared by squared difference", _BERGMANN, _NONE,
                _WHOLE, side=128, crops=1, batch_size=32, compare="l2"),
    Autoencoder("ssim-ae-brief", "ssim-ae-whole with a narrow network, in small batches", _BERGMANN, _NONE, _BRIEF,
                side=128, crops=1, batch_size=2, width=16, learning_rate=0.001, epochs=24),
    Autoencoder("l2-ae-brief", "l2-ae-whole with a narrow network, in small batches", _BERGMANN, _NONE, _BRIEF,
                side=128, crops=1, batch_size=2, width=16, learning_rate=0.001, epochs=24, compare="l2"),
    LatentSpaceAutoregression("lsa", "an autoencoder, and the density of its code", _ABATI, _LSA_CODE, _LSA),
    LatentSpaceAutoregression("lsa-brief", "lsa with a narrow network, in small batches", _ABATI, _LSA_CODE,
                              f"{_LSA}; a quarter of the width, codes of 32 entries, a narrower density; batches of 4",
                              width=8, code_length=32, density=(16, 16), batch_size=4, epochs=15),
    FAnoGAN("f-anogan", "a GAN of normal images, and an encoder to its codes", _SCHLEGL, _GAN_CODE, _GAN),
    FAnoGAN("anogan", "f-anogan's GAN, its codes found by gradient steps, not by the encoder", "Schlegl et al. 2017",
            "none published", f"{_SEARCH}; {_GAN}", search_steps=500),
    FAnoGAN("f-anogan-brief", "f-anogan with narrow networks, in small batches", _SCHLEGL, _GAN_CODE,
            f"{_NARROW}; whole images of 64 pixels, not patches; half of the steps train the encoder", width=8,
            batch_size=4, learning_rate=0.001, encoder_rate=0.001, critic_steps=2, epochs=16),
    FAnoGAN("anogan-brief", "f-anogan-brief, its codes found by gradient steps", "Schlegl et al. 2017",
            "none published", f"{_SEARCH}; 200 steps, rate .05; {_NARROW}; whole images of 64 pixels, not patches",
            width=8, batch_size=4, learning_rate=0.001, encoder_rate=0.001, critic_steps=2, epochs=16,
            search_steps=200, search_rate=0.05),
)  # fmt: skip
