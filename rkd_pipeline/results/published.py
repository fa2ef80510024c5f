"""The literature's numbers, with their sources and whether they were verified."""

from importlib.resources import files

import pandas as pd

from rkd_pipeline.results.schema import COLUMNS

PAPER = "Masciulli 2022"


def published_rows() -> pd.DataFrame:
    """All published numbers as benchmark rows; percent become fractions.

    ``verified`` is how a number was checked, beginning with ``read`` (in the named source, or second-hand) or
    ``recalled`` (from the literature, not read again).
    """
    with files(__package__).joinpath("published_results.csv").open("rb") as stream:
        table = pd.read_csv(stream, keep_default_na=False)
    note = table["note"].where(table["note"] == "", "; " + table["note"])
    one_target = table["category"] == table["dataset"]
    rows = pd.DataFrame(
        {
            "target": table["dataset"].where(one_target, table["dataset"] + "." + table["category"]),
            "dataset": table["dataset"],
            "category": table["category"],
            "system": table["system"],
            "metric": table["metric"],
            "protocol": "as published",
            "value": table["value"].astype(float) / 100,
            "origin": "published",
            "verified": table["verified"],
            "source": table["source"] + note,
        }
    )
    return rows.reindex(columns=COLUMNS)
