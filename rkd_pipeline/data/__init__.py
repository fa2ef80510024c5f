"""Datasets: one module each says where the images lie and which are normal; the rest is shared."""
