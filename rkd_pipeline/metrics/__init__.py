"""Metrics, one per file: definition, source, shapes and a runnable example. Higher scores are more anomalous."""
