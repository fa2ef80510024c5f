"""Data: where a target's files lie, their index, their split, the prepared images, and the dataset card."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.partitions import grid, of_its_target, of_the_same_target, target_and_training, target_partitions
from assets.reporting import (
    OWNER,
    asset_options,
    column_schema,
    inline_images,
    materialised,
    same_columns,
    table,
    user_errors,
)
from resources.storage import DataResource, StoreResource
from rkd_pipeline.data import index, split
from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.errors import DataError
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages import dataset_card as cards
from rkd_pipeline.stages import datasets
from rkd_pipeline.store.stage_versions import DATASET_CARD, DATASET_SOURCE, IMAGES, PREPARED_IMAGES, SPLIT

GROUP = "data"
USABLE, NO_LEAK = "all_usable", "no_leak"
RESIZED_IMAGES = "resized_images"


@dg.asset(**asset_options(DATASET_SOURCE, GROUP, "file"), partitions_def=target_partitions)
def dataset_source(
    context: dg.AssetExecutionContext, store: StoreResource, data_folder: DataResource
) -> dg.MaterializeResult:
    """Where a target's files are, with a listing.

    Under ``RKD_DATA``, used in place; else unpacked from a local archive in ``RKD_ARCHIVES``; else downloaded, where
    ``RKD_DOWNLOAD`` allows it. The demo is generated.
    """
    with user_errors():
        opened = store.open()
        described = targets_in(opened).dataset_of(context.partition_key)
        fetching = data_folder.fetching(context.log.info)
        result = datasets.find_source(opened, data_folder.folder(), context.partition_key, fetching=fetching)
    about = {k: getattr(described, k) for k in ("title", "source", "licence", "citation", "layout")}
    origin = {"origin": str(result.facts["origin"])} if "origin" in result.facts else {}
    return materialised(
        result, {"files_in": dg.MetadataValue.path(str(datasets.source_folder(result)))} | about | origin
    )


@dg.asset(
    **asset_options(IMAGES, GROUP, "parquet"),
    partitions_def=target_partitions,
    deps=of_the_same_target(dataset_source),
    metadata=column_schema(index.COLUMNS),
    check_specs=[
        dg.AssetCheckSpec(USABLE, asset=IMAGES.name, description="Every image that is there can be used."),
    ],
)
def images(context: dg.AssetExecutionContext, store: StoreResource, data_folder: DataResource) -> dg.MaterializeResult:
    """The index of a target: every image decoded once, with label, size, mode, hashes and statistics."""
    with user_errors():
        opened = store.open()
        result = datasets.index_images(opened, context.partition_key, skip_bad=data_folder.skip_bad)
    for warning in result.facts["warnings"]:
        context.log.warning(warning)
    rows = datasets.read_index(result)
    copies = rows[rows.duplicated("pixel_sha256", keep=False)].sort_values(["pixel_sha256", "image_id"])
    return materialised(
        result,
        {
            **{k: str(v) for k, v in result.facts.items()},
            "kind": targets_in(opened).target(context.partition_key).kind,
            "pictures_with_copies": len(copies),
            "first_rows": table(rows.head(8).drop(columns=["file_sha256", "pixel_sha256", "phash"])),
            "dagster/row_count": len(rows),
        },
        [
            dg.AssetCheckResult(
                check_name=USABLE,
                passed=not result.facts["skipped"],
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"left_out": "; ".join(result.facts["skipped"]) or "nothing"},
            )
        ],
    )


@dg.asset(
    **asset_options(SPLIT, GROUP, "parquet"),
    partitions_def=target_partitions,
    deps=of_the_same_target(images),
    metadata=column_schema(split.COLUMNS, lineage=same_columns(IMAGES.name, index.COLUMNS, split.COLUMNS)),
    check_specs=[
        dg.AssetCheckSpec(
            NO_LEAK, asset=SPLIT.name, blocking=True, description="Official counts; no pixels on two sides."
        )
    ],
)
def split_asset(
    context: dg.AssetExecutionContext, store: StoreResource
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[Any]]:
    """Which image trains, validates, tests or is set aside, for every repeat.

    The publisher's split where there is one; the paper's rule (10 normal images and all anomalous ones test) for the
    medical datasets; five folds by content hash for the user's own. A defect fails the check, raises and writes
    nothing; ``trained_model`` reads no split without a verified record. One that is in the store is verified again.
    """
    with user_errors():
        opened = store.open()
        try:
            result = datasets.split_images(opened, context.partition_key)
            rows = datasets.read_verified_split(result)
            found = split.verify(
                targets_in(opened).target(context.partition_key),
                datasets.read_index(opened.require(IMAGES, context.partition_key)),
                rows,
            )
        except DataError as error:
            yield dg.AssetCheckResult(passed=False, check_name=NO_LEAK, description=str(error))
            raise
    sizes = rows.groupby(["repeat", "part"]).size().unstack(fill_value=0).reset_index()
    check = dg.AssetCheckResult(passed=True, check_name=NO_LEAK, metadata={k: int(v) for k, v in found.items()})
    yield materialised(result, {"parts": table(sizes), "dagster/row_count": len(rows)}, [check])


@dg.asset(
    **asset_options(PREPARED_IMAGES, GROUP, "numpy"), partitions_def=target_partitions, deps=of_the_same_target(images)
)
def prepared_images(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """Images decoded and resized once: uint8 (N, side, side, 3), memory-mapped afterwards.

    At the size of the paper's recipe; ``resized_images`` has them at the size of any other.
    """
    with user_errors():
        result = datasets.prepare_images(store.open(), context.partition_key, RECIPES["rkd"].side)
    return materialised(result, {k: str(v) for k, v in result.facts.items()})


@dg.asset(
    name=RESIZED_IMAGES,
    partitions_def=grid,
    deps=of_its_target(prepared_images),
    group_name=GROUP,
    kinds={"python", "numpy"},
    owners=[OWNER],
    code_version=str(PREPARED_IMAGES.version),
)
def resized_images(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """The prepared images of a target at the size that a training reads: uint8 (N, size, size, 3).

    One result per target and size: trainings of the same size share it, and it is decoded once.
    """
    with user_errors():
        target_name, training = target_and_training(context)
        size = TrainingKey.parse(training).recipe.side
        result = datasets.prepare_images(store.open(), target_name, size)
    context.log.info(f"{target_name} at {size} pixels: {'there already' if result.reused else 'decoded and resized'}")
    return materialised(result, {"size": size, "images": result.facts["pictures"]})


@dg.asset(
    **asset_options(DATASET_CARD, GROUP, "markdown"),
    partitions_def=target_partitions,
    deps=of_the_same_target(images, split_asset, prepared_images),
    check_specs=[
        dg.AssetCheckSpec(
            "not_separable_by_trivial_statistics",
            asset=DATASET_CARD.name,
            description="Brightness, contrast, file size or image size alone should not tell the test classes apart.",
        ),
        dg.AssetCheckSpec(
            "no_near_duplicates", asset=DATASET_CARD.name, description="No test image nearly equals a training one."
        ),
    ],
)
def dataset_card(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """What a target's images are like: counts, a montage, histograms, copies, licence, and what is odd about them."""
    with user_errors():
        result = cards.make_card(store.open(), context.partition_key)
    checks = [
        dg.AssetCheckResult(
            check_name=name,
            passed=not found,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"found": "; ".join(found) or "nothing"},
        )
        for name, found in (
            ("not_separable_by_trivial_statistics", result.facts["shifts"]),
            ("no_near_duplicates", result.facts["leaks"]),
        )
    ]
    shown = inline_images(*(result.folder / name for name in result.facts["pictures"]))
    return materialised(result, {"card": dg.MetadataValue.md(cards.read_card(result)), "pictures": shown}, checks)
