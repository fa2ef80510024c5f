"""A cluster on one machine, for each file of tests one; ``kind`` says where its results lie."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rkd_pipeline.settings import Settings
from rkd_pipeline.store.open_store import open_store
from rkd_pipeline.store.result_store import Store
from tests.integration.cluster.faults import TARGET
from tests.integration.cluster.lab import Lab, cluster
from tests.integration.servers import Pages


@pytest.fixture(scope="module")
def lab(
    tmp_path_factory: pytest.TempPathFactory, postgres_programs: Path, few_images: Path, kind: str
) -> Iterator[Lab]:
    """A cluster with a target and the pages of Dagster."""
    with cluster(tmp_path_factory.mktemp("cluster"), postgres_programs, kind) as made:
        made.rkd("add-target", TARGET, str(few_images))
        made.start_ui()
        yield made


@pytest.fixture(scope="module")
def pages(lab: Lab) -> Pages:
    """Dagster's pages."""
    assert lab.ui is not None
    return Pages(f"http://127.0.0.1:{lab.ports['dagster']}", lab.tracking.uri, lab.ui)


@pytest.fixture(autouse=True)
def as_many_threads_as_the_nodes() -> Iterator[None]:
    """What is compared was computed alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def store(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store, as a further machine sees it."""
    for name, value in lab.environment_of("further").items():
        monkeypatch.setenv(name, value)
    return open_store(Settings.from_environment())
