"""``rkd champion ...`` and ``rkd predict``: on the store alone, without Dagster or MLflow.

Whoever adds these commands says how a new champion is announced to the outside.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.errors import DataError
from rkd_pipeline.operations import champions, gate
from rkd_pipeline.operations.champions import Champion
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.settings import Settings
from rkd_pipeline.store.result_store import Store
from rkd_pipeline.store.stage_versions import TRAINED_MODEL

if TYPE_CHECKING:
    from rkd_pipeline.detectors.exported_model import ExportedModel

Announce = Callable[[Store, Champion], None]


def add_parsers(commands: Any, shared: argparse.ArgumentParser, announce: Announce) -> None:
    """Add the commands to the ``rkd`` parser; ``announce`` hears of every new champion."""
    parser = commands.add_parser("champion", help="the model of a target that predicts: show, challenge or force it")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    action = actions.add_parser("show", parents=[shared], help="who reigns, since when and why")
    action.add_argument("targets", nargs="*", metavar="TARGET", help="all that have one, where not given")
    action.set_defaults(command=show)

    action = actions.add_parser(
        "challenge",
        parents=[shared],
        help="compare with the champion, which is replaced if a challenger is better beyond noise",
    )
    action.add_argument("target", metavar="TARGET")
    action.add_argument("trainings", nargs="*", metavar="TRAINING", help="all finished configurations, where not given")
    action.set_defaults(command=lambda options: challenge(options, announce))

    action = actions.add_parser("force", parents=[shared], help="make a training champion by hand; the reason is kept")
    action.add_argument("target", metavar="TARGET")
    action.add_argument("training", metavar="TRAINING")
    action.add_argument("--why", required=True, metavar="REASON")
    action.set_defaults(command=lambda options: force(options, announce))

    action = commands.add_parser(
        "predict", parents=[shared], help="score images with a target's champion, or a training"
    )
    action.add_argument("images", nargs="+", metavar="IMAGE", help="files, or folders of them")
    action.add_argument("--target", required=True)
    action.add_argument("--training", metavar="KEY", help="score with this training, not with the champion")
    action.add_argument(
        "--threshold",
        type=_number,
        metavar="X",
        help="above which a score is anomalous; the model's own, where not given",
    )
    action.add_argument(
        "--output", default="predictions", metavar="DIR", help="for overlays and predictions.csv, default predictions/"
    )
    action.set_defaults(command=predict)


def _store() -> Store:
    return Store(Settings.from_environment().store)


def show(options: argparse.Namespace) -> int:
    """One row per target; for named targets the history and the looks too."""
    store = _store()
    names = options.targets or champions.targets_with_champions(store)
    champions_now = [champions.require_champion(store, name) for name in names]
    if not champions_now:
        print("no target has a champion yet; train one, then `rkd champion challenge TARGET`")
        return 0
    print(champions.champions_table(store, champions_now).to_markdown(index=False))
    for name in options.targets:
        print(f"\n{name}")
        for champion in champions.champions_of(store, name):
            print(f"  {champion.number}. {champion.training}, since {champion.since}, {champion.how}: {champion.why}")
        for entry in champions.looks(store, name):
            print(f"  look {entry['number']} at challengers of {entry['reign']}, {entry['when']}:")
            print("\n".join(f"    {line}" for line in entry["lines"]))
    return 0


def challenge(options: argparse.Namespace, announce: Announce) -> int:
    """Print a line per challenger, and who reigns now."""
    store = _store()
    outcome = champions.challenge(store, options.target, options.trainings)
    print("\n".join(outcome.lines))
    verdict = "is the new champion" if outcome.moved else "stays champion"
    print(f"{outcome.champion.training} {verdict} of {options.target}")
    if outcome.moved:
        announce(store, outcome.champion)
    return 0


def force(options: argparse.Namespace, announce: Announce) -> int:
    """Make a champion by hand."""
    store = _store()
    champion = champions.force(store, options.target, options.training, options.why)
    print(f"{champion.training} is the new champion of {options.target}, forced: {champion.why}")
    announce(store, champion)
    return 0


def predict(options: argparse.Namespace) -> int:
    """Print score and decision per image and write overlays; 1 where an image has a problem."""
    from rkd_pipeline.operations.prediction import TABLE
    from rkd_pipeline.operations.prediction import predict as score

    store = _store()
    images = _images(options.images)
    scorer, who = _scorer(store, options.target, options.training, asks=options.threshold is None)
    output = Path(options.output)
    found = score(scorer, images, output, options.threshold)
    print(who)
    print(_for_people(found.table).to_markdown(index=False, disable_numparse=True))
    print(f"table   {output / TABLE}")
    if found.problems:
        print(f"rkd: {found.problems} of {len(found.table)} images have a problem:", file=sys.stderr)
        print("\n".join(f"  {problem}" for problem in found.table["problem"] if problem), file=sys.stderr)
    return 1 if found.problems else 0


def _scorer(store: Store, target: str, training: str | None, *, asks: bool) -> "tuple[ExportedModel, str]":
    """Who scores, and a line that says so; ``asks`` for a threshold: then it says too why there is none."""
    from rkd_pipeline.stages.export import model_in_place

    if training is None:
        champion = champions.require_champion(store, target)
        return champions.open_scorer(champion), f"champion {champion.training}, since {champion.since}"
    targets_in(store).target(target)
    TrainingKey.parse(training)
    model = store.require(TRAINED_MODEL, target, training)
    threshold, reason = gate.threshold_of(store, target, training)
    line = f"training {training}" + (f"; nothing is decided: {reason}" if reason and asks else "")
    return model_in_place(store, model, threshold), line


def _for_people(table: pd.DataFrame) -> pd.DataFrame:
    called = {True: "anomalous", False: "normal"}
    return pd.DataFrame(
        {
            "image": row.picture,
            "score": "" if pd.isna(row.score) else f"{row.score:.4f}",
            "threshold": "none" if pd.isna(row.threshold) else f"{row.threshold:.4f}",
            "decision": "not scored" if pd.isna(row.score) else called.get(row.anomalous, "none"),
            "overlay": "" if pd.isna(row.overlay) else row.overlay,
        }
        for row in table.itertuples()
    )


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no threshold")
    return value


def _images(named: list[str]) -> list[Path]:
    """The files, and the images in folders, that are named, each once, without overlays of earlier predictions.

    Raises ``DataError`` where a folder holds none, or nothing is left.
    """
    from rkd_pipeline.data.image_files import SUFFIXES
    from rkd_pipeline.data.layouts.litter import files_below
    from rkd_pipeline.results.figures.overlay import is_overlay

    found: dict[Path, None] = {}
    for path in map(Path, named):
        if path.is_dir():
            inside = sorted(p for p in files_below(path) if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise DataError(f"{path} holds no images ({', '.join(sorted(SUFFIXES))})")
            found |= dict.fromkeys(inside)
        else:
            found[path] = None
    images = [path for path in found if not is_overlay(path)]
    if drawn := len(found) - len(images):
        print(f"left out: {drawn} overlays that an earlier prediction drew", file=sys.stderr)
    if not images:
        raise DataError(f"{', '.join(named)}: overlays of an earlier prediction, and no image to score")
    return images
