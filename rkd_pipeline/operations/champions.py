"""The champion of each target: one trained model, kept apart, and the record of how it became champion.

    champions/<target>/0001/         the first champion, written whole, never changed: the model (safetensors and
                                     scorer.json), example.jpg, scores.parquet of its test images, reign.json
    champions/<target>/looks.json    every look at challengers, with what was compared and found

The highest number is the champion. Weights are hard links into the store where the file system allows, so a champion
outlives its training's folder. MLflow's alias ``champion`` mirrors this. The value that a champion was chosen by is
``selected``: it stands in its record and in no table, for the best of several looks better than it is.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import t

from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.errors import RkdError, StoreError
from rkd_pipeline.metrics.image_auroc import image_auroc
from rkd_pipeline.metrics.paired_auroc import Pair, paired_auroc
from rkd_pipeline.operations import gate
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages.anomaly_scores import read_scores
from rkd_pipeline.stages.datasets import open_prepared, read_index
from rkd_pipeline.stages.trained_model import training_parameters
from rkd_pipeline.store.document import Document
from rkd_pipeline.store.files import file_sha256, write_atomically
from rkd_pipeline.store.place import Place, Record
from rkd_pipeline.store.result_store import Ref, Result, Store, files_in
from rkd_pipeline.store.stage_versions import ANOMALY_SCORES, IMAGES, SPLIT, TRAINED_MODEL

if TYPE_CHECKING:
    from rkd_pipeline.detectors.exported_model import ExportedModel

FOLDER = "champions"
REIGN, SCORES, EXAMPLE, LOOKS = "reign.json", "scores.parquet", "example.jpg", "looks.json"
SELECTED = "selected"
How = Literal["first", "gate", "forced"]


class NoChampion(RkdError):
    """A target that has no champion yet."""


@dataclass(frozen=True)
class Champion:
    """A champion.

    Attributes:
        target, training: whose model it is.
        number: from 1.
        model: data version of its ``trained_model``.
        split: data version of the split that it was trained and tested by.
        how: ``first`` (nobody to beat), ``gate`` (better beyond noise) or ``forced`` (by hand).
        why: the gate's sentence, or the reason that was given.
        since: UTC.
        threshold: of its system's own image score, above which an image is called anomalous.
        selected: the number it was chosen by: metric, score_rule, protocol ``selected``, value (None where
            nothing could be measured). For no table.
        parameters: of the training.
        files: name to SHA-256 of what was exported; empty in earlier records, where nothing vouches for the files.
        record, place: where it lies.
    """

    target: str
    training: str
    number: int
    model: str
    split: str
    how: How
    why: str
    since: str
    threshold: float
    selected: dict[str, Any]
    parameters: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    record: Record = field(default=Record("", b""), compare=False, repr=False)
    place: Place | None = field(default=None, compare=False, repr=False)

    @property
    def folder(self) -> Path:
        """Where its files are, on this machine; see ``Result.folder``."""
        assert self.place is not None, "a champion that was read from a store, or written into one"
        return self.place.folder(self.record)


def champions_of(store: Store, target_name: str) -> list[Champion]:
    """All champions that a target has had, in order. Raises ``StoreError`` for a damaged record."""
    found = []
    for name in store.place.entries(f"{FOLDER}/{target_name}", REIGN):
        record = store.place.find(name, REIGN)
        if record is None or not name.rpartition("/")[2].isdecimal():
            continue
        try:
            found.append(Champion(**json.loads(record.content), record=record, place=store.place))
        except (ValueError, TypeError) as error:
            where = f"{store.place.shown(name)}/{REIGN}"
            raise StoreError(f"{where} is damaged ({error}); delete its folder and force a champion") from error
    return found


def current_champion(store: Store, target_name: str) -> Champion | None:
    """The champion; None where there is none yet."""
    found = champions_of(store, target_name)
    return found[-1] if found else None


def require_champion(store: Store, target_name: str) -> Champion:
    """The champion; raises ``NoChampion`` with the way to one."""
    targets_in(store).target(target_name)
    champion = current_champion(store, target_name)
    if champion is None:
        raise NoChampion(
            f"{target_name} has no champion yet; train a recipe that holds normal images out for a threshold "
            f"(`rkd run --targets {target_name} --recipes {gate.WITH_THRESHOLD}`), then "
            f"`rkd champion challenge {target_name}`. Without a champion: `rkd predict --training KEY`"
        )
    return champion


def targets_with_champions(store: Store) -> list[str]:
    """Sorted names."""
    return sorted({name.split("/")[1] for name in store.place.entries(FOLDER, REIGN)})


def open_scorer(champion: Champion) -> "ExportedModel":
    """The champion's model, ready to score images on the CPU. Raises ``StoreError`` where its files are damaged."""
    from rkd_pipeline.detectors.exported_model import CARD, STUDENT, TEACHER, ExportedModel

    for name, recorded in champion.files.items():
        file = champion.folder / name
        if not file.exists() or file_sha256(file) != recorded:
            raise StoreError(
                f"{file} is {'damaged' if file.exists() else 'missing'}: it is not what was exported on "
                f"{champion.since}; run `rkd champion force {champion.target} {champion.training} "
                f'--why "damaged files"` to export it again'
            )
    return ExportedModel.load(champion.folder / STUDENT, champion.folder / TEACHER, champion.folder / CARD)


