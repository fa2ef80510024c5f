"""Networks: the frozen teacher, and what is trained to give back its features."""
