"""The ablation: what it asks (``recipes/ablation_design.py``) and what it found (``results/ablation_effects.py``)."""