def standing(store: Store, champion: Champion) -> str:
    """Whether the champion's training is still what its key would give now: ``up to date``, or what has changed."""
    model = store.find(Ref(TRAINED_MODEL.name, champion.target, champion.training))
    if model is None:
        return "its training is no longer in the store; the champion's own copy serves on"
    if model.data_version != champion.model:
        return f"{champion.training} has been trained again since; force it, if the new one is to be champion"
    reason = store.why_stale(model)
    return f"its training is out of date: {reason}" if reason else "up to date"


def champions_table(store: Store, champions_now: Sequence[Champion]) -> pd.DataFrame:
    """For people: who is champion, how, by which number (selected, so for no other table), and if it is up to date."""

    def percent(value: float | None) -> str:
        return "not known" if value is None else f"{100 * value:.1f}"

    return pd.DataFrame(
        {
            "target": champion.target,
            "champion": champion.training,
            "since": champion.since,
            "how": champion.how,
            "threshold": f"{champion.threshold:.4f}",
            f"image AUROC ({SELECTED})": percent(champion.selected["value"]),
            "standing": standing(store, champion),
        }
        for champion in champions_now
    )


@dataclass(frozen=True)
class Outcome:
    """What a challenge came to: who is champion now, whether that is new, and a line per challenger."""

    champion: Champion
    moved: bool
    lines: list[str]
    look: gate.Look | None = None


def challenge(store: Store, target_name: str, trainings: Sequence[str] = ()) -> Outcome:
    """Let configurations challenge the champion: the given trainings', or all others that are finished and eligible.

    The first champion has nobody to beat: it is the eligible configuration of the highest mean image AUROC. Of a
    configuration, the given training is champion, or the first in order of repeat and seed, not the one that tests
    best.
    Raises ``NotEligible`` for a given training that cannot be champion and for two of one configuration,
    ``NoChampion`` where nothing is eligible.
    """
    with store.lock(f"champion {target_name}"):
        named = _named(store, target_name, trainings)
        finished = gate.finished_trainings(store, target_name)
        lines: list[str] = []
        candidates = named or _eligible(store, finished, lines)
        champion = current_champion(store, target_name)
        if champion is None:
            return _first(store, target_name, candidates, finished, lines)
        own = gate.configuration(champion.training)
        if named and own in named:
            raise gate.NotEligible(
                f"{named[own].provenance.key[1]} is of the champion's own configuration ({own}): seeds do not "
                "challenge each other, since the best of them is the luckiest. Force it, if it is to be champion"
            )
        challengers = {name: finished[name] for name in candidates if name != own}
        if own not in finished:
            raise RkdError(
                f"nothing of the champion's configuration {own} is up to date in {store.address}: "
                f"{standing(store, champion)}. Run it again (`rkd run`), or force a champion"
            )
        if not challengers:
            return Outcome(champion, False, [*lines, "nobody challenges: no other eligible configuration is finished"])
        if one := gate.missing_class(store, target_name):
            line = f"nobody challenges: {target_name} has no {one} test images to compare on; force a champion"
            return Outcome(champion, False, [*lines, line])
        looked = _look(store, champion, challengers, finished[own])
        lines += looked.lines
        if looked.winner is None:
            return Outcome(champion, False, lines, looked)
        why = gate.in_words(looked.winner, looked.comparisons[looked.winner], looked.level)
        crowned = _crown(
            store, candidates[looked.winner], "gate", f"against {own}: {why}", _mean(store, challengers[looked.winner])
        )
        return Outcome(crowned, True, lines, looked)


def force(store: Store, target_name: str, training: str, why: str) -> Champion:
    """Make a training champion by hand, with the reason on record. Raises ``NotEligible`` as the gate does."""
    if not why.strip():
        raise RkdError("say why: a forced champion is recorded with its reason")
    with store.lock(f"champion {target_name}"):
        metrics = gate.require_eligible(store, target_name, training)
        value = None if gate.missing_class(store, target_name) else _mean(store, [metrics])
        return _crown(store, metrics, "forced", why.strip(), value)


