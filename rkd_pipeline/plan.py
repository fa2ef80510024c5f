"""Plans: which trainings belong together. "Missing" means planned and absent."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rkd_pipeline.catalog import targets_of
from rkd_pipeline.errors import UnknownName
from rkd_pipeline.teachers import EMBEDDED, TeacherName
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

# Short enough for five minutes on two cores, long enough for the numbers in docs/demo.md.
DEMO_EPOCHS, DEMO_MKD_EPOCHS = 8, 8


def demo() -> list[Cell]:
    """Every demo target with RD4AD's own recipe, one with the paper's last one too; nothing is downloaded."""
    teacher = TeacherName.parse(EMBEDDED)
    targets = [t.name for t in targets_of("demo")]
    official = cross(targets, ["rkd-official"], [0], teacher=teacher, epochs=DEMO_EPOCHS)
    return official + cross(["demo.weave"], ["rkd-mkd-es"], [0], teacher=teacher, epochs=DEMO_MKD_EPOCHS)


# Of the plan of systems: short enough for a machine without a GPU; Reverse KD's are the demo's own trainings.
SYSTEMS_EPOCHS = {"mkd": 20, "us-small": 8, "rkd-official": DEMO_EPOCHS, "mkd-paper": 20}
MKD_MAPS = ("mkd-gradient", "mkd-comparable", "mkd-smoothgrad")  # scored otherwise: they share the training of mkd


def systems() -> list[Cell]:
    """Every system on every demo target, at short schedules, target by target; other maps of mkd on the first."""
    teacher = TeacherName.parse(EMBEDDED)
    targets = [t.name for t in targets_of("demo")]
    cells = [
        cell
        for target in targets
        for name, epochs in SYSTEMS_EPOCHS.items()
        for cell in cross([target], [name], [0], teacher=teacher, epochs=epochs)
    ]
    return cells + cross(targets[:1], MKD_MAPS, [0], teacher=teacher, epochs=SYSTEMS_EPOCHS["mkd"])


PLANS: dict[str, Callable[[], list[Cell]]] = {"demo": demo, "systems": systems}


def named(name: str) -> list[Cell]:
    """The plan of that name; raises ``UnknownName`` with the list of known ones."""
    try:
        return PLANS[name]()
    except KeyError:
        raise UnknownName("plan", name, PLANS) from None
