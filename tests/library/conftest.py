"""Fixtures of the library's tests."""

import os
import shutil
from pathlib import Path

import pytest

from rkd_pipeline.store import Store
from tests.library.arena import Finish, build, enter


@pytest.fixture(scope="session")
def prepared_arena(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build(tmp_path_factory.mktemp("arena"))


@pytest.fixture
def arena(prepared_arena: Store, tmp_path: Path) -> tuple[Store, Finish]:
    """A store of its own with the target ``arena``, and the function that finishes its trainings."""
    shutil.copytree(prepared_arena.root, tmp_path / "store", copy_function=os.link)
    store = Store(tmp_path / "store")
    return store, enter(store)
