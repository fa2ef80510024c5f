"""``rkd add-target``, ``rkd remove-target`` and ``rkd data ...``: images and targets. Dagster is not needed."""

import sys
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rkd_pipeline.cli.options import group, with_places
from rkd_pipeline.errors import BadFiles, DataError, RkdError, summary
from rkd_pipeline.progress import say

if TYPE_CHECKING:
    from rkd_pipeline.data.download.fetch import Fetching
    from rkd_pipeline.data.image_files import Listing
    from rkd_pipeline.settings import Settings
    from rkd_pipeline.store.result_store import Result, Store

commands = group()
data = group(help="Verify, describe or fetch datasets.")


@commands.command("add-target")
@with_places
def add_target(
    name: Annotated[str, typer.Argument(metavar="NAME", help="How the target is called from now on.")],
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A folder of images, or a CSV or parquet file that lists them.")
    ],
    layout: Annotated[
        Literal["mvtec", "folder", "manifest", "visa", "ksdd2", "dagm", "bmad"] | None,
        typer.Option(envvar="RKD_ADD_TARGET_LAYOUT", help="How the images are arranged; recognised if not given."),
    ] = None,
    kind: Annotated[
        Literal["texture", "object", "medical"],
        typer.Option(envvar="RKD_ADD_TARGET_KIND", help="What the images show; tables are sorted by it."),
    ] = "object",
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            envvar="RKD_ADD_TARGET_SKIP_BAD",
            help="Always go on without files that cannot be used.",
        ),
    ] = False,
) -> int:
    """Make a folder or a list of your own images a target."""
    from rkd_pipeline.data.user_targets import make_entry, targets_in

    entry = make_entry(name, str(path.absolute()), layout, kind, skip_bad)
    found_layout = entry.recognised()
    entry = make_entry(entry.name, str(entry.path), found_layout, entry.kind, entry.skip_bad)
    found = entry.listing()
    if found.problems and not entry.skip_bad:
        raise BadFiles(f"{entry.name} in {entry.path}", found.problems)
    targets = targets_in(_store())
    targets.add(entry)
    normal = sum(not p.anomalous for p in found.images)
    masks = sum(p.mask is not None and p.anomalous for p in found.images)
    anomalous = len(found.images) - normal
    print(f"{entry.name}: layout {found_layout}, {normal} normal and {anomalous} anomalous images, {masks} masks")
    for text in [*_classes(found), *found.warnings, *(f"left out: {line}" for line in summary(found.problems))]:
        print(f"  {text}")
    print(f"entered in {targets.file}; now: rkd run --targets {entry.name}")
    return 0


def _store() -> "Store":
    from rkd_pipeline.settings import Settings
    from rkd_pipeline.store.open_store import open_store

    return open_store(Settings.from_environment())


def _classes(found: "Listing") -> list[str]:
    """Which folders were taken for normal, and which for anomalous: what a name means is told, not only guessed."""
    from collections import Counter

    from rkd_pipeline.data.layouts.listing import some

    lines = []
    for anomalous in (False, True):
        folders = Counter(PurePath(p.path).parent.as_posix() for p in found.images if p.anomalous == anomalous)
        shown = some(f"{folder} ({count})" for folder, count in folders.items())
        lines += [f"{'anomalous' if anomalous else 'normal'}: {shown}"] if folders else []
    return lines


@commands.command("remove-target")
@with_places
def remove_target(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of your own targets.")],
    yes: Annotated[bool, typer.Option("--yes", envvar="RKD_REMOVE_TARGET_YES", help="Do not ask.")] = False,
) -> int:
    """Remove one of your own targets with its results.

    Your images stay where they are.
    """
    import pandas as pd

    from rkd_pipeline.cli.terminal import print_table
    from rkd_pipeline.data.user_targets import targets_in
    from rkd_pipeline.operations import pruning, removal

    store = _store()
    items = removal.removable(store, name)
    rows = pd.DataFrame({"what": [i.what for i in items], "MiB": [size / 2**20 for size in pruning.sizes(items)]})
    print(f"of {name} goes: its line in {targets_in(store).file}, and of {store.address}")
    if len(rows):
        print_table(rows.groupby("what", sort=False)["MiB"].agg([("count", "count"), ("MiB", "sum")]).reset_index())
    print(
        f"stays: the images in {targets_in(store).entries()[name].path}; what MLflow and Dagster have on record; the "
        "records of re-benchmarks; the tables as they are, until the next `rkd report` refreshes them"
    )
    if not yes and not (sys.stdin.isatty() and input(f"remove {name}? [y/N] ").strip().lower() in ("y", "yes")):
        print("nothing was removed" + ("" if sys.stdin.isatty() else "; with --yes it is"))
        return 1
    stayed = removal.remove(store, name, items)
    for item, why in stayed.items():
        print(f"stays   {item}: {why}; the same command goes on from here", file=sys.stderr)
    print(f"{name} is {'still in' if stayed else 'removed from'} {targets_in(store).file}")
    return 1 if stayed else 0


