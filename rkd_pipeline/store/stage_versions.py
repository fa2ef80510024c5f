"""The stages of the flow and their versions.

    dataset_source -> images -> split -> prepared_images --+-> dataset_card
                                            teachers ------+-> trained_model -> anomaly_scores -> metrics
    metrics (all) + published -> benchmark -> table_1 .. table_4, table_demo, figure_3 .. figure_7, leaderboard
    metrics + trained_model -> exported_model
    anomaly_scores -> evidence; trained_model -> product_maps, turned_pictures
    benchmark + evidence + product_maps -> ablation; benchmark + evidence + turned_pictures -> claims
    benchmark + evidence -> systems
    re-benchmarks on record -> history
    metrics -> training_page
    all of these -> report
    images in a watched folder + trained_model -> scored_pictures

A version is bumped by hand whenever a stage's results would change for the same inputs: that is what makes old
results stale. A changed golden value in the tests asks for a bump.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A step of the flow: its name, in the store and in Dagster, and its version."""

    name: str
    version: int


DATASET_SOURCE = Stage("dataset_source", 3)
IMAGES = Stage("images", 3)
SPLIT = Stage("split", 3)
PREPARED_IMAGES = Stage("prepared_images", 3)
DATASET_CARD = Stage("dataset_card", 2)
TEACHERS = Stage("teachers", 1)
TRAINED_MODEL = Stage("trained_model", 1)
ANOMALY_SCORES = Stage("anomaly_scores", 2)
METRICS = Stage("metrics", 3)
BENCHMARK = Stage("benchmark", 4)
TABLE_1 = Stage("table_1", 5)
TABLE_2 = Stage("table_2", 5)
TABLE_3 = Stage("table_3", 7)
TABLE_4 = Stage("table_4", 4)
TABLE_DEMO = Stage("table_demo", 6)
FIGURE_3 = Stage("figure_3", 2)
FIGURE_5 = Stage("figure_5", 2)
FIGURE_6 = Stage("figure_6", 2)
FIGURE_7 = Stage("figure_7", 2)
LEADERBOARD = Stage("leaderboard", 5)
SYSTEMS = Stage("systems", 3)
EVIDENCE = Stage("evidence", 2)
PRODUCT_MAPS = Stage("product_maps", 2)
ROTATED_IMAGES = Stage("turned_pictures", 2)
EXPORTED_MODEL = Stage("exported_model", 1)
ABLATION = Stage("ablation", 2)
CLAIMS = Stage("claims", 2)
HISTORY = Stage("history", 3)
TRAINING_PAGE = Stage("training_page", 1)
REPORT = Stage("report", 7)
SCORED_IMAGES = Stage("scored_pictures", 2)

STAGES = {
    s.name: s
    for s in (
        DATASET_SOURCE,
        IMAGES,
        SPLIT,
        PREPARED_IMAGES,
        DATASET_CARD,
        TEACHERS,
        TRAINED_MODEL,
        ANOMALY_SCORES,
        METRICS,
        BENCHMARK,
        TABLE_1,
        TABLE_2,
        TABLE_3,
        TABLE_4,
        TABLE_DEMO,
        FIGURE_3,
        FIGURE_5,
        FIGURE_6,
        FIGURE_7,
        LEADERBOARD,
        SYSTEMS,
        EVIDENCE,
        PRODUCT_MAPS,
        ROTATED_IMAGES,
        EXPORTED_MODEL,
        ABLATION,
        CLAIMS,
        HISTORY,
        TRAINING_PAGE,
        REPORT,
        SCORED_IMAGES,
    )
}
