"""The image scores that trained models give, by name; which ones, a system's recipes say."""

Quantity = tuple[str, str]  # of a model: metric and score rule

SCORE_RULES = {
    "map_max": "maximum of the anomaly map: the paper's S_AD, and RD4AD's",
    "l_kd": "Reverse KD: equation 2 of the picture",
    "l_val": "Reverse KD: equation 3 of the picture",
    "l_mkd": "Reverse KD: equation 4 of the picture, with the training's lambda",
    "loss": "Multiresolution KD: its loss of the picture, over its last three taps",
}
