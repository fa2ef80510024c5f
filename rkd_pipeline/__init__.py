"""Anomaly detection by Reverse Knowledge Distillation: the library under the pipeline.

Plain Python and torch. ``definitions.py`` and ``cli/main.py`` are the only modules here that know Dagster or MLflow.
"""

__version__ = "0.2.0"
