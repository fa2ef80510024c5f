"""Every dataset and target: what it is, what it officially holds, where it comes from.

A *target* is what one model is trained for: a dataset, or one category of it. What belongs here: facts about the
data, in ``of_the_paper``, ``industrial`` and ``medical``, each number with its source. What does not: reading files
(``data/layouts/``), and the user's own targets (``data/user_targets.py``).
"""

from rkd_pipeline.data.catalog import industrial, medical, of_the_paper
from rkd_pipeline.data.catalog.description import Archive, Dataset, Kind, Target
from rkd_pipeline.errors import UnknownName

__all__ = ["DATASETS", "TARGETS", "Archive", "Dataset", "Kind", "Target", "dataset", "target", "targets_of"]

_FACTS = (of_the_paper, industrial, medical)
DATASETS = {d.name: d for facts in _FACTS for d in facts.DATASETS}
TARGETS = {t.name: t for facts in _FACTS for t in facts.TARGETS}


def dataset(name: str) -> Dataset:
    """The dataset of that name; raises ``UnknownName`` with the list of known ones."""
    try:
        return DATASETS[name]
    except KeyError:
        raise UnknownName("dataset", name, DATASETS) from None


def target(name: str) -> Target:
    """The target of that name; raises ``UnknownName`` with the list of known ones."""
    try:
        return TARGETS[name]
    except KeyError:
        raise UnknownName("target", name, TARGETS) from None


def targets_of(dataset_name: str) -> list[Target]:
    """All targets of a dataset, in the catalog's order."""
    return [t for t in TARGETS.values() if t.dataset == dataset_name]
