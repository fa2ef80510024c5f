"""Running it over time: champions, predictions, watched folders, re-benchmarks, upkeep of the store."""
