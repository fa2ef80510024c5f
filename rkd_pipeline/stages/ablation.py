"""The ablation of everything measured: effects, what is missing, a figure."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rkd_pipeline.data.split import redraws_test
from rkd_pipeline.recipes.ablation_design import CENTRES, Design, design
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.results.ablation_effects import COLUMNS, HEADINGS, Ablation, ablation_sheet, analyse
from rkd_pipeline.results.tables.sheet import Sheet, in_epochs
from rkd_pipeline.stages.benchmark import read_benchmark
from rkd_pipeline.stages.datasets import read_verified_split
from rkd_pipeline.stages.evidence import evidence_of, fresh, gather_evidence
from rkd_pipeline.statistics.contrasts import Block
from rkd_pipeline.statistics.replicates import Evidence
from rkd_pipeline.store.result_store import Ref, Result, Store
from rkd_pipeline.store.stage_versions import ABLATION, BENCHMARK, PRODUCT_MAPS, SPLIT, TRAINED_MODEL

EFFECTS, MISSING, TEXT, FIGURE = "ablation.parquet", "missing.parquet", "ablation.md", "ablation.png"
SHEETS = "sheets.json"
NOTHING = (
    f"No ablation was measured: no training differs from one of {', '.join(CENTRES)} in one factor at the same teacher "
    "and schedule. Run `rkd run --ablation --targets ...`, or the job `run_ablation`."
)
_MISSING_COLUMNS = ["centre", "target", "training"]


@dataclass(frozen=True)
class Group:
    """Trainings of one ablation: the design, the teacher and schedule, and per cell recipe to training."""

    design: Design
    teacher: str
    epochs: int
    cells: dict[Block, dict[str, str]]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every target and training."""
        return [(target, training) for (target, _, _), of in self.cells.items() for training in of.values()]

    def missing(self) -> pd.DataFrame:
        """Planned trainings that are not there, for every target and seed that the centre was trained on."""
        rows = []
        for (target, seed, repeat), of in self.cells.items():
            like = TrainingKey.parse(of[self.design.centre.name])
            for name in self.design.recipes:
                if name not in of:
                    key = TrainingKey.compose(name, seed=seed, teacher=like.teacher, epochs=self.epochs, repeat=repeat)
                    rows.append((self.design.centre.name, target, str(key)))
        return pd.DataFrame(rows, columns=_MISSING_COLUMNS)


def groups(rows: pd.DataFrame) -> Iterator[Group]:
    """The ablations among measured trainings: a centre and at least one training that a contrast sets against it.

    Args:
        rows: of the benchmark.
    """
    ours = rows[rows["origin"] == "measured"][["target", "training"]].drop_duplicates()
    keys = [(target, text, TrainingKey.parse(text)) for target, text in ours.itertuples(index=False)]
    for teacher, epochs in sorted({(key.teacher, key.epochs) for _, _, key in keys}, key=str):
        of_configuration = {key.recipe.name for _, _, key in keys if (key.teacher, key.epochs) == (teacher, epochs)}
        for centre in filter(of_configuration.__contains__, CENTRES):
            made = design(centre, teacher.arch)
            asked = {name for contrast in (*made.contrasts, *made.further) for name in contrast.recipes}
            cells: dict[Block, dict[str, str]] = {}
            for target, text, key in keys:
                if (key.teacher, key.epochs) == (teacher, epochs) and key.recipe.name in asked:
                    cells.setdefault((target, key.seed, key.repeat), {})[key.recipe.name] = text
            cells = {cell: of for cell, of in sorted(cells.items()) if centre in of}
            if any(len(of) > 1 for of in cells.values()):
                assert epochs is not None  # Reverse KD's
                yield Group(made, str(teacher), epochs, cells)


