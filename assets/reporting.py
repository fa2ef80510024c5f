"""From a stored result to what an asset page shows; from our errors to Dagster's."""

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from resources import last_words
from rkd_pipeline.errors import RkdError, of_the_system
from rkd_pipeline.store.result_store import Result
from rkd_pipeline.store.stage_versions import Stage

OWNER = "team:benchmark"
THUMBNAIL_WIDTH = 256  # pixels
_BLANKS = re.compile(r"(?<=\|) +| +(?=\|)")


def asset_options(stage: Stage, group: str, *kinds: str) -> dict[str, Any]:
    """What every asset of the flow declares: its stage's name and version, group and kinds."""
    return {
        "name": stage.name,
        "code_version": str(stage.version),
        "group_name": group,
        "kinds": {"python", *kinds},
        "owners": [OWNER],
    }


def column_schema(
    columns: Mapping[str, str],
    types: Mapping[str, str] | None = None,
    lineage: Mapping[str, Sequence[tuple[str, str]]] | None = None,
) -> dict[str, Any]:
    """Definition metadata that makes the UI show a table's columns with their meaning.

    Args:
        columns: name to meaning.
        types: name to type.
        lineage: name to the columns that it is made from, each as (asset, column).
    """
    named = [dg.TableColumn(name, (types or {}).get(name, ""), description=text) for name, text in columns.items()]
    schema: dict[str, Any] = {"dagster/column_schema": dg.TableSchema(columns=named)}
    if lineage:
        sources = {
            name: [dg.TableColumnDep(dg.AssetKey(asset), column) for asset, column in found]
            for name, found in lineage.items()
            if name in columns
        }
        schema["dagster/column_lineage"] = dg.TableColumnLineage(sources)
    return schema


def same_columns(asset: str, upstream: Iterable[str], columns: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """Lineage of the columns that are handed down under their own name."""
    known = set(upstream)
    return {name: [(asset, name)] for name in columns if name in known}


def materialised(
    result: Result, metadata: Mapping[str, Any] | None = None, checks: list[dg.AssetCheckResult] | None = None
) -> dg.MaterializeResult:
    """Report a stored result: its folder, which holds its provenance too, its data version, and what to show."""
    record: dict[str, Any] = {
        "folder": dg.MetadataValue.path(str(result.folder)),
        "already_in_store": result.reused,
        "seconds": result.provenance.environment["seconds"],
    }
    return dg.MaterializeResult(
        metadata=dict(metadata or {}) | record,  # what people look for comes first
        data_version=dg.DataVersion(result.data_version),
        check_results=checks or [],
    )


@dataclass(frozen=True)
class NothingCompared:
    """A check found nothing to look at, and why. It has neither passed nor failed."""

    why: str


def check_of(asset: dg.AssetsDefinition, *checks: tuple[str, str]) -> Callable[[Callable[..., Any]], Any]:
    """Declare checks, each a name with a description, that a function yields after the asset was materialised.

    Unlike the checks in an asset's own body these may end without an outcome: Dagster then shows them as skipped.
    """
    specs = [dg.AssetCheckSpec(name, asset=asset, description=description) for name, description in checks]
    return dg.multi_asset_check(name=f"check_{asset.key.path[-1]}", specs=specs, can_subset=True)


def outcomes(
    context: dg.AssetCheckExecutionContext, found: Mapping[str, Callable[[], dg.AssetCheckResult | NothingCompared]]
) -> Iterator[dg.AssetCheckResult]:
    """What to yield of the checks that were asked for; of one that compared nothing the log says why."""
    asked = {key.name for key in context.op_execution_context.selected_asset_check_keys}
    for name in [name for name in found if name in asked]:
        result = found[name]()
        if isinstance(result, NothingCompared):
            context.log.warning(f"check {name} is skipped, nothing was compared: {result.why}")
        else:
            yield result


def table(rows: pd.DataFrame) -> dg.MetadataValue:
    """A data frame as a markdown table, without the blanks that would align it: a page aligns it by itself."""
    return dg.MetadataValue.md(_BLANKS.sub(" ", rows.to_markdown(index=False, floatfmt=".4f")))


def inline_images(*files: Path, width: int = THUMBNAIL_WIDTH) -> dg.MetadataValue:
    """PNG files as small thumbnails, each with the place of its full size.

    They live in the event log, which keeps a materialisation's metadata three times: in the run's database twice and in
    the index. An observation stands there twice.
    """
    parts = [f"{_inline(file.stem, file.read_bytes(), width)}\n\n`{file}`" for file in files]
    return dg.MetadataValue.md("\n\n".join(parts))


def inline_image(name: str, png: bytes) -> dg.MetadataValue:
    """An image that is in no file of the result, as a small thumbnail."""
    return dg.MetadataValue.md(_inline(name, png, THUMBNAIL_WIDTH))


def _inline(name: str, png: bytes, width: int) -> str:
    from rkd_pipeline.results.figures import small_image

    encoded = base64.b64encode(small_image(png, width)).decode()
    return f"![{name}](data:image/webp;base64,{encoded})"


@contextmanager
def user_errors() -> Iterator[None]:
    """Our own errors say what to do: show that, not a stack trace, and do not retry what cannot help.

    So with a full disk or a missing permission. The reason of any error is also kept where it needs no room: Dagster
    may have none.
    """
    try:
        yield
    except Exception as error:
        ours = str(error) if isinstance(error, RkdError) else of_the_system(error)
        last_words.speak(ours or str(error))
        if not ours:
            raise
        raise dg.Failure(description=ours, allow_retries=False) from error
