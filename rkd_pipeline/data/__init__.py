"""Datasets: one module each says where the pictures lie and which are normal; the rest is shared."""
