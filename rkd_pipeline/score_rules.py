"""The image scores that every trained model gives, by name; ``scoring.py`` computes them."""

Quantity = tuple[str, str]  # of a model: metric and score rule

SCORE_RULES = {
    "map_max": "maximum of the smoothed anomaly map: the paper's S_AD, and the official code's",
    "l_kd": "equation 2 of the picture",
    "l_val": "equation 3 of the picture",
    "l_mkd": "equation 4 of the picture, with the training's lambda",
}
