"""The recipes that have names: which paper each stands for, which code, and where it deviates from them."""

from rkd_pipeline.recipes import anomalib_recipes, distillation_recipes, patch_recipes, reconstruction_recipes
from rkd_pipeline.recipes.recipe import EarlyStopping, MultiresolutionKD, Recipe, ReverseKD, UninformedStudents

_MASCIULLI = "Masciulli 2022"
_DENG = "Deng and Li 2022"
_SALEHI = "Salehi et al. 2021"
_BERGMANN = "Bergmann et al. 2020"
_ANOMALIB_2022 = "anomalib of June 2022"
_MKD_CODE = "official code of Multiresolution KD"
_BORDERS = "the map's blur repeats the outermost pixel at borders, as RD4AD's does and anomalib's does not"
_GAPS = (
    "batch size and width of the OCE, which the paper leaves open, are anomalib's; maps are added, where that anomalib "
    f"multiplied them; {_BORDERS}"
)
_CALIBRATES = "a quarter of the normal images is held out to calibrate thresholds, and nothing else"
_MKD_DEVIATION = (
    "metrics without the code's morphological opening, and over normal images too; held at the last epoch, where the "
    "code picks a checkpoint by hand"
)
_US_DEVIATION = (
    "descriptors distilled on images by formula, not ImageNet, from the teacher's block 3, not its last layer; "
    "kernel sizes are ours, chosen so that receptive fields are exactly 17, 33 and 65; students train on random "
    "patches, not densely; errors and variances normalised on the split's validation part, thresholds set by its "
    "calibration part"
)

