"""The image scores that trained models give, by name; which ones, a system's recipes say."""

from rkd_pipeline.recipes.lookup import own_score

Quantity = tuple[str, str]  # of a model: metric and score rule

SCORE_RULES = {
    "map_max": "maximum of the anomaly map: the paper's S_AD, and RD4AD's",
    "l_kd": "Reverse KD: equation 2 of the image",
    "l_val": "Reverse KD: equation 3 of the image",
    "l_mkd": "Reverse KD: equation 4 of the image, with the training's lambda",
    "image_score": "the system's own score of the image, not read off its map: PatchCore's weighted distance, a "
    "one-class classifier's, an autoencoder's or a GAN's",
    "loss": "Multiresolution KD: its loss of the image, over its last three layers",
}

OWN = "own"  # the image score that the system's authors use
QUALITY = {
    "image_auroc": ("image_auroc", OWN),
    "pixel_auroc": ("pixel_auroc", "map"),
    "aupro_30": ("aupro_30", "map"),
}


def is_quality(recipe: object, metric: object, score_rule: object) -> bool:
    """A number that systems are judged by: image AUROC of the system's own score, pixel AUROC, AUPRO."""
    asked = dict(QUALITY.values()).get(str(metric))
    return score_rule == (own_score(str(recipe)) if asked == OWN else asked)
