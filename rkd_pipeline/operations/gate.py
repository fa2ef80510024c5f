"""Who may be champion of a target, and when a challenger is better beyond noise.

A *configuration* is what is trained (recipe, teacher, epochs); its trainings differ in seed and repeat. Configurations
are compared, never single seeds: the best of several seeds of one configuration is the luckiest one. The comparison is
over the repeats that both were trained on, paired per test image (``metrics/paired_auroc.py``).

Looking often finds something by luck. So the k-th look at challengers of one champion may spend ``1 / (k (k + 1))`` of
the error that is allowed, shared evenly by the challengers of that look: over all looks together, a champion is
replaced by one that is no better with a probability of at most ``ERROR``. A look at the same results again is no new
look.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from rkd_pipeline.data.split import TRAINING_PARTS, fewest_for_calibration, part_of
from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.errors import RkdError
from rkd_pipeline.metrics.intervals import FEW_IMAGES
from rkd_pipeline.metrics.paired_auroc import Pair, PairedAuroc, paired_auroc
from rkd_pipeline.metrics.threshold import normals_needed
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages.anomaly_scores import read_metrics, read_scores, value_of
from rkd_pipeline.stages.datasets import read_index, read_verified_split
from rkd_pipeline.stages.trained_model import stale_reason
from rkd_pipeline.store.result_store import Ref, Result, Store
from rkd_pipeline.store.stage_versions import ANOMALY_SCORES, IMAGES, METRICS, SPLIT, TRAINED_MODEL

ERROR = 0.05
HELD_OUT = "calibration"  # the part of a split whose normals set the threshold
WITH_THRESHOLD = "rkd-cal"  # a recipe that holds that part out


class NotEligible(RkdError):
    """A training that cannot be champion, whoever asks."""


def configuration(training: str) -> str:
    """What a training key says without seed and repeat, e.g. ``rkd-es@resnet18~40e``."""
    return training.rpartition("-s")[0]


def deciding_rule(training: str) -> str:
    """The image score that a training decides by, and that the gate compares: its system's own."""
    return TrainingKey.parse(training).recipe.own_score


def finished_trainings(store: Store, target_name: str) -> dict[str, list[Result]]:
    """Up-to-date ``metrics`` of a target by configuration, each in order of repeat and seed."""
    found: dict[str, list[Result]] = defaultdict(list)
    for target, training in store.keys(METRICS):
        result = store.find(Ref(METRICS.name, target, training)) if target == target_name else None
        if result is not None and stale_reason(store, result) is None:
            found[configuration(training)].append(result)
    return {name: sorted(results, key=_repeat_and_seed) for name, results in sorted(found.items())}


def _repeat_and_seed(metrics: Result) -> tuple[int, int]:
    key = TrainingKey.parse(metrics.provenance.key[1])
    return key.repeat, key.seed


def honest_threshold(metrics: Result) -> float | None:
    """The threshold of the deciding score, from held-out normal images; None where there is none."""
    return value_of(read_metrics(metrics), "threshold", deciding_rule(metrics.provenance.key[1]))


def threshold_of(store: Store, target_name: str, training: str) -> tuple[float | None, str]:
    """The honest threshold of a training; where it has none, None and why."""
    metrics = store.find(Ref(METRICS.name, target_name, training))
    if metrics is None:
        return None, "it is not evaluated yet; `rkd run` does that"
    if reason := stale_reason(store, metrics):
        return None, f"its metrics are out of date: {reason}; `rkd run` makes them again"
    found = honest_threshold(metrics)
    return found, "" if found is not None else why_no_threshold(store, metrics)


def why_no_threshold(store: Store, metrics: Result) -> str:
    """Why a training has no honest threshold, with the numbers of held-out normal images, and what would give one."""
    target_name, training = metrics.provenance.key
    scores, _ = read_scores(store.require(ANOMALY_SCORES, target_name, training))
    rows = read_verified_split(store.require(SPLIT, target_name))
    repeat = TrainingKey.parse(training).repeat
    wanted = targets_in(store).target(target_name)
    drawn = part_of(rows, wanted, repeat, HELD_OUT)
    pixels = read_index(store.require(IMAGES, target_name)).set_index("image_id")["pixel_sha256"]
    normals = pixels[part_of(rows, wanted, repeat, *TRAINING_PARTS)].nunique()
    found = int((scores["part"] == HELD_OUT).sum())
    table = read_metrics(metrics)
    which = (table["metric"] == "threshold") & (table["score_rule"] == deciding_rule(training))
    reason = str(table.loc[which, "protocol"].iloc[0]).removeprefix("none: ")
    return no_threshold_in_words(target_name, training, reason, found, len(drawn), normals_needed(), normals)


