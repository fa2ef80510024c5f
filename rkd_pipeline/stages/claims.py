"""The paper's claims, from everything measured."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.results.comparison import of_papers_systems
from rkd_pipeline.results.paper_claims import CLAIMS as ASKED
from rkd_pipeline.results.paper_claims import Configuration, claims_sheet, findings, table
from rkd_pipeline.results.tables.sheet import Sheet
from rkd_pipeline.stages.ablation import drawn_share
from rkd_pipeline.stages.benchmark import read_benchmark
from rkd_pipeline.stages.evidence import evidence_of, fresh, gather_evidence, read_rotated
from rkd_pipeline.stages.trained_model import read_history
from rkd_pipeline.statistics.contrasts import Block
from rkd_pipeline.statistics.replicates import Evidence
from rkd_pipeline.store.result_store import Ref, Result, Store
from rkd_pipeline.store.stage_versions import BENCHMARK, CLAIMS, ROTATED_IMAGES, TRAINED_MODEL

FILE, TEXT, SHEET = "claims.parquet", "claims.md", "sheet.json"
Pair = tuple[str, str]  # target, training


def build_claims(store: Store) -> Result:
    """``claims``: as parquet, CSV and markdown. From stored results only; nothing is trained or scored for it."""
    benchmark = store.require(BENCHMARK)
    rows = read_benchmark(benchmark)
    ours = of_papers_systems(rows)
    pairs: list[Pair] = list(ours[["target", "training"]].drop_duplicates().itertuples(index=False, name=None))
    gathered = {pair: gather_evidence(store, *pair) for pair in pairs}
    rotated = {pair: result for pair in pairs if (result := fresh(store, Ref(ROTATED_IMAGES.name, *pair)))}
    models = [store.require(TRAINED_MODEL, *pair) for pair in pairs]

    def write(folder: Path) -> dict[str, Any]:
        found = findings(_configurations(store, gathered, rotated), rows[rows["origin"] == "published"])
        result = table(found)
        result.to_parquet(folder / FILE, index=False)
        result.to_csv((folder / FILE).with_suffix(".csv"), index=False)
        sheet = claims_sheet(found)
        (folder / TEXT).write_text(sheet.markdown(), encoding="utf-8")
        (folder / SHEET).write_text(json.dumps(asdict(sheet)), encoding="utf-8")
        verdicts = result.groupby("verdict").size()
        return {"claims": len(ASKED), "rows": len(result), **{str(k): int(v) for k, v in verdicts.items()}}

    parameters = {"not_turned": [list(pair) for pair in pairs if pair not in rotated]}
    inputs = [benchmark, *gathered.values(), *rotated.values(), *models]
    return store.produce(CLAIMS, [], write, parameters=parameters, inputs=inputs)


def _configurations(store: Store, gathered: dict[Pair, Result], rotated: dict[Pair, Result]) -> list[Configuration]:
    by_name: dict[tuple[str, int], list[Pair]] = {}
    for pair in gathered:
        key = TrainingKey.parse(pair[1])
        assert key.epochs is not None  # those of the paper's systems
        by_name.setdefault((str(key.teacher), key.epochs), []).append(pair)
    return [_configuration(store, *name, pairs, gathered, rotated) for name, pairs in by_name.items()]


def _configuration(
    store: Store,
    teacher: str,
    epochs: int,
    pairs: list[Pair],
    gathered: dict[Pair, Result],
    rotated: dict[Pair, Result],
) -> Configuration:
    cells: dict[Block, dict[str, Evidence]] = {}
    rotations: dict[Block, dict[str, dict[int, Evidence]]] = {}
    histories: dict[Block, dict[str, pd.DataFrame]] = {}
    for pair in pairs:
        key = TrainingKey.parse(pair[1])
        cell, name = (pair[0], key.seed, key.repeat), key.recipe.name
        cells.setdefault(cell, {})[name] = evidence_of(gathered[pair])
        histories.setdefault(cell, {})[name] = read_history(store.require(TRAINED_MODEL, *pair))
        if pair in rotated:
            rotations.setdefault(cell, {})[name] = read_rotated(rotated[pair])
    kinds = {target: targets_in(store).target(target).kind for target, _ in pairs}
    return Configuration(teacher, epochs, cells, rotations, histories, kinds, drawn_share(store, pairs))


def read_claims(claims: Result) -> pd.DataFrame:
    """Columns as in ``claims.COLUMNS``."""
    return pd.read_parquet(claims.folder / FILE)


def read_sheet(claims: Result) -> Sheet:
    """The claims for reading."""
    return Sheet(**json.loads((claims.folder / SHEET).read_text(encoding="utf-8")))
