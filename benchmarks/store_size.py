"""How commands slow down as a store fills: CPU seconds and memory with more and more trainings.

Each command is run when nothing has changed since its last run; `rkd report` also after one more training, when tables,
figures and report are made anew.

    rkd run --targets demo.weave --recipes rkd-official-brief --epochs 1 --store small
    python benchmarks/store_size.py small --sizes 5,100,1000

The larger stores are made from the small one, by hard links: its trainings again under other seeds. Their numbers are
therefore equal, and their results are up to date as any other.
"""

import argparse
import json
import os
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
from rkd_pipeline.store.stage_versions import ANOMALY_SCORES, EVIDENCE, METRICS, TRAINED_MODEL, TRAINING_PAGE

_FIRST_SEED = 100_000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("small", type=Path)
    options.add_argument("--sizes", default="5,100,1000")
    options.add_argument(
        "--commands", default="status,report", help="of: status, table demo, report; separated by commas"
    )
    asked = options.parse_args()
    commands = [command.split() for command in asked.commands.split(",")]
    print(f"{'trainings':>9}  {'command':<32} {'CPU s':>7} {'MiB':>6}")
    with tempfile.TemporaryDirectory(dir=asked.small.absolute().parent) as folder:
        for size in (int(s) for s in asked.sizes.split(",")):
            store = begun(asked.small, Path(folder) / str(size))
            run(["report"], store)  # its trainings' evidence and pages
            grow(store, size - 1)
            run(["report"], store)
            grow(store, size)
            say(size, "report, after one more training", *run(["report"], store))
            for command in commands:
                run(command, store)  # what was made from the small store is made for this one
                say(size, " ".join(command), *run(command, store))


def say(size: int, what: str, seconds: float, memory: float) -> None:
    """One line of the table."""
    print(f"{size:>9}  {what:<32} {seconds:>7.2f} {memory:>6.0f}", flush=True)


def begun(small: Path, root: Path) -> Store:
    """A store with the trainings of ``small``."""
    shutil.copytree(small, root, copy_function=os.link, ignore=shutil.ignore_patterns(".dagster", "mlflow", ".locks"))
    store = Store(root)
    if not store.keys(METRICS):
        sys.exit(f"{small} holds no finished training; see --help")
    return store


def grow(store: Store, size: int) -> None:
    """Until the store has ``size`` trainings: its first ones, again and again under new seeds."""
    have = store.keys(METRICS)
    for number in range(len(have), size):
        target, training = have[number % len(have)]
        key = TrainingKey.parse(training)
        again = TrainingKey(key.recipe, key.teacher, key.epochs, _FIRST_SEED + number, key.repeat)
        for stage in (TRAINED_MODEL, ANOMALY_SCORES, METRICS, EVIDENCE, TRAINING_PAGE):
            source = Ref(stage.name, target, training)
            if store.find(source) is not None:
                link_again(store, source, Ref(stage.name, target, str(again)), again.seed)


def link_again(store: Store, source: Ref, copy: Ref, seed: int) -> None:
    """The same files under another key, with the provenance that this training would have."""
    into = store.folder(copy)
    shutil.copytree(store.folder(source), into, copy_function=os.link)
    made = json.loads((into / "provenance.json").read_text())
    made["key"] = list(copy.key)
    made["inputs"] = {name.replace(source.key[1], copy.key[1]): version for name, version in made["inputs"].items()}
    if copy.stage == TRAINED_MODEL.name:
        made["parameters"]["seed"] = seed
    if copy.stage == TRAINING_PAGE.name:
        made["parameters"]["mlflow_run"] = None  # nobody has sent the copy
    (into / "provenance.json").unlink()  # a link: writing into it would change the first
    (into / "provenance.json").write_text(json.dumps(made))
    # Their bytes are known: a look at the store need not hash the same files once for every name.
    states = {name: state_of(into / name) for name in made["files"]}
    known = {name: state for name, state in states.items() if state is not None}
    place = FolderPlace(store.root)
    place.hashes("/".join((copy.stage, *copy.key))).note(known, {n: f["sha256"] for n, f in made["files"].items()})


def run(command: Sequence[str], store: Store) -> tuple[float, float]:
    """CPU seconds of a command and its children, and the most memory that one of them had, in MiB."""
    with tempfile.TemporaryFile("w+") as said:
        words = [sys.executable, "-m", "rkd_pipeline.cli", *command, "--store", str(store.root)]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            said.seek(0)
            sys.exit(f"rkd {' '.join(command)} failed: {said.read()}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


if __name__ == "__main__":
    main()
