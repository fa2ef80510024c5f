"""Every training configuration, one frozen dataclass each.

A recipe says how to train. Scoring is no part of it: every image score and metric comes from one trained model.
"Paper" is Masciulli 2022; "official code" is RD4AD's; the paper took OCBE, decoder and map generator from the
anomalib of June 2022, whose settings fill the gaps that the paper leaves (batch size, width of the OCE).
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from rkd_pipeline.errors import UnknownName

LossName = Literal["kd", "kd_flat", "mkd"]
Reduction = Literal["sum", "mean"]


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the loss on held-out normal pictures has not fallen for ``patience`` epochs; keep the best weights.

    The held-out part is the split's ``validation`` (25% of the normal training pictures, paper section 4.3).
    """

    patience: int = 15


@dataclass(frozen=True)
class Recipe:
    """How one model is trained.

    Attributes:
        name: key; what follows in the class is the paper's own configuration.
        summary: one sentence for people.
        source: which paper or code says so.
        teacher: torchvision architecture of the teacher (ImageNet-1k V1 weights unless a key names others).
        oce_width: ``narrow`` as anomalib builds it, ``wide`` as the official code does.
        side: picture side in pixels; PIL bilinear, no crop.
        loss: ``kd`` per position (eq. 1, 2), ``kd_flat`` (official code), ``mkd`` (eq. 4).
        val_reduction: over channels in L_val: ``sum`` as eq. 3 prints it, ``mean`` as the code of MKD has it.
        lambda_: of eq. 4; None balances its terms before the first step, as the paper describes.
        learning_rate, betas: of Adam, without weight decay or schedule.
        batch_size: pictures per step; the last, smaller batch of an epoch is kept.
        epochs: full schedule; a key may shorten it, and tables mark that.
        early_stopping: None trains on all normals and keeps the last epoch.
        sigma: of the Gaussian that smooths the map, in pixels.
    """

    name: str
    summary: str
    source: str
    teacher: str = "wide_resnet50_2"
    oce_width: Literal["wide", "narrow"] = "narrow"
    side: int = 224
    loss: LossName = "kd"
    val_reduction: Reduction = "sum"
    lambda_: float | None = None
    learning_rate: float = 0.005
    betas: tuple[float, float] = (0.5, 0.99)
    batch_size: int = 32
    epochs: int = 200
    early_stopping: EarlyStopping | None = None
    sigma: float = 4.0

    def settings(self) -> dict[str, Any]:
        """Everything that shapes the trained model or its scores, as plain values; part of provenance."""
        settings = asdict(self)
        for prose in ("summary", "source"):
            del settings[prose]
        settings["betas"] = list(self.betas)
        if self.lambda_ is None:
            del settings["lambda_"]  # trainings of before lambda could be fixed stay valid
        return settings


RECIPES = {
    r.name: r
    for r in (
        Recipe("rkd", "Reverse KD as the paper trained it", "paper, 4.1; anomalib of June 2022"),
        Recipe(
            "rkd-es",
            "with a validation part and early stopping",
            "paper, 4.3",
            early_stopping=EarlyStopping(),
        ),
        Recipe("rkd-mkd", "trained on L_MKD", "paper, 4.3 and eq. 3, 4", loss="mkd"),
        Recipe(
            "rkd-mkd-es",
            "trained on L_MKD with early stopping",
            "paper, 4.3 (which leaves open whether Table 4 used it)",
            loss="mkd",
            early_stopping=EarlyStopping(),
        ),
        Recipe(
            "rkd-mkd-mean",
            "trained on L_MKD with L_val averaged over channels",
            "paper, eq. 4; reduction as in the official code of MKD",
            loss="mkd",
            val_reduction="mean",
        ),
        Recipe(
            "rkd-official",
            "RD4AD's official configuration",
            "Deng and Li 2022, official code",
            oce_width="wide",
            side=256,
            loss="kd_flat",
            betas=(0.5, 0.999),
            batch_size=16,
        ),
    )
}


def recipe(name: str) -> Recipe:
    """The recipe of that name, or the variant that it spells (``variants.py``).

    Raises ``UnknownName`` with the list of known ones, or ``BadKey`` for a variant that does not exist.
    """
    if "+" in name:
        from rkd_pipeline.variants import variant  # which builds on this module

        return variant(name)
    try:
        return RECIPES[name]
    except KeyError:
        raise UnknownName("recipe", name, RECIPES) from None