def _named(store: Store, target_name: str, trainings: Sequence[str]) -> dict[str, Result]:
    """The given trainings by configuration; one each, since all finished trainings of a configuration are compared."""
    found: dict[str, Result] = {}
    for training in dict.fromkeys(trainings):
        name = gate.configuration(training)
        if name in found:
            raise gate.NotEligible(
                f"{found[name].provenance.key[1]} and {training} are of one configuration ({name}). A configuration is "
                "compared with all its finished trainings, averaged over those of one repeat; name only the training "
                "that is to be champion if it wins"
            )
        found[name] = gate.require_eligible(store, target_name, training)
    return found


def _eligible(store: Store, finished: dict[str, list[Result]], lines: list[str]) -> dict[str, Result]:
    """Of every configuration the first training with an honest threshold; the others get a line."""
    found = {}
    for name, results in finished.items():
        able = [m for m in results if gate.honest_threshold(m) is not None]
        if able:
            found[name] = able[0]
        else:
            lines.append(f"{name}: cannot be champion: {gate.why_no_threshold(store, results[0])}")
    return found


def _first(
    store: Store, target_name: str, candidates: dict[str, Result], finished: dict[str, list[Result]], lines: list[str]
) -> Outcome:
    if not candidates:
        first = f"train one: `rkd run --targets {target_name} --recipes {gate.WITH_THRESHOLD}`"
        raise NoChampion(
            "\n  ".join([f"{target_name} has no finished training that could be champion:", *(lines or [first])])
        )
    if one := gate.missing_class(store, target_name):
        if len(candidates) > 1:
            raise NoChampion(
                f"{target_name} has no {one} test images, so nothing says which of {', '.join(candidates)} is better; "
                f"choose one: `rkd champion force {target_name} TRAINING --why ...`"
            )
        [best] = candidates
        why = f"nobody to beat; how well it finds defects is not known, since there are no {one} test images"
        return Outcome(_crown(store, candidates[best], "first", why, None), True, [*lines, f"{best}: {why}"])
    means = {name: _mean(store, finished[name]) for name in candidates}
    best = max(means, key=lambda name: means[name])
    others = "; ".join(f"{name} {100 * value:.1f}" for name, value in means.items() if name != best)
    why = f"nobody to beat; mean image AUROC {100 * means[best]:.1f}" + (f" (others: {others})" if others else "")
    champion = _crown(store, candidates[best], "first", why, means[best])
    return Outcome(champion, True, [*lines, f"{best}: {why}"])


def _mean(store: Store, results: Sequence[Result]) -> float:
    """Mean image AUROC of the deciding score over trainings."""
    tables = [gate.test_scores(store, m) for m in results]
    return float(np.mean([image_auroc(t["anomalous"].to_numpy(bool), t["score"].to_numpy()) for t in tables]))


def _look(store: Store, champion: Champion, challengers: dict[str, list[Result]], own: list[Result]) -> gate.Look:
    """Compare, and put it on record; results that were looked at before cost no further look."""
    earlier = [entry for entry in looks(store, champion.target) if entry["reign"] == champion.number]
    looked = gate.look(store, champion.target, challengers, own, len(earlier) + 1)
    same = [
        e for e in earlier if e["evidence"] == looked.evidence and list(e["comparisons"]) == list(looked.comparisons)
    ]
    if same:
        return gate.look(store, champion.target, challengers, own, same[0]["number"])
    if any(found is not None and found.p_better is not None for found in looked.comparisons.values()):
        entry = {"reign": champion.number, "when": _now(), **asdict(looked), "lines": looked.lines}
        looks_file(store, champion.target).write_json([*looks(store, champion.target), entry])
    return looked


def looks(store: Store, target_name: str) -> list[dict[str, Any]]:
    """Every look at challengers that is on record, in order. Raises ``StoreError`` for a damaged record."""
    fix = (
        "bring it back from a copy, or delete it: looks are then counted from 1 again, so chance gets more tries at "
        "the present champion"
    )
    return looks_file(store, target_name).read_json(fix) or []


def looks_file(store: Store, target_name: str) -> Document:
    """Where looks are recorded."""
    return store.document(FOLDER, target_name, LOOKS)


