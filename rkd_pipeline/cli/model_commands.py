"""``rkd champion ...`` and ``rkd predict``: the models that predict."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rkd_pipeline.cli.options import group, one_of, open_session, with_places
from rkd_pipeline.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from rkd_pipeline.operations.champions import Champion
    from rkd_pipeline.operations.prediction import Scorer
    from rkd_pipeline.store.result_store import Store

commands = group()
champion = group(help="Show, challenge or choose the model that predicts.")
_Target = Annotated[str, typer.Argument(metavar="TARGET", help="Whose champion.")]


def _store() -> "Store":
    from rkd_pipeline.settings import Settings
    from rkd_pipeline.store.open_store import open_store

    return open_store(Settings.from_environment())


@champion.command()
@with_places
def show(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="[TARGET]...", help="All that have a champion if none is given.")
    ] = None,
) -> int:
    """Show the champions: since when, and why.

    For targets that are named, the history too.
    """
    from rkd_pipeline.cli.terminal import print_table
    from rkd_pipeline.operations import champions

    store = _store()
    names = targets or champions.targets_with_champions(store)
    champions_now = [champions.require_champion(store, name) for name in names]
    if not champions_now:
        print("no target has a champion yet; train one, then `rkd champion challenge TARGET`")
        return 0
    print_table(champions.champions_table(store, champions_now))
    for name in targets or []:
        print(f"\n{name}")
        for entry in champions.champions_of(store, name):
            print(f"  {entry.number}. {entry.training}, since {entry.since}, {entry.how}: {entry.why}")
        for look in champions.looks(store, name):
            print(f"  look {look['number']} at challengers of {look['reign']}, {look['when']}:")
            print("\n".join(f"    {line}" for line in look["lines"]))
    return 0


@champion.command()
@with_places
def challenge(
    target: _Target,
    trainings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TRAINING]...", help="All finished configurations if none is given."),
    ] = None,
) -> int:
    """Compare trainings with the champion.

    One that is better by more than chance explains becomes champion.
    """
    from rkd_pipeline.operations import champions

    store = _store()
    outcome = champions.challenge(store, target, trainings or [])
    print("\n".join(outcome.lines))
    verdict = "is the new champion" if outcome.moved else "stays champion"
    print(f"{outcome.champion.training} {verdict} of {target}")
    if outcome.moved:
        _announce(store, outcome.champion)
    return 0


@champion.command()
@with_places
def force(
    target: _Target,
    training: Annotated[str, typer.Argument(metavar="TRAINING", help="The key of a finished training.")],
    why: Annotated[
        str, typer.Option(envvar="RKD_CHAMPION_FORCE_WHY", metavar="REASON", help="Kept in the champion's history.")
    ],
) -> int:
    """Make a training champion by hand."""
    from rkd_pipeline.operations import champions

    store = _store()
    made = champions.force(store, target, training, why)
    print(f"{made.training} is the new champion of {target}, forced: {made.why}")
    _announce(store, made)
    return 0


def _announce(store: "Store", new: "Champion") -> None:
    """Tell MLflow and Dagster of a new champion, which is on record whatever they say."""
    from assets.champion import told

    session = open_session()
    print(told(store, new, session.tracking(), session.instance))


def _threshold(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no threshold")
    return value


@commands.command(name="export")
@with_places
def export_model(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Whose model.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format", envvar="RKD_EXPORT_FORMAT", help="Of the file.", **one_of(("onnx", "openvino", "torch"))
        ),
    ] = "onnx",
    precision: Annotated[
        str,
        typer.Option(
            envvar="RKD_EXPORT_PRECISION",
            help="Of its numbers; int8 is calibrated on training normals.",
            **one_of(("fp32", "fp16", "int8")),
        ),
    ] = "fp32",
    training: Annotated[
        str | None,
        typer.Option(envvar="RKD_EXPORT_TRAINING", metavar="KEY", help="Export this training, not the champion."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            envvar="RKD_EXPORT_OUTPUT",
            metavar="FILE",
            help="Where to write it; TARGET-TRAINING.onnx, or the like, here.",
        ),
    ] = None,
) -> int:
    """Write a champion, or a training of Reverse KD, as one file for another runtime.

    The file takes images of any size. It is written where its scores agree with the training's on the test set; the
    exit status is 1 where they do not.
    """
    from rkd_pipeline.detectors.graph_formats import SUFFIXES, require_made
    from rkd_pipeline.names import file_stem
    from rkd_pipeline.stages.deployment import copy_export, read_parity

    require_made(format_, precision)
    key = training or _training_of_champion(_store(), target)
    found = open_session().export(target, key, format_, precision)
    verdict, findings = read_parity(found)
    for finding in findings:
        print(f"{finding.name}: {finding.verdict}; {finding.why}")
    if verdict == "failed":
        print(f"rkd: {target} {key} was not exported: the file does not score as the training does", file=sys.stderr)
        return 1
    suffix = next(suffix for name, suffix in SUFFIXES.items() if name == format_)
    written = copy_export(found, output or Path(f"{file_stem(f'{target}-{key}', 200)}{suffix}"))
    told = "none: it decides nothing" if found.facts["threshold"] is None else f"{found.facts['threshold']:.4f}"
    print(f"threshold {told}")
    print("\n".join(f"file    {file}" for file in written))
    return 0


def _training_of_champion(store: "Store", target: str) -> str:
    """The key of the champion's training, which must be in the store as it was crowned."""
    from rkd_pipeline.operations import champions

    present = champions.require_champion(store, target)
    standing = champions.standing(store, present)
    if standing != "up to date":
        raise DataError(
            f"the champion {present.training} of {target} cannot be exported: {standing}. Run it again with `rkd run`, "
            "or name another training: --training KEY"
        )
    return present.training


