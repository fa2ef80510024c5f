"""A device that trainings share has so many places and no more, and what is computed there stays what it is alone."""

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import pytest
import torch

from rkd_pipeline.device import Compute
from rkd_pipeline.stages import datasets
from rkd_pipeline.stages.trained_model import train_model
from rkd_pipeline.store.device_lock import on_device
from rkd_pipeline.store.result_store import Store
from rkd_pipeline.training.loop import Epoch
from tests.library.arena import TARGET, Finish


def test_a_device_has_as_many_places_as_trainings_share_it(
    store: Store, cpu: Compute, caplog: pytest.LogCaptureFixture
) -> None:
    three, inside, most, told = replace(cpu, slots=3), 0, 0, threading.Lock()

    def take() -> None:
        nonlocal inside, most
        with on_device(store, three):
            with told:
                inside += 1
                most = max(most, inside)
            sleep(0.05)
            with told:
                inside -= 1

    threads = [threading.Thread(target=take) for _ in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 3
    assert "waiting for one of 3 places of device cpu, held by process" in caplog.text
    assert store.at_work() == []


def test_who_counts_one_place_has_none_beside_who_counts_more(store: Store, cpu: Compute) -> None:
    """Two commands with different settings: the first place is the same lock for both."""
    taken = threading.Event()
    with on_device(store, cpu):
        with on_device(store, replace(cpu, slots=2)):
            pass
        other = threading.Thread(target=_take, args=(store, cpu, taken))
        other.start()
        assert not taken.wait(0.3)
    other.join()
    assert taken.is_set()


def _take(store: Store, compute: Compute, taken: threading.Event) -> None:
    with on_device(store, compute):
        taken.set()


OTHER = """
import sys, time
from dataclasses import replace
from pathlib import Path
import torch
from rkd_pipeline.device import Compute
from rkd_pipeline.stages.trained_model import train_model
from rkd_pipeline.store.result_store import Store

def meet(epoch):
    (Path(root) / f"other-{epoch.epoch}").touch()
    end = time.monotonic() + 300
    while not (Path(root) / f"this-{epoch.epoch}").exists():
        assert time.monotonic() < end
        time.sleep(0.02)

root, target, training, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
compute = replace(Compute.choose("cpu", "fp32"), slots=2)
train_model(Store(Path(root)), target, training, compute, on_epoch=meet)
"""


def meet(folder: Path) -> Callable[[Epoch], None]:
    """Goes on once the other training has come as far: both are in the middle of it, each on a place of the device."""

    def wait(epoch: Epoch) -> None:
        (folder / f"this-{epoch.epoch}").touch()
        end = monotonic() + 300
        while not (folder / f"other-{epoch.epoch}").exists():
            assert monotonic() < end, f"the other training never came to epoch {epoch.epoch}"
            sleep(0.02)

    return wait


@pytest.mark.slow
def test_trainings_that_share_the_cpu_give_what_each_gives_alone(
    new_arena: Callable[[Path], tuple[Store, Finish]], tmp_path: Path, cpu: Compute
) -> None:
    """Byte for byte, with the same number of threads: the data version is a hash of weights and history."""
    first, second = (f"stfpm-brief+shots=8@resnet18.random~2e-s{seed}" for seed in (0, 1))
    shared, alone = (new_arena(tmp_path / name)[0] for name in ("shared", "alone"))
    for store in (shared, alone):
        datasets.prepare_images(store, TARGET, 128)
    arguments = (str(shared.root), TARGET, second, str(torch.get_num_threads()))
    other = subprocess.Popen([sys.executable, "-c", OTHER, *arguments])
    together = replace(cpu, slots=2)
    here = train_model(shared, TARGET, first, together, on_epoch=meet(shared.root))
    assert other.wait(300) == 0
    there = train_model(shared, TARGET, second, together)
    assert there.reused
    versions = [train_model(alone, TARGET, training, cpu).data_version for training in (first, second)]
    assert [here.data_version, there.data_version] == versions
    assert versions[0] != versions[1]
    assert here.facts["threads"] == there.facts["threads"] == torch.get_num_threads()