@data.command()
@with_places
def verify(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="[TARGET]...", help="All that are on disk if none is given.")
    ] = None,
) -> int:
    """Decode every image, and compare with the official counts.

    The exit status is 1 if a target is not as it should be.
    """
    import pandas as pd

    from rkd_pipeline.cli.terminal import print_table
    from rkd_pipeline.data.catalog import TARGETS
    from rkd_pipeline.data.user_targets import targets_in
    from rkd_pipeline.settings import Settings

    settings, store = Settings.from_environment(), _store()
    names = targets or [n for n in targets_in(store).names() if n not in TARGETS or TARGETS[n].dataset != "demo"]
    rows, absent, failures = [], [], []
    for name in names:
        try:
            rows.append(_verified(store, settings, name))
        except RkdError as error:
            if not targets and not _on_disk(store, settings, name):
                absent.append(name)
                continue
            rows.append({"target": name, "state": "not as it should be"})
            failures.append(f"{name}: {error}")
    if rows:
        print_table(pd.DataFrame(rows).fillna(""))
    else:
        print("nothing is there")
    if absent:
        print(f"\nnot in {settings.data.resolve()}: {', '.join(_by_dataset(absent))}")
    for failure in failures:
        print(f"\n{failure}", file=sys.stderr)
    return 1 if failures else 0


def _by_dataset(names: list[str]) -> list[str]:
    """Targets by their names, and a dataset by its own where all its targets are among them."""
    from rkd_pipeline.data.catalog import TARGETS, targets_of

    whole = {TARGETS[n].dataset for n in names if all(t.name in names for t in targets_of(TARGETS[n].dataset))}
    return list(dict.fromkeys(TARGETS[n].dataset if TARGETS[n].dataset in whole else n for n in names))


def _verified(store: "Store", settings: "Settings", name: str) -> dict[str, Any]:
    from rkd_pipeline.data.split import TRAINING_PARTS, part_of
    from rkd_pipeline.data.user_targets import targets_in
    from rkd_pipeline.stages import datasets

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


def prepare(store: "Store", settings: "Settings", name: str) -> "tuple[Result, Result]":
    """Bring a target's source, index and split up to date; returns index and split."""
    from rkd_pipeline.stages import datasets

    datasets.find_source(store, settings.data, name, fetching=fetching_of(settings))
    images = datasets.index_images(store, name, skip_bad=settings.skip_bad)
    return images, datasets.split_images(store, name)


def fetching_of(settings: "Settings", *, download: bool | None = None) -> "Fetching":
    """What the settings allow to be fetched; licences are shown on stderr."""
    from rkd_pipeline.data.download.fetch import Fetching, addresses

    return Fetching(
        settings.archives,
        settings.download if download is None else download,
        addresses(settings.mvtec_ad_urls),
        say,
    )


def _on_disk(store: "Store", settings: "Settings", name: str) -> bool:
    """Somebody has put something there, so that an error is worth telling."""
    from rkd_pipeline.data.download.fetch import dataset_folder
    from rkd_pipeline.data.layouts.layout_of import target_folder
    from rkd_pipeline.data.user_targets import targets_in

    target = targets_in(store).target(name)
    if target.own:
        return True
    return target_folder(target, dataset_folder(targets_in(store).dataset_of(name), settings.data)).is_dir()


@data.command()
@with_places
def card(
    targets: Annotated[list[str], typer.Argument(metavar="TARGET...", help="What to describe.")],
) -> int:
    """Write and print the dataset cards of targets."""
    from rkd_pipeline.settings import Settings
    from rkd_pipeline.stages import dataset_card, datasets

    settings, store = Settings.from_environment(), _store()
    for name in targets:
        prepare(store, settings, name)
        datasets.prepare_images(store, name, datasets.FIRST_SIDE)
        result = dataset_card.make_card(store, name)
        print(dataset_card.read_card(result))
        print("\n".join(f"image {result.folder / file}" for file in result.facts["pictures"]))
    return 0


@data.command()
@with_places
def fetch(
    datasets: Annotated[
        list[str], typer.Argument(metavar="DATASET...", help="A dataset, or a target of it, for its part alone.")
    ],
) -> int:
    """Unpack or download datasets into the data folder."""
    from rkd_pipeline.data.catalog import DATASETS, TARGETS, dataset, targets_of
    from rkd_pipeline.data.download.fetch import find_or_fetch, terms
    from rkd_pipeline.settings import Settings

    settings = Settings.from_environment()
    for name in datasets:
        if name in TARGETS and name not in DATASETS:
            described, wanted = dataset(TARGETS[name].dataset), TARGETS[name]
        else:
            described, wanted = dataset(name), targets_of(name)[0]
        if described.archive is None:
            raise DataError(f"{described.title} is {described.source}: there is nothing to fetch")
        folder = find_or_fetch(described, wanted, settings.data.resolve(), fetching_of(settings, download=True))
        print(f"{terms(described)}\n  in       {folder}")
    return 0
