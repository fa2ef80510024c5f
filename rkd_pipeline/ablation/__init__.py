"""The ablation: what it asks (``design.py``) and what it found (``effects.py``)."""
