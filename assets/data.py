"""Data: where a dataset lies, its index, its split, its prepared pictures."""

import dagster as dg

from assets.partitions import dataset_partitions, target_partitions, targets_of_dataset
from assets.reporting import asset_options, column_schema, materialised, table, user_errors
from resources.storage import DataResource, StoreResource
from rkd_pipeline.catalog import dataset, target
from rkd_pipeline.datasets import index, split
from rkd_pipeline.flow import DATASET_SOURCE, IMAGES, PREPARED_IMAGES, SPLIT
from rkd_pipeline.recipes import RECIPES
from rkd_pipeline.stages import data

GROUP = "data"


@dg.asset(**asset_options(DATASET_SOURCE, GROUP, "file"), partitions_def=dataset_partitions)
def dataset_source(
    context: dg.AssetExecutionContext, store: StoreResource, data_folder: DataResource
) -> dg.MaterializeResult:
    """Where a dataset's files are (under ``RKD_DATA``, used in place; the demo is generated), with a listing."""
    described = dataset(context.partition_key)
    with user_errors():
        result = data.find_source(store.open(), data_folder.folder(), described.name)
    about = {k: getattr(described, k) for k in ("title", "source", "licence", "citation", "layout")}
    return materialised(result, {"files_in": dg.MetadataValue.path(str(data.source_folder(result)))} | about)


@dg.asset(
    **asset_options(IMAGES, GROUP, "parquet"),
    partitions_def=target_partitions,
    deps=[dg.AssetDep(dataset_source, partition_mapping=targets_of_dataset)],
    metadata=column_schema(index.COLUMNS),
)
def images(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """The index of a target: every picture decoded once, with label, size, mode and hashes of file and pixels."""
    with user_errors():
        result = data.index_images(store.open(), context.partition_key)
    rows = data.read_index(result)
    copies = rows[rows.duplicated("pixel_sha256", keep=False)].sort_values(["pixel_sha256", "image_id"])
    return materialised(
        result,
        {
            **{k: str(v) for k, v in result.facts.items()},
            "kind": target(context.partition_key).kind,
            "pictures_with_copies": len(copies),
            "first_rows": table(rows.head(8).drop(columns=["file_sha256", "pixel_sha256"])),
            "dagster/row_count": len(rows),
        },
    )


@dg.asset(
    **asset_options(SPLIT, GROUP, "parquet"),
    partitions_def=target_partitions,
    deps=[images],
    metadata=column_schema(split.COLUMNS),
    check_specs=[
        dg.AssetCheckSpec("no_leak", asset=SPLIT.name, description="Official counts; no pixels on two sides.")
    ],
)
def split_asset(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """Which picture trains, validates, tests or is set aside, for every repeat.

    The paper's rule: 10 normal pictures and all anomalous ones test. A defect raises here and writes nothing, and
    ``trained_model`` reads no split without this verified record; the check makes the record visible.
    """
    with user_errors():
        opened = store.open()
        result = data.split_images(opened, context.partition_key)
        rows = data.read_verified_split(result)
        found = split.verify(
            target(context.partition_key), data.read_index(data.index_images(opened, context.partition_key)), rows
        )
    sizes = rows.groupby(["repeat", "part"]).size().unstack(fill_value=0).reset_index()
    check = dg.AssetCheckResult(passed=True, check_name="no_leak", metadata={k: int(v) for k, v in found.items()})
    return materialised(result, {"parts": table(sizes), "dagster/row_count": len(rows)}, [check])


@dg.asset(**asset_options(PREPARED_IMAGES, GROUP, "numpy"), partitions_def=target_partitions, deps=[images])
def prepared_images(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """Pictures decoded and resized once: uint8 (N, side, side, 3), memory-mapped afterwards.

    Makes the side of the paper's recipe; others are made when a training first asks for them.
    """
    with user_errors():
        result = data.prepare_images(store.open(), context.partition_key, RECIPES["rkd"].side)
    return materialised(result, {k: str(v) for k, v in result.facts.items()})
