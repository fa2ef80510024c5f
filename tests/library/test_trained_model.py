"""The body of ``trained_model`` does its own partition's work: what it needs of others must be there."""

import pytest

from rkd_pipeline.device import Compute
from rkd_pipeline.errors import StoreError
from rkd_pipeline.stages import datasets
from rkd_pipeline.stages.trained_model import train_model
from rkd_pipeline.store.result_store import Store
from rkd_pipeline.store.stage_versions import PREPARED_IMAGES, TRAINED_MODEL
from tests.library.arena import TARGET, Finish

MKD = "mkd-brief~1e-s0"
OTHER_MAP = "mkd-brief-discrepancy~1e-s0"  # differs from it in how it localises alone


def test_another_training_is_not_trained_on_the_way(arena: tuple[Store, Finish], cpu: Compute) -> None:
    store, _ = arena
    with pytest.raises(StoreError, match=f"scores the training {MKD} otherwise, and needs it first: .*job train_model"):
        train_model(store, TARGET, OTHER_MAP, cpu)
    assert (TARGET, MKD) not in store.keys(TRAINED_MODEL)


def test_images_of_another_size_are_not_made_on_the_way(arena: tuple[Store, Finish], cpu: Compute) -> None:
    store, _ = arena
    with pytest.raises(StoreError, match=r"prepared_images\[arena, 64px\] is missing .*resized_images"):
        datasets.open_prepared(store, TARGET, 64)
    assert (TARGET, "64px") not in store.keys(PREPARED_IMAGES)
    made = datasets.prepare_images(store, TARGET, 64)
    assert datasets.open_prepared(store, TARGET, 64)[0].data_version == made.data_version