def _crown(store: Store, metrics: Result, how: How, why: str, value: float | None) -> Champion:
    """Export a model into the next champion's folder, whole or not at all."""
    from rkd_pipeline.stages.export import export_model

    target_name, training = metrics.provenance.key
    model = store.require(TRAINED_MODEL, target_name, training)
    threshold = gate.honest_threshold(metrics)
    assert threshold is not None  # require_eligible, or _eligible, has looked
    number = _next_number(store, target_name)
    name = f"{FOLDER}/{target_name}/{number:04d}"
    with store.half_made(name) as temporary:
        export_model(store, model, threshold, temporary)
        scores = gate.test_scores(store, metrics)
        index = read_index(store.require(IMAGES, target_name)).set_index("image_id")["pixel_sha256"]
        kept = scores[["image_id", "anomalous", "score"]]
        kept.assign(pixel_sha256=kept["image_id"].map(index)).to_parquet(temporary / SCORES, index=False)
        (temporary / EXAMPLE).write_bytes(example_image(store, metrics))
        files = files_in(temporary)
        champion = Champion(
            target=target_name,
            training=training,
            number=number,
            model=model.data_version,
            split=model.provenance.inputs[str(Ref(SPLIT.name, target_name))],
            how=how,
            why=why,
            since=_now(),
            threshold=threshold,
            selected={
                "metric": "image_auroc",
                "score_rule": gate.deciding_rule(training),
                "protocol": SELECTED,
                "value": value,
            },
            parameters=training_parameters(TrainingKey.parse(training)),
            files={file: entry["sha256"] for file, entry in files.items()},
        )
        said = {f.name: getattr(champion, f.name) for f in fields(Champion) if f.name not in ("record", "place")}
        write_atomically(temporary / REIGN, json.dumps(said, indent=1).encode())
        published = store.place.publish(temporary, name, files, REIGN, after=store.place.number(name))
    return replace(champion, record=published, place=store.place)


def _next_number(store: Store, target_name: str) -> int:
    """One more than any champion has had: a damaged folder may be gone, and looks name champions by number."""
    names = (name.rpartition("/")[2] for name in store.place.entries(f"{FOLDER}/{target_name}", REIGN))
    reigns = [int(name) for name in names if name.isdecimal()]
    return max([*reigns, *(int(entry["reign"]) for entry in looks(store, target_name))], default=0) + 1


def example_image(store: Store, metrics: Result) -> bytes:
    """The first anomalous test image of a training, as its model sees it, as JPEG: what MLflow shows as example.

    The first that it has scored at all where no anomalous one tests.
    """
    from PIL import Image

    target_name, training = metrics.provenance.key
    scores, _ = read_scores(store.require(ANOMALY_SCORES, target_name, training))
    first = scores.sort_values(["anomalous", "image_id"], ascending=[False, True]).iloc[0]
    name = first["image_id"]
    side = TrainingKey.parse(training).recipe.side
    _, arrays = open_prepared(store, target_name, side)
    buffer = BytesIO()
    Image.fromarray(arrays.images([name])[0]).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@dataclass(frozen=True)
class Quality:
    """A training beside the champion on the champion's own test images.

    ``worse`` is None where there is no verdict, with ``text`` saying why: they cannot be compared, or the training is
    of another configuration, which may be worse. Otherwise whether it is worse beyond the noise of the images.
    """

    worse: bool | None
    text: str
    difference: float | None = None
    error: float | None = None


def against_champion(store: Store, metrics: Result) -> Quality:
    """Whether a training has fallen behind the champion of its target: scores that were kept, paired per image.

    The champion's scores are those that it was crowned with, so that a change of code or teacher shows. One-sided at
    95%, over images alone: a single training says nothing of how trainings scatter.
    """
    target_name, training = metrics.provenance.key
    champion = current_champion(store, target_name)
    if champion is None:
        return Quality(None, "the target has no champion yet")
    if one := gate.missing_class(store, target_name):
        return Quality(None, f"{target_name} has no {one} test images to compare on")
    mine, kept = gate.test_scores(store, metrics), pd.read_parquet(champion.folder / SCORES)
    index = read_index(store.require(IMAGES, target_name)).set_index("image_id")["pixel_sha256"]
    mine["pixel_sha256"] = mine["image_id"].map(index)
    columns = ["pixel_sha256", "anomalous", "image_id"]
    if not mine[columns].equals(kept[columns]):
        return Quality(None, f"the champion {champion.training} tested on other images")
    pair = Pair(
        list(mine["pixel_sha256"]),
        mine["anomalous"].to_numpy(bool),
        [mine["score"].to_numpy()],
        [kept["score"].to_numpy()],
    )
    found = paired_auroc([pair])
    text = (
        f"image AUROC {100 * found.first:.1f} against the champion's {100 * found.second:.1f} ({champion.training}, "
        f"{SELECTED}); standard error of the difference {100 * found.error_of_images:.1f}"
    )
    if gate.configuration(training) != gate.configuration(champion.training):
        text = f"of another configuration than the champion's, which may be worse; {text}"
        return Quality(None, text, found.difference, found.error_of_images)
    behind = found.difference < -t.ppf(0.95, found.freedom_of_images) * found.error_of_images
    return Quality(bool(behind), text, found.difference, found.error_of_images)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