def build_ablation(store: Store) -> Result:
    """``ablation``: effects as parquet, CSV, markdown and figure; planned trainings and scorings that are missing."""
    benchmark = store.require(BENCHMARK)
    found = list(groups(read_benchmark(benchmark)))
    pairs = sorted({pair for group in found for pair in group.pairs})
    gathered = {pair: gather_evidence(store, *pair) for pair in pairs}
    products = {pair: fresh(store, Ref(PRODUCT_MAPS.name, *pair)) for pair in pairs}

    def write(folder: Path) -> dict[str, Any]:
        from rkd_pipeline.results.figures import effect_dots, message

        def read(pair: tuple[str, str]) -> Evidence:
            product = products[pair]
            return evidence_of(gathered[pair], *([product] if product else []))

        ablations = [_ablation(store, group, {pair: read(pair) for pair in group.pairs}) for group in found]
        effects = pd.concat([_labelled(a) for a in ablations]) if ablations else pd.DataFrame(columns=list(COLUMNS))
        effects.to_parquet(folder / EFFECTS, index=False)
        effects.to_csv((folder / EFFECTS).with_suffix(".csv"), index=False)
        missing = pd.concat([a.missing for a in ablations]) if ablations else pd.DataFrame(columns=_MISSING_COLUMNS)
        missing.to_parquet(folder / MISSING, index=False)
        sheets = [ablation_sheet(a) for a in ablations]
        text = "\n".join(f"**{s.title}**\n\n{s.markdown()}" for s in sheets) or NOTHING + "\n"
        (folder / TEXT).write_text(text, encoding="utf-8")
        (folder / SHEETS).write_text(json.dumps([asdict(sheet) for sheet in sheets]), encoding="utf-8")
        for i, a in enumerate(ablations):
            overall = a.effects[a.effects["target"] == ""]
            title = f"Effects around {a.centre}, {a.teacher}, {in_epochs(a.epochs)}; 95% intervals"
            (folder / figure_name(i)).write_bytes(effect_dots(overall, HEADINGS, title))
        if not ablations:
            (folder / FIGURE).write_bytes(message("No ablation was measured."))
        unscored = [f"{target} {training}" for (target, training), p in products.items() if p is None]
        return {"centres": [a.centre for a in ablations], "effects": len(effects), "missing": len(missing),
                "without_product_maps": unscored}  # fmt: skip

    inputs = [benchmark, *gathered.values(), *(p for p in products.values() if p)]
    # A product that is no longer up to date must be noticed as well as a new one.
    parameters = {"without_product_maps": [list(pair) for pair, p in products.items() if p is None]}
    return store.produce(ABLATION, [], write, parameters=parameters, inputs=inputs)


def figure_name(number: int) -> str:
    """The figure's file of the ablation of that number, from 0."""
    return FIGURE if number == 0 else f"ablation_{number + 1}.png"


def figure_files(ablation: Result) -> list[Path]:
    """Every figure of a built ablation."""
    return [ablation.folder / figure_name(i) for i in range(max(1, len(ablation.facts["centres"])))]


def _ablation(store: Store, group: Group, read: dict[tuple[str, str], Evidence]) -> Ablation:
    cells = {cell: {name: read[cell[0], training] for name, training in of.items()} for cell, of in group.cells.items()}
    effects, spread = analyse(group.design, cells, drawn_share(store, group.pairs))
    return Ablation(
        group.design.centre.name, group.teacher, group.epochs, effects, group.missing(), group.design.absent, spread
    )


def drawn_share(store: Store, pairs: list[tuple[str, str]]) -> dict[str, float | None]:
    """Per target, test images drawn anew per repeat over training images; None where all repeats test on the same."""
    rows = read_benchmark(store.require(BENCHMARK))
    found: dict[str, float | None] = {}
    for target, training in pairs:
        if target in found:
            continue
        if not redraws_test(read_verified_split(store.require(SPLIT, target))):
            found[target] = None
            continue
        of = rows[(rows["target"] == target) & (rows["training"] == training)]
        trained_on = int(store.require(TRAINED_MODEL, target, training).facts["train_pictures"])
        found[target] = float(of["n_normal"].iloc[0]) / trained_on
    return found


def _labelled(a: Ablation) -> pd.DataFrame:
    return a.effects.assign(centre=a.centre, teacher=a.teacher, epochs=a.epochs)[list(COLUMNS)]


def read_effects(ablation: Result) -> pd.DataFrame:
    """Columns as in ``ablation.COLUMNS``."""
    return pd.read_parquet(ablation.folder / EFFECTS)


def read_missing(ablation: Result) -> pd.DataFrame:
    """Planned trainings that are not there: centre, target, training."""
    return pd.read_parquet(ablation.folder / MISSING)


def read_sheets(ablation: Result) -> list[Sheet]:
    """The built ablation for reading, a sheet per centre and configuration."""
    return [Sheet(**sheet) for sheet in json.loads((ablation.folder / SHEETS).read_text(encoding="utf-8"))]