RECIPES: dict[str, Recipe] = {
    r.name: r
    for r in (
        ReverseKD("rkd", "Reverse KD as the paper trained it", f"{_MASCIULLI}, 4.1", _ANOMALIB_2022,
                  _GAPS),
        ReverseKD(
            "rkd-es",
            "with a validation part and early stopping",
            f"{_MASCIULLI}, 4.3",
            _ANOMALIB_2022,
            _GAPS,
            early_stopping=EarlyStopping(),
        ),
        ReverseKD("rkd-cal", "as the paper trained it, with thresholds calibrated on normals of their own",
                  f"{_MASCIULLI}, 4.1", _ANOMALIB_2022, f"{_CALIBRATES}; {_GAPS}", calibrates=True),
        ReverseKD("rkd-es-cal", "with early stopping, and thresholds calibrated on normals of their own",
                  f"{_MASCIULLI}, 4.3", _ANOMALIB_2022,
                  f"a further quarter of the normal images is held out to calibrate thresholds; {_GAPS}",
                  early_stopping=EarlyStopping(), calibrates=True),
        ReverseKD("rkd-mkd", "trained on L_MKD", f"{_MASCIULLI}, 4.3 and eq. 3, 4", _ANOMALIB_2022,
                  f"{_GAPS}; lambda balances the terms before the first step: the paper gives none", loss="mkd"),
        ReverseKD(
            "rkd-mkd-es",
            "trained on L_MKD with early stopping",
            f"{_MASCIULLI}, 4.3 (which leaves open whether Table 4 used it)",
            _ANOMALIB_2022,
            f"{_GAPS}; lambda balances the terms before the first step: the paper gives none",
            loss="mkd",
            early_stopping=EarlyStopping(),
        ),
        ReverseKD(
            "rkd-mkd-mean",
            "trained on L_MKD with L_val averaged over channels",
            f"{_MASCIULLI}, eq. 4",
            f"{_ANOMALIB_2022}; reduction as in the {_MKD_CODE}",
            f"{_GAPS}; lambda balances the terms before the first step: the paper gives none",
            loss="mkd",
            val_reduction="mean",
        ),
        ReverseKD(
            "rkd-official",
            "RD4AD's official configuration",
            _DENG,
            "RD4AD",
            "the OCBE's 1x1 convolution that the official forward pass never uses is left out",
            oce_width="wide",
            side=256,
            loss="kd_flat",
            betas=(0.5, 0.999),
            batch_size=16,
        ),
        ReverseKD("rkd-official-cal", "RD4AD's configuration, with thresholds calibrated on normals of their own",
                  _DENG, "RD4AD", f"{_CALIBRATES}; the OCBE's 1x1 convolution that the official forward pass never "
                  "uses is left out", oce_width="wide", side=256, loss="kd_flat", betas=(0.5, 0.999), batch_size=16,
                  calibrates=True),
        ReverseKD(
            "rkd-official-brief",
            "RD4AD's configuration on smaller images and batches: enough steps in a schedule of minutes",
            _DENG,
            "RD4AD",
            "192 pixels, not 256; batches of 2, not 16, at a learning rate of .002, not .005; the OCBE's 1x1 "
            "convolution that the official forward pass never uses is left out",
            oce_width="wide",
            side=192,
            loss="kd_flat",
            betas=(0.5, 0.999),
            batch_size=2,
            learning_rate=0.002,
        ),
        ReverseKD(
            "rkd-brief",
            "as the paper trained it, on smaller images and batches",
            f"{_MASCIULLI}, 4.1",
            _ANOMALIB_2022,
            f"192 pixels, not 224; batches of 4, not 32; {_GAPS}",
            side=192,
            batch_size=4,
        ),
        ReverseKD(
            "rkd-mkd-es-brief",
            "trained on L_MKD with early stopping, on smaller images and batches",
            f"{_MASCIULLI}, 4.3",
            _ANOMALIB_2022,
            f"192 pixels, not 224; batches of 4, not 32; {_GAPS}; lambda balances the terms before the first step: the "
            "paper gives none",
            loss="mkd",
            early_stopping=EarlyStopping(),
            side=192,
            batch_size=4,
        ),
        ReverseKD(
            "rkd-mkd-cal-brief",
            "trained on L_MKD, on smaller images and batches, with thresholds calibrated on normals of their own",
            f"{_MASCIULLI}, 4.3",
            _ANOMALIB_2022,
            f"192 pixels, not 224; batches of 2, not 32, at a learning rate of .002, not .005; {_CALIBRATES}; {_GAPS}; "
            "lambda balances the terms before the first step: the paper gives none",
            loss="mkd",
            side=192,
            batch_size=2,
            learning_rate=0.002,
            calibrates=True,
        ),
        ReverseKD(
            "rkd-anomalib-2022",
            "anomalib's configuration when the paper copied it",
            f"{_DENG}, as {_MASCIULLI} found it",
            _ANOMALIB_2022,
            "anomalib stopped early by pixel AUROC on the test set (patience 3); this keeps the last of 200 epochs; "
            f"{_BORDERS}",
            side=256,
            fusion="product",
        ),
        ReverseKD(
            "rkd-anomalib",
            "anomalib's configuration of today",
            _DENG,
            "anomalib 2.6",
            "the OCBE's unused 1x1 convolution is left out; anomalib's teacher has timm's weights, not torchvision's: "
            "give them as a file to have the same; its example stops early by test pixel AUROC, this does not; "
            f"{_BORDERS}",
            side=256,
            loss="kd_flat",
        ),
        MultiresolutionKD("mkd", "small cloner, lambda on the value term", _SALEHI, _MKD_CODE, _MKD_DEVIATION),
        MultiresolutionKD("mkd-paper", "lambda on the direction term, as the equation has it",
                          f"{_SALEHI}; {_MASCIULLI}, eq. 4", f"{_MKD_CODE}, but for the loss", _MKD_DEVIATION,
                          weighted="direction"),
        MultiresolutionKD("mkd-medical", "lambda .01, as its code has it for all but MVTec AD", _SALEHI, _MKD_CODE,
                          f"{_MKD_DEVIATION}; the code has no loader for Head CT and Brain MRI", lambda_=0.01),
        MultiresolutionKD("mkd-equal", "cloner as wide as the source", _SALEHI, _MKD_CODE, _MKD_DEVIATION,
                          cloner="equal"),
        MultiresolutionKD("mkd-gradient", "mkd, its maps by plain gradients", _SALEHI, _MKD_CODE, _MKD_DEVIATION,
                          localisation="gradient"),
        MultiresolutionKD("mkd-smoothgrad", "mkd, its maps by SmoothGrad", _SALEHI, _MKD_CODE,
                          f"{_MKD_DEVIATION}; noise as the code draws it, deviation (.05 / range)^2, not .05 * range",
                          localisation="smoothgrad"),
        MultiresolutionKD("mkd-comparable", "mkd, its maps not stretched each by itself", _SALEHI, _MKD_CODE,
                          f"{_MKD_DEVIATION}; maps keep the gradient's own scale", own_range=False),
        MultiresolutionKD("mkd-brief", "mkd in small batches: enough steps in a schedule of minutes", _SALEHI,
                          _MKD_CODE, f"{_MKD_DEVIATION}; batches of 8, not 64", batch_size=8),
        MultiresolutionKD("mkd-brief-discrepancy", "mkd-brief, its maps by discrepancy, not by gradients", _SALEHI,
                          _MKD_CODE, f"{_MKD_DEVIATION}; batches of 8, not 64; maps are Reverse KD's: 1 - cosine "
                          "at each position of the scored layers, added", batch_size=8, localisation="discrepancy"),
        UninformedStudents("us", "three students at each of three scales", _BERGMANN, "none published",
                           _US_DEVIATION, calibrates=True),
        UninformedStudents(
            "us-small",
            "as us, on small images with narrow networks: for a machine without a GPU",
            _BERGMANN,
            "none published",
            f"{_US_DEVIATION}; an eighth of the width, images of 128 pixels, learning rate .001, batches of 2, "
            "windows of 32 pixels in place of patches",
            side=128,
            learning_rate=0.001,
            batch_size=2,
            window=32,
            width=16,
            descriptor=32,
            patches=4,
            epochs=30,
            descriptor_pictures=256,
            descriptor_steps=150,
            descriptor_batch=32,
            calibrates=True,
        ),
        *patch_recipes.RECIPES,
        *distillation_recipes.RECIPES,
        *reconstruction_recipes.RECIPES,
        *anomalib_recipes.RECIPES,
    )
}  # fmt: skip


def trained_as(wanted: Recipe) -> Recipe:
    """The recipe whose training this one uses: the first that differs from it in scoring alone, or itself."""
    settings = wanted.training_settings()
    return next((r for r in RECIPES.values() if r.training_settings() == settings), wanted)
