"""New images in a watched folder, scored by a model that is there already."""

from pathlib import Path

import dagster as dg

from assets.reporting import asset_options, column_schema, inline_images, materialised, table, user_errors
from resources.storage import StoreResource
from rkd_pipeline.operations import watched_folder
from rkd_pipeline.settings import Settings
from rkd_pipeline.store.stage_versions import SCORED_IMAGES


class Watch(dg.ConfigurableResource):
    """Which folder is watched (``RKD_WATCH``; empty: none) and what scores its images (``RKD_WATCH_MODEL``)."""

    folder: str = ""
    model: str = ""

    @classmethod
    def of(cls, settings: Settings) -> "Watch":
        """As the settings ask for."""
        return cls(folder=str(settings.watch.resolve()) if settings.watch else "", model=settings.watch_model)


@dg.asset(
    **asset_options(SCORED_IMAGES, "reports", "parquet"),
    metadata=column_schema(watched_folder.COLUMNS),
)
def scored_pictures(store: StoreResource, watch: Watch) -> dg.MaterializeResult:
    """Scores, decisions, maps of the images in the watched folder. Only new ones are scored; nothing is trained."""
    with user_errors():
        opened = store.open()
        result = watched_folder.score_new(
            opened, watched_folder.look(opened, Path(watch.folder or "RKD_WATCH"), watch.model)
        )
    rows = watched_folder.read_scored(result)
    facts = {name: value if isinstance(value, int) else str(value) for name, value in result.facts.items()}
    newest = rows.sort_values("fingerprint", ascending=False).head(50).drop(columns=["fingerprint", "model"])
    shown = {"newest": inline_images(result.folder / watched_folder.STRIP), "scores": table(newest)}
    return materialised(result, shown | facts | {"dagster/row_count": len(rows)})
