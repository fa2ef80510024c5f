"""Plans: which trainings belong together. "Missing" means planned and absent."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rkd_pipeline.teachers import TeacherName
from rkd_pipeline.training_key import TrainingKey


@dataclass(frozen=True)
class Cell:
    """One planned training: a target's name and a training key."""

    target: str
    training: str


def cross(
    targets: Iterable[str],
    recipes: Iterable[str],
    seeds: Sequence[int],
    *,
    teacher: TeacherName | None = None,
    epochs: int | None = None,
) -> list[Cell]:
    """Every target with every recipe and seed, seed by seed: an early stop leaves whole comparisons.

    Raises ``UnknownName`` or ``BadKey`` for what cannot be trained.
    """
    recipes, targets = list(recipes), list(targets)
    keys = [TrainingKey.compose(r, seed=s, teacher=teacher, epochs=epochs) for s in seeds for r in recipes]
    by_seed = {s: [str(k) for k in keys if k.seed == s] for s in seeds}
    return [Cell(t, k) for s in seeds for t in targets for k in by_seed[s]]


# The paper's own experiments on the medical datasets: what the UI offers before anybody has added a key.
PAPER_RECIPES = ("rkd", "rkd-es", "rkd-mkd")
