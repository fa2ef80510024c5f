"""A session: Dagster's graph over one store, run from a terminal, with the same instance as the UI.

A plan runs in this process, partition by partition. The store decides what is done; Dagster's event log is only asked
whether it has heard of it.
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rkd_pipeline.cli.helpers import Orders, Waiting, helpers
from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.errors import BadKey, RkdError
from rkd_pipeline.models.teacher_files import TeacherName, TeacherRegistry
from rkd_pipeline.progress import bar, say
from rkd_pipeline.recipes.plans import PAPER_RECIPES, PlannedTraining, ablation, cross, training_keys
from rkd_pipeline.settings import Settings
from rkd_pipeline.signals import signals_heeded_after
from rkd_pipeline.store.open_store import open_store, require_settings_of_a_shared_store
from rkd_pipeline.store.result_store import Ref, Result, Store
from rkd_pipeline.store.stage_versions import (
    EXPORTED_MODEL,
    HISTORY,
    METRICS,
    PRODUCT_MAPS,
    REPORT,
    ROTATED_IMAGES,
    TABLE_1,
    TABLE_2,
    TABLE_3,
    TABLE_DEMO,
)

if TYPE_CHECKING:
    import dagster as dg

    from resources.tracking import MlflowTracking
    from rkd_pipeline.data.catalog import Target
    from rkd_pipeline.operations.rebenchmark import Round

# No retry by the daemon: these runs belong to a process that is already gone when they fail.
_TAGS = {"rkd/launched_by": "rkd", "dagster/max_retries": "0"}
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

# Jobs that judge a trained model in another way, and what they make.
_FURTHER = {"score_product_maps": PRODUCT_MAPS, "score_turned_pictures": ROTATED_IMAGES}


@dataclass
class Report:
    """How a run went: what failed and why, the scores of its trainings, and what to print below them."""

    failures: dict[str, str] = field(default_factory=dict)
    scores: pd.DataFrame = field(default_factory=pd.DataFrame)
    text: str = ""

    @property
    def failed(self) -> int:
        """Partitions that did not finish."""
        return len(self.failures)


class Session:
    """The graph over the environment's settings, in this process."""

    def __init__(self, settings: Settings, store: Store, instance: "dg.DagsterInstance") -> None:
        from rkd_pipeline.definitions import build_defs

        self.settings, self.store, self.instance = settings, store, instance
        self.defs = build_defs(settings)

    @classmethod
    def open(cls) -> "Session":
        """Open store and instance; runs of dead processes are reported failed first."""
        from assets.partitions import offer_targets
        from resources.instance import open_instance
        from rkd_pipeline.cli.cluster_run import launches_elsewhere

        settings = Settings.from_environment()
        require_settings_of_a_shared_store(settings)
        store = open_store(settings)
        instance, dead = open_instance(store, settings.trainings_per_device, settings.dagster_yaml)
        require_settings_of_a_shared_store(settings, on_a_cluster=launches_elsewhere(instance))
        offer_targets(instance, targets_in(store))
        for run_id in dead:
            say(f"run {run_id[:8]} was left by a process that is gone; reported as failed")
        return cls(settings, store, instance)

    def plan(
        self,
        targets: list[str],
        recipes: list[str],
        seeds: Sequence[int],
        *,
        teacher: str | None = None,
        weights: str | None = None,
        epochs: int | None = None,
        interactions: Sequence[tuple[str, str]] | None = None,
    ) -> list[PlannedTraining]:
        """The trainings asked for; a weights file is registered on the way. Raises ``RkdError`` for what cannot be.

        With ``interactions`` (maybe none), the ablation around each recipe.
        """
        for name in targets:
            targets_in(self.store).target(name)
        named = self._teacher(teacher, weights)
        if named is None and weights is not None:
            raise BadKey(f"--weights {weights} needs --teacher ARCH: weights belong to one architecture")
        if interactions is not None:
            return ablation(targets, recipes, seeds, teacher=named, epochs=epochs, interactions=interactions)
        return cross(targets, recipes, seeds, teacher=named, epochs=epochs)

    def _teacher(self, teacher: str | None, weights: str | None) -> TeacherName | None:
        if weights is not None and (Path(weights).suffix or Path(weights).exists()):
            from rkd_pipeline.models.weights import register_weights

            name = register_weights(TeacherRegistry(self.store.teachers_file), Path(weights), teacher)
            say(f"teacher {name} is {weights}")
            return name
        if teacher is None:
            return None
        return TeacherName.parse(f"{teacher}.{weights.lower()}" if weights else teacher)

    def run(self, cells: list[PlannedTraining], further: Sequence[str] = (), begun: "Round | None" = None) -> Report:
        """Do what is missing of a plan, go on past failures, refresh the tables, and report.

        What another process or machine is at comes last: the same command on several machines shares the work. Where
        trainings share a device (``RKD_TRAININGS_PER_DEVICE``), helpers carry out some of them at the same time.
        ``further`` names jobs to run on every cell once it is trained. Where the cells are a re-benchmark's
        (``begun``), it is recorded before the tables are refreshed.
        """
        from rkd_pipeline.cli import cluster_run
        from rkd_pipeline.operations.status import image_auroc_summary, states_of

        started = time.monotonic()
        report = Report()
        elsewhere = cluster_run.launches_elsewhere(self.instance)
        if elsewhere:
            before = states_of(self.store, cells)
            report.failures |= cluster_run.carry_out(self.store, self.instance, cells, further)
        else:
            before = self._carry_out_all(cells, further, report)
        if begun is not None:
            from resources.hooks import Hook
            from rkd_pipeline.operations import rebenchmark

            hook = Hook.of(self.settings).process_config_and_initialize()
            rebenchmark.record_and_tell(self.store, begun, report.failures, hook.tell)
        if not self._tables_are_known() and (error := self._refreshed()):
            report.failures["tables"] = error
        report.scores = image_auroc_summary(self.store, cells)
        report.text = self._summary(cells, before, report, time.monotonic() - started)
        return report

    def rebenchmark(self) -> Report:
        """Begin a re-benchmark, or go on with the open one; train it, record it, and say what moved."""
        from rkd_pipeline.operations import rebenchmark

        settings = self.settings
        waiting = rebenchmark.open_rounds(self.store)
        begun = (
            waiting[0]
            if waiting
            else rebenchmark.begin(
                self.store,
                settings.rebenchmark_plan,
                f"rkd rebenchmark, {uuid.uuid4().hex[:8]}",
                seeds=settings.rebenchmark_seeds,
                new_draws=settings.rebenchmark_new_draws,
            )
        )
        say(f"re-benchmark {begun.number} of {begun.plan}: {len(begun.cells)} trainings")
        report = self.run(begun.cells, begun=begun)
        history = self.store.require(HISTORY)
        report.text += "\n\n" + (history.folder / "history.md").read_text(encoding="utf-8")
        return report

    def export(self, target_name: str, training: str, format_: str, precision: str) -> Result:
        """``exported_model``, whatever its gate says. Raises ``RkdError`` where it could not be made."""
        from assets.partitions import TRAINING_DIMENSION, grid_key
        from rkd_pipeline.stages.deployment import wanted_export

        self.instance.add_dynamic_partitions(TRAINING_DIMENSION, [training])
        configured = {EXPORTED_MODEL.name: {"config": {"format": format_, "precision": precision}}}
        with bar(0, f"export {target_name} {training}", "step", inner=True):
            error = self.launch("export_model", grid_key(target_name, training), configured)
        made = wanted_export(self.store, target_name, training, format_, precision)
        if made is None:  # a file that failed its gate is there, and the caller says what it found
            raise RkdError(error or f"{target_name} {training} was not exported")
        return made

    def refresh(self) -> None:
        """Make tables, figures and report anew; raises ``RkdError`` where that failed."""
        if error := self._refreshed():
            raise RkdError(error)

    def _refreshed(self) -> str | None:
        with bar(0, "refresh tables and report", "step", inner=True), self.store.one_look():
            return self.launch("refresh_tables")

    def _tables_are_known(self) -> bool:
        """As they would be now, heard of by Dagster, the report sent to MLflow: nothing to launch."""
        import dagster as dg

        from rkd_pipeline.operations.tables_in_step import tables_are_in_step
        from rkd_pipeline.stages.mirror_records import mirrored_report

        if self.instance.get_latest_materialization_event(dg.AssetKey(REPORT.name)) is None:
            return False
        return mirrored_report(self.store) is not None and tables_are_in_step(self.store)

    def offer_paper_keys(self) -> None:
        """Add the paper's own training keys, so that the UI has something to materialise."""
        from assets.partitions import TRAINING_DIMENSION

        keys = [cell.training for cell in cross(["any"], PAPER_RECIPES, [0, 1, 2])]
        self.instance.add_dynamic_partitions(TRAINING_DIMENSION, keys)

    def tracking(self, pages: str | None = None) -> "MlflowTracking":
        """The mirror, as configured; ``pages``: where the store's own MLflow is served, if not where that says."""
        from resources.tracking import MlflowTracking

        return MlflowTracking(uri=self.settings.mlflow_uri, pages=pages or self.settings.mlflow_pages)

    def _prepare_data(
        self, cells: Sequence[PlannedTraining], waiting: Waiting
    ) -> tuple[dict[str, str], dict[PlannedTraining, str]]:
        """Bring targets up to date with their files, and let the trainings of each begin.

        Launched every time: only the files can tell whether they have changed, and what has not is not made again.

        Returns:
            per target that could not be prepared, why; and the state of every cell before it could begin.
        """
        from rkd_pipeline.operations.status import states_of

        targets = list(dict.fromkeys(c.target for c in cells))
        blocked: dict[str, str] = {}
        before: dict[PlannedTraining, str] = {}
        with bar(len(targets), "prepare images", "target", inner=True) as shown:
            for name in targets:
                shown.note(name)
                if error := self.launch("prepare_target", name):
                    blocked[name] = f"its data is not ready: {error}"
                    waiting.drop(name)
                before |= states_of(self.store, [c for c in cells if c.target == name])
                waiting.prepared(name)
                shown.update()
        return blocked, before

    def _carry_out_all(
        self, cells: Sequence[PlannedTraining], further: Sequence[str], report: Report
    ) -> dict[PlannedTraining, str]:
        """Every cell with its claim held: first those that nobody else is at, then the others, as they come free.

        Helpers begin while this process still prepares images. Returns each cell's state before it was carried out.
        """
        from assets.partitions import TRAINING_DIMENSION
        from rkd_pipeline.operations.status import states_of

        self.launch("list_teachers")
        self.instance.add_dynamic_partitions(TRAINING_DIMENSION, training_keys(cells))
        found = states_of(self.store, cells)  # if files have changed since, too few helpers may start
        slots, missing = self._slots(found), sum(state != "done" for state in found.values())
        waiting = Waiting(cells, unprepared={c.target for c in cells})
        with bar(len(cells), "trainings", "training") as shown:

            def note(cell: PlannedTraining, error: str | None) -> None:
                if error:
                    report.failures[f"{cell.target} {cell.training}"] = error
                    say(f"failed: {cell.target} {cell.training}: {error}")
                shown.update()

            with helpers(max(0, min(slots, missing) - 1), waiting, further, note, slots):
                blocked, before = self._prepare_data(cells, waiting)
                for cell in (c for c in cells if c.target in blocked):
                    note(cell, self._carry_out(cell, further, blocked[cell.target]))
                for cell in waiting:
                    with self.store.lock_if_free(_claim(cell)) as free:
                        if free:
                            note(cell, self._carry_out(cell, further))
                        else:
                            waiting.others.append(cell)
            for cell in waiting.others:
                with self.store.lock(_claim(cell)):
                    note(cell, self._carry_out(cell, further))
        return before

    def help_out(self) -> None:
        """As a helper of another process's ``run``: carry out what it hands over, until it ends."""
        orders = Orders()
        for cell, further in orders:
            with self.store.lock_if_free(_claim(cell)) as free:
                if free:
                    orders.answer(error=self._carry_out(cell, further))
            if not free:
                orders.answer(busy=True)

    def _carry_out(self, cell: PlannedTraining, further: Sequence[str], blocked: str | None = None) -> str | None:
        """One training as far as it is missing, and further jobs on it; returns what went wrong, or None."""
        error = None if self._known(cell) else blocked or self._train(cell)
        for job in further:
            error = error or self._score(job, cell)
        return error

    def _slots(self, before: dict[PlannedTraining, str]) -> int:
        """Trainings that share the device. Asked only where it matters: torch takes seconds to load."""
        from resources.compute import ComputeResource

        if sum(state != "done" for state in before.values()) < 2 or self.settings.trainings_per_device == 1:
            return 1
        return ComputeResource.of(self.settings).choose().slots

    def _known(self, cell: PlannedTraining) -> bool:
        """Done in the store, heard of by Dagster, mirrored to MLflow: nothing to launch."""
        from assets.partitions import grid_key
        from rkd_pipeline.operations.status import training_state
        from rkd_pipeline.stages.mirror_records import mlflow_run_id

        state = training_state(self.store, cell.target, cell.training)
        heard = self._heard(METRICS.name, grid_key(cell.target, cell.training))
        return state == "done" and heard and mlflow_run_id(self.store, cell.target, cell.training) is not None

    def _heard(self, asset: str, partition: str) -> bool:
        import dagster as dg

        return partition in self.instance.get_materialized_partitions(dg.AssetKey(asset))

    def _train(self, cell: PlannedTraining) -> str | None:
        from assets.partitions import grid_key

        error = None
        if cell.shared is not None:  # its recipe scores another one's training otherwise: that comes first
            error = self.launch("train_model", grid_key(cell.shared.target, cell.shared.training))
        return error or self.launch("train_and_evaluate", grid_key(cell.target, cell.training))

    def _score(self, job: str, cell: PlannedTraining) -> str | None:
        """A further scoring of a trained cell, unless it is done and Dagster has heard of it."""
        from assets.partitions import grid_key

        stage, partition = _FURTHER[job], grid_key(cell.target, cell.training)
        found = self.store.find(Ref(stage.name, cell.target, cell.training))
        if found and not self.store.why_stale(found) and self._heard(stage.name, partition):
            return None
        return self.launch(job, partition)

    def launch(self, job: str, partition: str | None = None, ops: Mapping[str, Any] | None = None) -> str | None:
        """Run a job here, its assets configured by ``ops``; returns what went wrong, or None."""
        with signals_heeded_after():
            result = self.defs.resolve_job_def(job).execute_in_process(
                instance=self.instance,
                partition_key=partition,
                raise_on_error=False,
                run_config=_QUIET | ({"ops": dict(ops)} if ops else {}),
                tags=_TAGS,
            )
        if result.success:
            return None
        failures = [e.step_failure_data for e in result.all_events if e.is_step_failure]
        for failure in failures:
            if failure.user_failure_data is not None:
                return str(failure.user_failure_data.description)
            if failure.error is not None:
                cause = failure.error.cause or failure.error
                return f"{cause.message.strip()} (run {result.run_id[:8]} in the UI has the trace)"
        return f"run {result.run_id[:8]} failed; the UI has its log"

    def _summary(
        self, cells: list[PlannedTraining], before: dict[PlannedTraining, str], report: Report, seconds: float
    ) -> str:
        from rkd_pipeline.stages.mirror_records import mlflow_run_id

        done_before = sum(state == "done" for state in before.values())
        unmirrored = [c for c in cells if mlflow_run_id(self.store, c.target, c.training) is None]
        lines = [""]
        targets = {targets_in(self.store).target(c.target) for c in cells}
        names = {_table_with(target) for target in targets if not target.own}
        tables = {name: t.folder / f"{name}.md" for name in sorted(names) if (t := self.store.find(Ref(name)))}
        if TABLE_DEMO.name in tables:
            lines.append(tables[TABLE_DEMO.name].read_text(encoding="utf-8"))
        lines.append(
            f"{len(cells)} trainings: {done_before} were done before, {report.failed} failed; {seconds:.0f} s in all"
        )
        lines += [f"failed  {name}: {why}" for name, why in report.failures.items()]
        if unmirrored and not report.failed:
            lines.append(
                f"MLflow did not take {len(unmirrored)} of them; `rkd mirror` sends them, or says what hinders it"
            )
        lines += [f"table   {file}" for file in tables.values()]
        if written := self.store.find(Ref(REPORT.name)):
            lines.append(f"report  {written.folder / 'report.html'}")
        results = [found for c in cells if (found := self.store.find(Ref(METRICS.name, c.target, c.training)))]
        lines += [f"image {result.folder / 'maps.png'}" for result in results]
        lines.append("        beside each: scores.png, curves.png and losses.png")
        lines.append(f"pages   make ui, then http://127.0.0.1:3000 (Dagster) and {self.tracking().address(self.store)}")
        return "\n".join(lines)


def _table_with(target: "Target") -> str:
    """The paper's table that a target of the catalog stands in, or the demo's."""
    by_kind = {"texture": TABLE_1, "object": TABLE_2, "medical": TABLE_3}
    return (TABLE_DEMO if target.dataset == "demo" else by_kind[target.kind]).name


def _claim(cell: PlannedTraining) -> str:
    """The lock of whoever carries a training out, from its first step to its last."""
    return f"training {cell.target} {cell.training}"
