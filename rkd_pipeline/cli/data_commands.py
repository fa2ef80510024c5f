"""``rkd add-target`` and ``rkd data ...``: the data side of the command line, on the store alone, without Dagster."""

import argparse
import sys
from collections import Counter
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from rkd_pipeline.data.catalog import DATASETS, TARGETS, dataset, targets_of
from rkd_pipeline.data.download.fetch import Fetching, addresses, find_or_fetch, terms
from rkd_pipeline.data.image_files import Listing
from rkd_pipeline.data.layouts.listing import some
from rkd_pipeline.data.split import TRAINING_PARTS, part_of
from rkd_pipeline.data.user_targets import LAYOUTS, make_entry, targets_in
from rkd_pipeline.errors import BadFiles, DataError, RkdError, summary
from rkd_pipeline.settings import Settings
from rkd_pipeline.stages import dataset_card, datasets
from rkd_pipeline.store.result_store import Result, Store


def add_parsers(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands to the ``rkd`` parser."""
    add = commands.add_parser("add-target", parents=[shared], help="make a folder or manifest of images a target")
    add.add_argument("name", metavar="NAME")
    add.add_argument("path", metavar="PATH", help="a folder of images, or a CSV or parquet file that lists them")
    add.add_argument("--layout", choices=LAYOUTS, help="recognised where not given")
    add.add_argument("--kind", choices=["texture", "object", "medical"], default="object", help="for the tables")
    add.add_argument("--skip-bad", action="store_true", help="always go on without files that cannot be used")
    add.set_defaults(command=add_target)

    removed = commands.add_parser(
        "remove-target", parents=[shared], help="take one of your own targets, and its results, out of the store"
    )
    removed.add_argument("name", metavar="NAME")
    removed.add_argument("--yes", action="store_true", help="do not ask")
    removed.set_defaults(command=remove_target)

    parser = commands.add_parser("data", help="verify, describe or fetch datasets")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for name, what, command in (
        ("verify", "decode every image that is there and compare with the official counts", verify),
        ("card", "write and print the dataset card of targets", card),
        ("fetch", "unpack or download datasets", fetch),
    ):
        action = actions.add_parser(name, parents=[shared], help=what, description=what)
        known = "DATASET" if name == "fetch" else "TARGET"
        action.add_argument("names", nargs="*" if name == "verify" else "+", metavar=known)
        action.set_defaults(command=command)


def add_target(options: argparse.Namespace) -> int:
    """Recognise the layout, list what is there, and enter the target in ``targets.toml``."""
    store = Store(Settings.from_environment().store)
    entry = make_entry(options.name, str(Path(options.path).absolute()), options.layout, options.kind, options.skip_bad)
    layout = entry.recognised()
    entry = make_entry(entry.name, str(entry.path), layout, entry.kind, entry.skip_bad)
    found = entry.listing()
    if found.problems and not entry.skip_bad:
        raise BadFiles(f"{entry.name} in {entry.path}", found.problems)
    targets_in(store).add(entry)
    normal = sum(not p.anomalous for p in found.images)
    masks = sum(p.mask is not None and p.anomalous for p in found.images)
    anomalous = len(found.images) - normal
    print(f"{entry.name}: layout {layout}, {normal} normal and {anomalous} anomalous images, {masks} masks")
    for text in [*_classes(found), *found.warnings, *(f"left out: {line}" for line in summary(found.problems))]:
        print(f"  {text}")
    print(f"entered in {targets_in(store).path}; now: rkd run --targets {entry.name}")
    return 0


def _classes(found: Listing) -> list[str]:
    """Which folders were taken for normal, and which for anomalous: what a name means is told, not only guessed."""
    lines = []
    for anomalous in (False, True):
        folders = Counter(PurePath(p.path).parent.as_posix() for p in found.images if p.anomalous == anomalous)
        shown = some(f"{folder} ({count})" for folder, count in folders.items())
        lines += [f"{'anomalous' if anomalous else 'normal'}: {shown}"] if folders else []
    return lines


def remove_target(options: argparse.Namespace) -> int:
    """Say what goes and what stays, ask, and remove; 1 where anything stayed that was to go."""
    from rkd_pipeline.operations import pruning, removal

    store = Store(Settings.from_environment().store)
    name = options.name
    items = removal.removable(store, name)
    rows = pd.DataFrame({"what": [i.what for i in items], "MiB": [size / 2**20 for size in pruning.sizes(items)]})
    print(f"of {name} goes: its line in {targets_in(store).path}, and of {store.root}")
    if len(rows):
        print(rows.groupby("what", sort=False)["MiB"].agg(["count", "sum"]).to_markdown(headers=["what", "", "MiB"]))
    print(
        f"stays: the images in {targets_in(store).entries()[name].path}; what MLflow and Dagster have on record; the "
        "records of re-benchmarks; the tables as they are, until the next `rkd report` refreshes them"
    )
    if not options.yes and not (sys.stdin.isatty() and input(f"remove {name}? [y/N] ").strip().lower() in ("y", "yes")):
        print("nothing was removed" + ("" if sys.stdin.isatty() else "; with --yes it is"))
        return 1
    stayed = removal.remove(store, name, items)
    for item, why in stayed.items():
        print(f"stays   {item}: {why}; the same command goes on from here", file=sys.stderr)
    print(f"{name} is {'still in' if stayed else 'removed from'} {targets_in(store).path}")
    return 1 if stayed else 0


def verify(options: argparse.Namespace) -> int:
    """Check the named targets, or all that are on disk; 1 where one is not as it should be."""
    settings = Settings.from_environment()
    store = Store(settings.store)
    names = options.names or [n for n in targets_in(store).names() if n not in TARGETS or TARGETS[n].dataset != "demo"]
    rows, absent, failures = [], [], []
    for name in names:
        try:
            rows.append(_verified(store, settings, name))
        except RkdError as error:
            if not options.names and not _on_disk(store, settings, name):
                absent.append(name)
                continue
            rows.append({"target": name, "state": "not as it should be"})
            failures.append(f"{name}: {error}")
    print(pd.DataFrame(rows).fillna("").to_markdown(index=False) if rows else "nothing is there")
    if absent:
        print(f"\nnot in {settings.data.resolve()}: {', '.join(absent)}")
    for failure in failures:
        print(f"\n{failure}", file=sys.stderr)
    return 1 if failures else 0


def _verified(store: Store, settings: Settings, name: str) -> dict[str, Any]:
    target = targets_in(store).target(name)
    images, split = prepare(store, settings, name)
    facts = images.facts
    notes = [facts["variant"], datasets.data_note(target, images), *facts["warnings"]]
    rows = datasets.read_verified_split(split)
    return {
        "target": name,
        "normal": facts["normal"],
        "anomalous": facts["anomalous"],
        "train": len(part_of(rows, target, 0, *TRAINING_PARTS)),
        "test": len(part_of(rows, target, 0, "test")),
        "masks": facts["with_mask"],
        "state": "complete" if target.counts else "readable",
        "notes": "; ".join(n for n in notes if n),
    }


def prepare(store: Store, settings: Settings, name: str) -> tuple[Result, Result]:
    """Bring a target's source, index and split up to date; returns index and split."""
    datasets.find_source(store, settings.data, name, fetching=fetching_of(settings))
    images = datasets.index_images(store, name, skip_bad=settings.skip_bad)
    return images, datasets.split_images(store, name)


def fetching_of(settings: Settings, *, download: bool | None = None) -> Fetching:
    """What the settings allow to be fetched; licences are shown on stderr."""
    return Fetching(
        settings.archives,
        settings.download if download is None else download,
        addresses(settings.mvtec_ad_urls),
        lambda text: print(text, file=sys.stderr),
    )


def _on_disk(store: Store, settings: Settings, name: str) -> bool:
    """Somebody has put something there, so that an error is worth telling."""
    target = targets_in(store).target(name)
    if target.own:
        return True
    folder = settings.data / target.dataset
    return (folder / target.category).is_dir() if target.dataset == "mvtec_ad" else folder.is_dir()


def card(options: argparse.Namespace) -> int:
    """Write the cards of targets and print them."""
    settings = Settings.from_environment()
    store = Store(settings.store)
    for name in options.names:
        prepare(store, settings, name)
        datasets.prepare_images(store, name, datasets.FIRST_SIDE)
        result = dataset_card.make_card(store, name)
        print(dataset_card.read_card(result))
        print("\n".join(f"image {result.folder / file}" for file in result.facts["pictures"]))
    return 0


def fetch(options: argparse.Namespace) -> int:
    """Unpack or download datasets into the data folder."""
    settings = Settings.from_environment()
    for name in options.names:
        if name in TARGETS and name not in DATASETS:
            described, wanted = dataset(TARGETS[name].dataset), TARGETS[name]
        else:
            described, wanted = dataset(name), targets_of(name)[0]
        if described.archive is None:
            raise DataError(f"{described.title} is {described.source}: there is nothing to fetch")
        folder = find_or_fetch(described, wanted, settings.data.resolve(), fetching_of(settings, download=True))
        print(f"{terms(described)}\n  in       {folder}")
    return 0
