"""Test sets that are drawn anew, or given: told by the split, over stores made by hand."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rkd_pipeline.data.index import MASKS
from rkd_pipeline.operations import rebenchmark
from rkd_pipeline.recipes.plans import PlannedTraining
from rkd_pipeline.stages.ablation import drawn_share
from rkd_pipeline.store.files import file_sha256
from rkd_pipeline.store.result_store import Result, Store
from rkd_pipeline.store.stage_versions import BENCHMARK, IMAGES, SPLIT, TRAINED_MODEL

TRAINING = "rkd@resnet18.random~1e-s0"
# Both are own targets; of the second the owner has given the test part. Two normal images test, six train.
TESTED = {"drawn": [["n0", "n1"], ["n2", "n3"], ["n4", "n5"]], "given": [["n0", "n1"]] * 3}


@pytest.fixture
def split_store(store: Store) -> Store:
    for target, repeats in TESTED.items():
        rows = [
            {"repeat": repeat, "image_id": name, "part": "test" if name in [*tested, "bad"] else "train"}
            for repeat, tested in enumerate(repeats)
            for name in [*(f"n{i}" for i in range(8)), "bad"]
        ]

        def split(folder: Path, rows: list[dict[str, object]] = rows) -> dict[str, Any]:
            file = folder / "split.parquet"
            pd.DataFrame(rows).to_parquet(file)
            return {"verified": {"sha256": file_sha256(file)}}

        store.produce(SPLIT, [target], split)
        store.produce(TRAINED_MODEL, [target, TRAINING], lambda folder: {"train_pictures": 6})
    table = pd.DataFrame({"target": list(TESTED), "training": TRAINING, "n_normal": 2})
    store.produce(BENCHMARK, [], lambda folder: table.to_parquet(folder / "benchmark.parquet"))
    return store


def test_a_given_test_set_keeps_its_image_error_in_comparisons(split_store: Store) -> None:
    """None: the noise of the images stays in the interval, where repeats that redraw them show it themselves."""
    assert drawn_share(split_store, [(target, TRAINING) for target in TESTED]) == {"drawn": 2 / 6, "given": None}


def test_only_what_is_drawn_by_a_rule_can_be_drawn_anew(split_store: Store) -> None:
    cells = [PlannedTraining(target, TRAINING) for target in TESTED]
    drawn = rebenchmark._new_draws(split_store, cells, [], 1000, 5)
    assert drawn == {f"drawn {TRAINING[:-1]}{seed}": "new" for seed in ("1500r1", "1501r2")}


def indexed(store: Store, pixels: str, anomalous: bool = False, mask: bytes = b"", note: str = "") -> str:
    def write(folder: Path) -> None:
        rows = {"image_id": ["a", "b"], "pixel_sha256": [pixels, "p"], "anomalous": [anomalous, True], "note": note}
        pd.DataFrame(rows).to_parquet(folder / "index.parquet")
        if mask:
            (folder / MASKS).write_bytes(mask)

    made: Result = store.produce(IMAGES, ["t"], write, parameters={"of": [pixels, anomalous, mask.hex(), note]})
    return rebenchmark._images_version(made)


def test_other_pixels_labels_or_masks_are_other_images(store: Store) -> None:
    """A given test part names images: what is in them may change while the split stays as it is."""
    first = indexed(store, "x", mask=b"m")
    others = [indexed(store, "y", mask=b"m"), indexed(store, "x", True, b"m"), indexed(store, "x"),
              indexed(store, "x", mask=b"n")]  # fmt: skip
    assert len({first, *others}) == 5
    assert indexed(store, "x", mask=b"m", note="a column more") == first