def no_threshold_in_words(
    target_name: str, training: str, reason: str, found: int, drawn: int, needed: int, normals: int
) -> str:
    """The sentence of ``why_no_threshold``.

    Args:
        target_name, training: whose.
        reason: as the protocol of the missing threshold says it.
        found: normal images that the training held out for the threshold.
        drawn: those that the target's split holds out, for recipes that use them so.
        needed: for the false-positive rate that is promised.
        normals: distinct normal images that train where nothing is held out.
    """
    said = f"it has no honest threshold, which takes {needed} held-out normal images, and it has {found} ({reason}). "
    if drawn >= needed:
        return (
            f"{said}Train a recipe that holds them out, as {WITH_THRESHOLD} does: "
            f"`rkd run --targets {target_name} --recipes {WITH_THRESHOLD}`"
        )
    return (
        f"{said}A split can hold out so many where {fewest_for_calibration()} distinct normal images train; "
        f"{target_name} has {normals}: add normal images, or decide by a threshold of your own: "
        f"`rkd predict --target {target_name} --training {training} --threshold X IMAGE ...`"
    )


def require_eligible(store: Store, target_name: str, training: str) -> Result:
    """The ``metrics`` of a training that may be champion; raises ``NotEligible`` or ``StoreError`` with the reason."""
    targets_in(store).target(target_name)
    TrainingKey.parse(training)
    metrics = store.require(METRICS, target_name, training)
    if reason := stale_reason(store, metrics):
        raise NotEligible(f"{target_name} {training} is out of date: {reason}; run it again, with `rkd run`")
    if honest_threshold(metrics) is None:
        raise NotEligible(f"{target_name} {training} cannot be champion: {why_no_threshold(store, metrics)}")
    return metrics


def missing_class(store: Store, target_name: str) -> str:
    """``anomalous`` or ``normal`` where no test image of a target is that; empty where models can be compared."""
    rows = read_verified_split(store.require(SPLIT, target_name))
    tested = rows.loc[(rows["repeat"] == 0) & (rows["part"] == "test"), "image_id"]
    labels = read_index(store.require(IMAGES, target_name)).set_index("image_id")["anomalous"][tested]
    return "anomalous" if not labels.any() else "normal" if labels.all() else ""


def compare(store: Store, target_name: str, first: Sequence[Result], second: Sequence[Result]) -> PairedAuroc | None:
    """Two configurations, given by their ``metrics``, over the repeats that both have; None where they share none."""
    of_first, of_second = _by_repeat(first), _by_repeat(second)
    shared = sorted(of_first.keys() & of_second.keys())
    if not shared:
        return None
    index = read_index(store.require(IMAGES, target_name)).set_index("image_id")["pixel_sha256"]
    pairs = [_pair(store, of_first[r], of_second[r], index) for r in shared]
    return paired_auroc(pairs, test_to_train=_test_to_train(store, pairs, of_first[shared[0]][0]))


def _by_repeat(results: Sequence[Result]) -> dict[int, list[Result]]:
    found: dict[int, list[Result]] = defaultdict(list)
    for result in results:
        found[_repeat_and_seed(result)[0]].append(result)
    return found


def test_scores(store: Store, metrics: Result) -> pd.DataFrame:
    """Test images of a training in order of their ids; ``score`` is what it decides by."""
    target_name, training = metrics.provenance.key
    scores, _ = read_scores(store.require(ANOMALY_SCORES, target_name, training))
    scores = scores[scores["part"] == "test"].sort_values("image_id", ignore_index=True)
    return scores.assign(score=scores[deciding_rule(training)])


