"""The partitions: datasets, targets, and the grid of targets and trainings.

A training is a key like ``rkd-s0`` (``rkd_pipeline/training_key.py``); keys are added at run time, by ``rkd run`` or
in the UI's launch dialogue.
"""

import dagster as dg

from rkd_pipeline.catalog import DATASETS, TARGETS
from rkd_pipeline.errors import BadKey

TRAINING_DIMENSION = "training"

dataset_partitions = dg.StaticPartitionsDefinition(list(DATASETS))
target_partitions = dg.StaticPartitionsDefinition(list(TARGETS))
training_partitions = dg.DynamicPartitionsDefinition(name=TRAINING_DIMENSION)
grid = dg.MultiPartitionsDefinition({"target": target_partitions, TRAINING_DIMENSION: training_partitions})

targets_of_dataset = dg.StaticPartitionMapping(
    {name: [t.name for t in TARGETS.values() if t.dataset == name] for name in DATASETS}
)


def grid_key(target: str, training: str) -> dg.MultiPartitionKey:
    """The key of one cell."""
    return dg.MultiPartitionKey({"target": target, TRAINING_DIMENSION: training})


def target_and_training(context: dg.AssetExecutionContext) -> tuple[str, str]:
    """Both halves of a run's key; raises ``BadKey`` where the run has none, or a range of them.

    A run launched without Dagster's dimension tags carries a plain string: ``target|training``, since dimensions are
    ordered by name.
    """
    if not context.has_partition_key:
        raise BadKey("materialise one target and one training at a time: this run has no partition, or several")
    key = context.partition_key
    if isinstance(key, dg.MultiPartitionKey):
        return key.keys_by_dimension["target"], key.keys_by_dimension[TRAINING_DIMENSION]
    target, bar, training = key.partition("|")
    if not bar:
        raise BadKey(f"partition {key!r} does not name a target and a training, like brain_mri|rkd-s0")
    return target, training
