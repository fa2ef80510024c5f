"""Shared fixtures. Real data is found through RKD_DATA; where it is absent, tests say so and skip (in CI: fail)."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from rkd_pipeline.device import Compute
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.models.teacher_files import TeacherName, TeacherRegistry
from rkd_pipeline.models.weights import load_weights
from rkd_pipeline.store.result_store import Store
from tests.library.arena import Finish, build, enter
from tests.library.postgres_server import programs

settings.register_profile("no_clock", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("no_clock")

REAL_DATA = os.environ.get("RKD_DATA")

if "PYTEST_XDIST_WORKER" in os.environ:  # a process per core: more threads would only wait for each other
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # of the commands that tests start


@pytest.fixture(autouse=True, scope="session")
def _own_environment() -> None:
    """No test depends on, or writes to, what the user has configured."""
    for name in [n for n in os.environ if n.startswith(("RKD_", "MLFLOW_", "DAGSTER_"))]:
        del os.environ[name]


def need(present: object, what: str) -> None:
    """Skip, with the reason, where something outside the repository is absent; in CI that is a failure."""
    if not present:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


@pytest.fixture(scope="session")
def real_data() -> Path:
    need(REAL_DATA and Path(REAL_DATA).is_dir(), "RKD_DATA does not name a folder with brain_mri/ and head_ct/")
    return Path(str(REAL_DATA)).resolve()


@pytest.fixture(scope="session")
def real_weights(real_data: Path) -> Path:
    """An ImageNet ResNet-18 in ``weights/`` beside the data."""
    found = sorted((real_data.parent / "weights").glob("resnet18*.pth"))
    need(found, f"no resnet18*.pth in {real_data.parent / 'weights'}")
    return found[0]


@pytest.fixture(scope="session")
def postgres_programs() -> Path:
    """The folder with PostgreSQL's programs."""
    found = programs()
    need(found, "PostgreSQL is not installed (Debian: apt-get install postgresql)")
    assert found is not None
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def cpu() -> Compute:
    return Compute.choose("cpu", "fp32")


@pytest.fixture(scope="session")
def random_teacher() -> Callable[[str], Teacher]:
    def make(arch: str) -> Teacher:
        registry = TeacherRegistry(Path("there is no such file"))
        return Teacher(load_weights(registry, TeacherName(arch, "random")))

    return make


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Twelve smooth random images, uint8 (12, 64, 64, 3)."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(12, 3, 8, 8, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=64, mode="bilinear")
    return (fine * 255).byte().permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="session")
def new_arena(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], tuple[Store, Finish]]:
    """Into a folder: a store with the target ``arena``, and the function that finishes its trainings."""
    prepared = build(tmp_path_factory.mktemp("arena"))

    def make(folder: Path) -> tuple[Store, Finish]:
        shutil.copytree(prepared.root, folder / "store", copy_function=os.link)
        store = Store(folder / "store")
        return store, enter(store)

    return make


@pytest.fixture
def arena(new_arena: Callable[[Path], tuple[Store, Finish]], tmp_path: Path) -> tuple[Store, Finish]:
    """A new arena for one test."""
    return new_arena(tmp_path)