def _pair(store: Store, first: Sequence[Result], second: Sequence[Result], pixels: Mapping[str, str]) -> Pair:
    tables = [[test_scores(store, m) for m in side] for side in (first, second)]
    common = tables[0][0]
    for table in (*tables[0], *tables[1]):
        if table["image_id"].tolist() != common["image_id"].tolist():
            raise RkdError(
                f"{first[0].provenance.key} and {second[0].provenance.key} tested on different images of one repeat; "
                "run both again, with `rkd run`"
            )
    return Pair(
        [pixels[name] for name in common["image_id"]],
        common["anomalous"].to_numpy(bool),
        *([table["score"].to_numpy() for table in side] for side in tables),
    )


def _test_to_train(store: Store, pairs: Sequence[Pair], metrics: Result) -> float:
    """Test images that each repeat draws anew over those it trains on; 0 where all repeats test on the same."""
    if all(list(pair.clusters) == list(pairs[0].clusters) for pair in pairs):
        return 0.0
    trained_on = store.require(TRAINED_MODEL, *metrics.provenance.key).facts["train_pictures"]
    return float((~pairs[0].anomalous).sum() / trained_on)  # the anomalous ones test in every repeat


@dataclass(frozen=True)
class Look:
    """Challengers of one champion compared with it, once.

    Attributes:
        number: from 1, since the champion is champion.
        level: the p-value at or below which a challenger is better, one-sided.
        comparisons: configuration to its comparison with the champion's; None where they share no repeat.
        evidence: training to data version of its metrics: everything that was looked at.
    """

    number: int
    level: float
    comparisons: dict[str, PairedAuroc | None]
    evidence: dict[str, str]

    @property
    def winner(self) -> str | None:
        """The configuration that is better beyond noise with the smallest p-value; None where none is."""
        passed = {
            name: found.p_better
            for name, found in self.comparisons.items()
            if found is not None and found.p_better is not None and found.p_better <= self.level
        }
        return min(passed, key=lambda name: passed[name]) if passed else None

    @property
    def lines(self) -> list[str]:
        """For people, one per challenger."""
        return [in_words(name, found, self.level) for name, found in self.comparisons.items()]


def look(
    store: Store,
    target_name: str,
    challengers: Mapping[str, Sequence[Result]],
    champion: Sequence[Result],
    number: int,
) -> Look:
    """Compare every challenging configuration with the champion's, as the number-th look."""
    evidence = {m.provenance.key[1]: m.data_version for side in (champion, *challengers.values()) for m in side}
    comparisons = {name: compare(store, target_name, results, champion) for name, results in challengers.items()}
    testable = sum(found is not None and found.p_better is not None for found in comparisons.values())
    return Look(number, level(number, testable), comparisons, dict(sorted(evidence.items())))


def level(number: int, challengers: int) -> float:
    """The p-value that the number-th look demands of each of its challengers.

    >>> [round(level(k, 1), 4) for k in (1, 2, 3)]
    [0.025, 0.0083, 0.0042]
    >>> level(1, 5) == level(1, 1) / 5
    True
    """
    return ERROR / (number * (number + 1)) / max(challengers, 1)


def in_words(name: str, found: PairedAuroc | None, level: float) -> str:
    """One line for people: how a challenger stands to the champion."""
    if found is None:
        return f"{name}: not compared, no repeat that both were trained on; train it on the champion's seeds"
    values = f"{100 * found.first:.1f} against {100 * found.second:.1f}"
    points = f"{100 * found.difference:+.1f} points of image AUROC ({values})"
    if found.p_better is None:
        return f"{name}: {points} on one repeat: no claim, since trainings differ too; train both on two seeds or more"
    verdict = "better beyond noise" if found.p_better <= level else "not better beyond noise"
    return (
        f"{name}: {verdict}, {points}, 95% [{100 * (found.ci_low or 0):+.1f}, {100 * (found.ci_high or 0):+.1f}], "
        f"p {found.p_better:.4f} where {level:.4f} is demanded; {found.repeats} repeats, {found.n_normal} normal and "
        f"{found.n_anomalous} anomalous images{_too_narrow(found)}"
    )


def _too_narrow(found: PairedAuroc) -> str:
    """What the interval cannot promise with few images of a class, by simulation (docs/metrics.md)."""
    if min(found.n_normal, found.n_anomalous) >= FEW_IMAGES:
        return ""
    return f"; with fewer than {FEW_IMAGES} of a class the 95% interval may hold the truth in 91% of cases only"
