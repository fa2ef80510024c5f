"""The partitions: targets, trainings, and the grid of both.

Both dimensions are dynamic and live in the store's Dagster instance. A target is one of the catalog, or the user's
own, added at run time with ``rkd add-target`` or a line in ``targets.toml``; ``offer_targets`` and the sensor
``targets_in_step`` keep the instance in step with them, so that the UI shows a new target without a restart. A
training is a key like ``rkd-s0`` (``rkd_pipeline/recipes/training_key.py``), added by ``rkd run`` or in the UI's launch
dialogue.

``dataset_source`` is partitioned by target too, though many targets may share a dataset's folder: one run then goes
from the files to the prepared images, and a category added to a dataset leaves the results of the others alone.
"""

import warnings
from collections.abc import Iterable

import dagster as dg

from rkd_pipeline.data.user_targets import OwnTargets
from rkd_pipeline.errors import BadKey

TARGET_DIMENSION, TRAINING_DIMENSION = "target", "training"

target_partitions = dg.DynamicPartitionsDefinition(name=TARGET_DIMENSION)
training_partitions = dg.DynamicPartitionsDefinition(name=TRAINING_DIMENSION)
grid = dg.MultiPartitionsDefinition({TARGET_DIMENSION: target_partitions, TRAINING_DIMENSION: training_partitions})


with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.BetaWarning)  # Dagster would choose the same mapping by itself
    _BY_TARGET = dg.MultiToSingleDimensionPartitionMapping(partition_dimension_name=TARGET_DIMENSION)


def of_its_target(*assets: dg.AssetsDefinition) -> list[dg.AssetDep]:
    """Dependencies of a cell of the grid, or of something per target over the grid, by the target that they share."""
    return [dg.AssetDep(asset, partition_mapping=_BY_TARGET) for asset in assets]


def of_the_same_cell(*assets: dg.AssetsDefinition) -> list[dg.AssetDep]:
    """Dependencies of a cell of the grid on the same cell of other assets."""
    return _of_the_same_key(assets)


def of_the_same_target(*assets: dg.AssetsDefinition) -> list[dg.AssetDep]:
    """Dependencies of something per target on other assets per target."""
    return _of_the_same_key(assets)


def _of_the_same_key(assets: Iterable[dg.AssetsDefinition]) -> list[dg.AssetDep]:
    return [dg.AssetDep(asset, partition_mapping=dg.IdentityPartitionMapping()) for asset in assets]


def of_all_cells(*assets: dg.AssetsDefinition) -> list[dg.AssetDep]:
    """Dependencies of a table on every cell of the grid, as many as there are by now."""
    return [dg.AssetDep(asset, partition_mapping=dg.AllPartitionMapping()) for asset in assets]


def targets_to_change(instance: dg.DagsterInstance, targets: OwnTargets) -> tuple[list[str], list[str]]:
    """Targets that the instance lacks, and such that it should no longer offer."""
    wanted, offered = targets.names(), instance.get_dynamic_partitions(TARGET_DIMENSION)
    return [t for t in wanted if t not in offered], [t for t in offered if t not in wanted]


def offer_targets(instance: dg.DagsterInstance, targets: OwnTargets) -> None:
    """Make the instance offer exactly the targets that there are."""
    new, gone = targets_to_change(instance, targets)
    if new:
        instance.add_dynamic_partitions(TARGET_DIMENSION, new)
    for name in gone:
        instance.delete_dynamic_partition(TARGET_DIMENSION, name)


def offered_targets(instance: dg.DagsterInstance) -> set[str]:
    """Targets that the instance offers."""
    return set(instance.get_dynamic_partitions(TARGET_DIMENSION))


def trainings_to_add(instance: dg.DagsterInstance, keys: Iterable[str]) -> list[str]:
    """Training keys that the instance does not offer yet, each once."""
    offered = set(instance.get_dynamic_partitions(TRAINING_DIMENSION))
    return [key for key in dict.fromkeys(keys) if key not in offered]


def grid_key(target: str, training: str) -> dg.MultiPartitionKey:
    """The key of one cell."""
    return dg.MultiPartitionKey({TARGET_DIMENSION: target, TRAINING_DIMENSION: training})


def target_and_training(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> tuple[str, str]:
    """Both halves of a run's key; raises ``BadKey`` where the run has none, or a range of them.

    A run launched without Dagster's dimension tags carries a plain string: ``target|training``, since dimensions are
    ordered by name.
    """
    if not context.has_partition_key:
        raise BadKey("materialise one target and one training at a time: this run has no partition, or several")
    key = context.partition_key
    if isinstance(key, dg.MultiPartitionKey):
        return key.keys_by_dimension[TARGET_DIMENSION], key.keys_by_dimension[TRAINING_DIMENSION]
    target, bar, training = key.partition("|")
    if not bar:
        raise BadKey(f"partition {key!r} does not name a target and a training, like brain_mri|rkd-s0")
    return target, training