@commands.command()
@with_places
def predict(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Files, or folders of them.")],
    target: Annotated[str, typer.Option(envvar="RKD_PREDICT_TARGET", metavar="NAME", help="What the images show.")],
    training: Annotated[
        str | None,
        typer.Option(
            envvar="RKD_PREDICT_TRAINING", metavar="KEY", help="Score with this training, not with the champion."
        ),
    ] = None,
    exported: Annotated[
        Path | None,
        typer.Option(
            envvar="RKD_PREDICT_EXPORTED", metavar="FILE", help="Score with this file, which `rkd export` wrote."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            envvar="RKD_PREDICT_THRESHOLD",
            metavar="X",
            callback=_threshold,
            help="An image whose score is above it is anomalous; the model's own if not given.",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(envvar="RKD_PREDICT_OUTPUT", metavar="DIR", help="Folder for overlays and predictions.csv."),
    ] = Path("predictions"),
) -> int:
    """Score images with a champion, or with a training.

    The exit status is 1 if an image has a problem.
    """
    from rkd_pipeline.cli.terminal import print_table
    from rkd_pipeline.operations.prediction import TABLE
    from rkd_pipeline.operations.prediction import predict as score

    if exported is not None and training is not None:
        raise typer.BadParameter("--exported names a model already; leave out --training, or that")
    files = _images(images)
    if exported is not None:
        scorer, who = _exported(exported, target)
    else:
        scorer, who = _scorer(_store(), target, training, asks=threshold is None)
    found = score(scorer, files, output, threshold)
    print(who)
    print_table(_for_people(found.table), numbers=False)
    print(f"table   {output / TABLE}")
    if found.problems:
        print(f"rkd: {found.problems} of {len(found.table)} images have a problem:", file=sys.stderr)
        print("\n".join(f"  {problem}" for problem in found.table["problem"] if problem), file=sys.stderr)
    return 1 if found.problems else 0


def _exported(file: Path, target: str) -> "tuple[Scorer, str]":
    """The model in a file, and a line that says which it is; raises ``DataError`` where it is another target's."""
    from rkd_pipeline.detectors.graph_formats import ExportedFile

    scorer = ExportedFile(file)
    model = scorer.card.model
    if model.target != target:
        raise DataError(f"{file} is a model of {model.target}, not of {target}; name that target, or another file")
    return scorer, f"exported {model.training}, {file}"


def _scorer(store: "Store", target: str, training: str | None, *, asks: bool) -> "tuple[Scorer, str]":
    """Who scores, and a line that says so; ``asks`` for a threshold: then it says too why there is none."""
    from rkd_pipeline.data.user_targets import targets_in
    from rkd_pipeline.operations import champions, gate
    from rkd_pipeline.recipes.training_key import TrainingKey
    from rkd_pipeline.stages.export import model_in_place
    from rkd_pipeline.store.stage_versions import TRAINED_MODEL

    if training is None:
        present = champions.require_champion(store, target)
        return champions.open_scorer(present), f"champion {present.training}, since {present.since}"
    targets_in(store).target(target)
    TrainingKey.parse(training)
    model = store.require(TRAINED_MODEL, target, training)
    threshold, reason = gate.threshold_of(store, target, training)
    line = f"training {training}" + (f"; nothing is decided: {reason}" if reason and asks else "")
    return model_in_place(store, model, threshold), line


def _for_people(table: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd

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
