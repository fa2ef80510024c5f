"""How many requests to an object store a training costs, stage by stage; what no machine's speed changes.

    python benchmarks/bucket_requests.py

The bucket is obstore's, in memory; every call that would be a request is counted. The training is of one epoch, on a
target of the demo; checkpoints come on top, one upload every RKD_UPLOAD_SECONDS.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import obstore
from obstore.store import MemoryStore
from tabulate import tabulate

from rkd_pipeline.device import Compute
from rkd_pipeline.stages import anomaly_scores, datasets, evidence, trained_model
from rkd_pipeline.stages.benchmark import build_benchmark
from rkd_pipeline.store import bucket_place
from rkd_pipeline.store.result_store import Store

TARGET = "demo.weave"
CALLS = ("get", "put", "head", "delete", "list", "list_with_delimiter")


class Counting:
    """obstore, with its calls counted."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        found = getattr(obstore, name)
        if name not in CALLS:
            return found

        def counted(*arguments: Any, **named: Any) -> Any:
            self.calls[name] += 1
            return found(*arguments, **named)

        return counted


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    counting, rows = Counting(), []
    with tempfile.TemporaryDirectory() as folder, patch.object(bucket_place, "_obstore", lambda: counting):
        root = Path(folder)
        store = Store(bucket_place.BucketPlace(MemoryStore(), "memory://bucket", root / "first"))
        cpu = Compute.choose("cpu", "fp32")

        @contextmanager
        def counted(what: str) -> Iterator[None]:
            counting.calls.clear()
            yield
            rows.append({"stage": what} | {name: counting.calls[name] for name in CALLS})

        steps: dict[str, Callable[[Store, str], object]] = {
            "trained_model": lambda s, key: trained_model.train_model(s, TARGET, key, cpu),
            "anomaly_scores": lambda s, key: anomaly_scores.score_images(s, TARGET, key, cpu),
            "metrics": lambda s, key: anomaly_scores.evaluate(s, TARGET, key),
            "evidence": lambda s, key: evidence.gather_evidence(s, TARGET, key),
        }
        with counted("data of the target"):
            trained_model.list_teachers(store)
            datasets.find_source(store, root / "data", TARGET)
            datasets.index_images(store, TARGET)
            datasets.split_images(store, TARGET)
            datasets.prepare_images(store, TARGET, 192)
        for seed in (0, 1):
            key = f"rkd-official-brief@embedded~1e-s{seed}"
            for name, step in steps.items():
                with counted(f"{name}, training {seed + 1}"):
                    step(store, key)
        with counted("benchmark of 2 trainings"):
            build_benchmark(store)
    print(tabulate(rows, "keys", tablefmt="github"))


if __name__ == "__main__":
    main()
