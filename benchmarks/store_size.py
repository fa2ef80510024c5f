"""How commands slow down as a store fills: CPU seconds and memory with more and more trainings.

    rkd run --targets demo.weave --recipes rkd-official-brief --epochs 1 --store small
    python benchmarks/store_size.py small --sizes 5,100,1000

The larger stores are made from the small one, by hard links: its trainings again under other seeds. Their numbers are
therefore equal, and their results are up to date as any other.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.store.folder_place import FolderPlace
from rkd_pipeline.store.hashes import state_of
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import ANOMALY_SCORES, METRICS, TRAINED_MODEL

_FIRST_SEED = 100_000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("small", type=Path)
    options.add_argument("--sizes", default="5,100,1000")
    options.add_argument("--commands", default="status", help="of: status, table demo, report; separated by commas")
    asked = options.parse_args()
    commands = [command.split() for command in asked.commands.split(",")]
    print(f"{'trainings':>9}  {'command':<12} {'CPU s':>7} {'MiB':>6}")
    with tempfile.TemporaryDirectory(dir=asked.small.absolute().parent) as folder:
        for size in (int(s) for s in asked.sizes.split(",")):
            store = grown(asked.small, Path(folder) / str(size), size)
            for command in commands:
                run(command, store)  # what was made from the small store is made for this one
                seconds, memory = run(command, store)
                print(f"{size:>9}  {' '.join(command):<12} {seconds:>7.2f} {memory:>6.0f}", flush=True)


def grown(small: Path, root: Path, size: int) -> Store:
    """A store of ``size`` trainings: those of ``small``, again and again under new seeds."""
    shutil.copytree(small, root, copy_function=os.link, ignore=shutil.ignore_patterns(".dagster", "mlflow", ".locks"))
    store = Store(root)
    have = store.keys(METRICS)
    if not have:
        sys.exit(f"{small} holds no finished training; see --help")
    for number in range(size - len(have)):
        target, training = have[number % len(have)]
        key = TrainingKey.parse(training)
        again = TrainingKey(key.recipe, key.teacher, key.epochs, _FIRST_SEED + number, key.repeat)
        for stage in (TRAINED_MODEL, ANOMALY_SCORES, METRICS):
            link_again(store, Ref(stage.name, target, training), Ref(stage.name, target, str(again)), again.seed)
    return store


def link_again(store: Store, source: Ref, copy: Ref, seed: int) -> None:
    """The same files under another key, with the provenance that this training would have."""
    into = store.folder(copy)
    shutil.copytree(store.folder(source), into, copy_function=os.link)
    made = json.loads((into / "provenance.json").read_text())
    made["key"] = list(copy.key)
    made["inputs"] = {name.replace(source.key[1], copy.key[1]): version for name, version in made["inputs"].items()}
    if copy.stage == TRAINED_MODEL.name:
        made["parameters"]["seed"] = seed
    (into / "provenance.json").unlink()  # a link: writing into it would change the first
    (into / "provenance.json").write_text(json.dumps(made))
    # Their bytes are known: a look at the store need not hash the same files once for every name.
    states = {name: state_of(into / name) for name in made["files"]}
    known = {name: state for name, state in states.items() if state is not None}
    place = FolderPlace(store.root)
    place.hashes("/".join((copy.stage, *copy.key))).note(known, {n: f["sha256"] for n, f in made["files"].items()})


def run(command: Sequence[str], store: Store) -> tuple[float, float]:
    """CPU seconds of a command and its children, and the most memory that one of them had, in MiB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "rkd_pipeline.cli", *command, "--store", str(store.root)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.exit(f"rkd {' '.join(command)} failed: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, after.ru_maxrss / 1024


if __name__ == "__main__":
    main()
