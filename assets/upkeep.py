"""What keeps the instance in step with the store."""

import dagster as dg

from assets.partitions import target_partitions, targets_to_change
from resources.storage import StoreResource


@dg.sensor(minimum_interval_seconds=15, default_status=dg.DefaultSensorStatus.RUNNING)
def targets_in_step(context: dg.SensorEvaluationContext, store: StoreResource) -> dg.SensorResult | dg.SkipReason:
    """Offers the targets of the catalog and of ``targets.toml`` as partitions; withdraws those that are gone."""
    new, gone = targets_to_change(context.instance, store.open().targets)
    if not new and not gone:
        return dg.SkipReason("the partitions are the targets that there are")
    return dg.SensorResult(
        dynamic_partitions_requests=[
            *([target_partitions.build_add_request(new)] if new else []),
            *([target_partitions.build_delete_request(gone)] if gone else []),
        ]
    )
