"""What is exported, and what is refused before anything is computed."""

import pytest

from rkd_pipeline.errors import RkdError, StoreError
from rkd_pipeline.stages.deployment import export_graph
from rkd_pipeline.store.result_store import Store


def test_other_systems_are_refused_with_what_serves_instead(store: Store) -> None:
    with pytest.raises(RkdError, match="only Reverse KD is exported as a graph; `rkd predict --training"):
        export_graph(store, "brain_mri", "patchcore-s0")


def test_a_training_that_is_not_there_is_said(store: Store) -> None:
    with pytest.raises(StoreError, match="`rkd run`"):
        export_graph(store, "brain_mri", "rkd-s0")


def test_torch_has_no_int8(store: Store) -> None:
    with pytest.raises(RkdError, match="use --format onnx or openvino"):
        export_graph(store, "brain_mri", "rkd-s0", "torch", "int8")
