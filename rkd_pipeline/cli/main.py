"""The ``rkd`` command: the same Dagster graph and instance as the UI, from a terminal.

A plan runs in this process, partition by partition. The store decides what is done; Dagster's event log is only asked
whether it has heard of it. Dagster is imported where it is used: ``rkd --help`` must not take seconds.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from rkd_pipeline import progress
from rkd_pipeline.addresses import port_fault, shown, web_address
from rkd_pipeline.cli import data_commands, model_commands
from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.errors import BadKey, RkdError, of_the_system
from rkd_pipeline.models.teacher_files import TeacherName, TeacherRegistry
from rkd_pipeline.recipes.ablation_design import INTERACTIONS
from rkd_pipeline.recipes.plans import PAPER_RECIPES, PLANS, PlannedTraining, ablation, cross, named, training_keys
from rkd_pipeline.settings import Settings
from rkd_pipeline.signals import Interrupted, signals_heeded, signals_heeded_after
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import (
    HISTORY,
    METRICS,
    PRODUCT_MAPS,
    REPORT,
    ROTATED_IMAGES,
    STAGES,
    TABLE_1,
    TABLE_2,
    TABLE_3,
    TABLE_DEMO,
)

if TYPE_CHECKING:
    import dagster as dg

    from resources.tracking import MlflowTracking
    from rkd_pipeline.data.catalog import Target
    from rkd_pipeline.operations.champions import Champion
    from rkd_pipeline.operations.rebenchmark import Round

Say = Callable[[str], None]
# No retry by the daemon: these runs belong to a process that is already gone when they fail.
_TAGS = {"rkd/launched_by": "rkd", "dagster/max_retries": "0"}
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

# Jobs that judge a trained model in another way, and what they make.
_FURTHER = {"score_product_maps": PRODUCT_MAPS, "score_turned_pictures": ROTATED_IMAGES}

_ENVIRONMENT = "Each option reads the RKD_… variable in brackets where it is not given."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status.

    0 fine, 1 something failed, 2 wrong usage; 130 and 143 ended by Ctrl-C and SIGTERM, as a shell counts.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name in letters that the terminal lacks is spelled out
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    _export(options)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        with signals_heeded():
            return command(options)
    except RkdError as error:
        print(f"rkd: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if not (said := of_the_system(error)):
            raise
        print(f"rkd: {said}", file=sys.stderr)
        return 1
    except Interrupted as ended:
        print(f"\nrkd: ended by {ended}; the same command goes on from here", file=sys.stderr)
        return ended.exit_status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("rkd", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--store", metavar="DIR", help="folder of all results, default store/ [RKD_STORE]")
    shared.add_argument("--data", metavar="DIR", help="folder that holds the datasets, default data/ [RKD_DATA]")

    shared.add_argument("--archives", metavar="DIR", help="folder of datasets' archives [RKD_ARCHIVES]")
    shared.add_argument("--download", action="store_true", help="download what is absent [RKD_DOWNLOAD=1]")

    run = commands.add_parser(
        "run", parents=[shared], help="train, score, measure, refresh the tables", description=_ENVIRONMENT
    )
    what = run.add_mutually_exclusive_group()
    what.add_argument("--plan", choices=sorted(PLANS), help="a named set of trainings instead of the options below")
    what.add_argument("--targets", default=os.environ.get("RKD_TARGETS"), help="comma-separated [RKD_TARGETS]")
    run.add_argument("--recipes", default=os.environ.get("RKD_RECIPES", "rkd"), help="comma-separated [RKD_RECIPES]")
    run.add_argument("--seeds", default=os.environ.get("RKD_SEEDS", "0"), help="comma-separated numbers [RKD_SEEDS]")
    run.add_argument("--teacher", default=os.environ.get("RKD_TEACHER"), help="e.g. resnet18 [RKD_TEACHER]")
    run.add_argument(
        "--weights",
        default=os.environ.get("RKD_WEIGHTS"),
        help="of the teacher: a torchvision name, 'random', or a file [RKD_WEIGHTS]",
    )
    run.add_argument("--epochs", type=int, default=os.environ.get("RKD_EPOCHS"), help="shorter schedule [RKD_EPOCHS]")
    run.add_argument(
        "--ablation",
        action="store_true",
        help="around each recipe, train what differs from it in one factor, and the pairs of --interactions",
    )
    run.add_argument("--interactions", help="pairs of factors, such as 'loss*beta2,loss*stop'; with --ablation")
    run.add_argument("--rotated", "--turned", action="store_true", help="score the test images rotated by quarters too")
    run.add_argument("--device", choices=["auto", "cpu", "cuda"], help="[RKD_DEVICE]")
    run.add_argument("--skip-bad", action="store_true", help="go on without unusable images [RKD_SKIP_BAD=1]")
    run.set_defaults(command=_run)

    data_commands.add_parsers(commands, shared)
    model_commands.add_parsers(commands, shared, _announce)

    mirror = commands.add_parser("mirror", parents=[shared], help="send to MLflow what it lacks")
    mirror.set_defaults(command=_mirror)

    table = commands.add_parser("table", parents=[shared], help="print a table of the paper")
    table.add_argument("number", choices=["1", "2", "3", "4", "demo"], help="of the paper; demo: the same layout")
    table.set_defaults(command=_table)

    report = commands.add_parser("report", parents=[shared], help="refresh the report and print its path")
    report.set_defaults(command=_report)

    again = commands.add_parser(
        "rebenchmark", parents=[shared], help="train a plan again with fresh seeds: what moved?"
    )
    again.add_argument("--plan", help="a plan, or measured: all that is there, default demo [RKD_REBENCHMARK_PLAN]")
    again.add_argument("--seeds", type=int, help="per configuration and repeat, default 2 [RKD_REBENCHMARK_SEEDS]")
    again.add_argument("--new-draws", type=int, help="on other test images, default 0 [RKD_REBENCHMARK_NEW_DRAWS]")
    again.add_argument("--new-reference", metavar="WHY", help="accept the level of the last round, and train nothing")
    again.set_defaults(command=_rebenchmark)

    status = commands.add_parser("status", parents=[shared], help="what the store holds")
    status.set_defaults(command=_status)

    prune = commands.add_parser("prune", parents=[shared], help="list what can be deleted without loss, and delete it")
    prune.add_argument("--yes", action="store_true", help="delete it; without this nothing is")
    prune.set_defaults(command=_prune)

    ui = commands.add_parser("ui", parents=[shared], help="Dagster's and MLflow's pages over this store")
    ui.add_argument("--host", default="127.0.0.1")
    ui.add_argument("--port", type=int, default=3000, help="of Dagster, default 3000")
    ui.add_argument("--mlflow-port", type=int, default=5000, help="of MLflow, default 5000")
    ui.set_defaults(command=_ui)
    return parser


def _export(options: argparse.Namespace) -> None:
    """Options become the environment that the definitions read, here and in child processes."""
    for name in ("store", "data", "archives", "device"):
        if value := getattr(options, name, None):
            os.environ[f"RKD_{name.upper()}"] = str(value)
    for name in ("plan", "seeds", "new_draws") if options.command is _rebenchmark else ():
        if (value := getattr(options, name)) is not None:
            os.environ[f"RKD_REBENCHMARK_{name.upper()}"] = str(value)
    for name in ("download", "skip_bad"):
        if getattr(options, name, False):
            os.environ[f"RKD_{name.upper()}"] = "1"
    if archives := os.environ.get("RKD_ARCHIVES"):
        os.environ["RKD_ARCHIVES"] = str(Path(archives).resolve())
    for name in ("store", "data"):  # a relative folder must mean the same in every process
        variable = f"RKD_{name.upper()}"
        os.environ[variable] = str(Path(os.environ.get(variable) or name).resolve())


def _run(options: argparse.Namespace) -> int:
    terminal = os.fdopen(
        os.dup(2), "w", errors="backslashreplace"
    )  # Dagster captures file descriptor 2 while a step runs
    progress.show_on(terminal)
    session = Session.open(say=lambda text: print(text, file=terminal, flush=True))
    cells = named(options.plan) if options.plan else _asked_for(session, options)
    further = ["score_product_maps"] if options.ablation or options.plan == "ablation" else []
    report = session.run(cells, further + ["score_turned_pictures"] * options.rotated)
    print(report.text)
    return 0 if report.failed == 0 else 1


def _rebenchmark(options: argparse.Namespace) -> int:
    from rkd_pipeline.operations import rebenchmark

    if options.new_reference is not None:
        settings = Settings.from_environment()
        print(f"round {rebenchmark.accept(Store(settings.store), options.new_reference)} is the new reference")
        return 0
    terminal = os.fdopen(os.dup(2), "w", errors="backslashreplace")
    progress.show_on(terminal)
    session = Session.open(say=lambda text: print(text, file=terminal, flush=True))
    report = session.rebenchmark()
    print(report.text)
    return 0 if report.failed == 0 else 1


def _asked_for(session: "Session", options: argparse.Namespace) -> list[PlannedTraining]:
    return session.plan(
        _names(options.targets, "--targets"),
        _names(options.recipes, "--recipes"),
        _numbers(options.seeds, "--seeds"),
        teacher=options.teacher,
        weights=options.weights,
        epochs=options.epochs,
        interactions=_pairs(options) if options.ablation else None,
    )


def _pairs(options: argparse.Namespace) -> Sequence[tuple[str, str]]:
    if options.interactions is None:
        return INTERACTIONS
    pairs = [part.partition("*") for part in options.interactions.split(",") if part.strip()]
    return [(one.strip(), other.strip()) for one, _, other in pairs]


def _names(text: str | None, option: str) -> list[str]:
    names = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not names:
        raise RkdError(f"{option} is empty; name at least one, separated by commas")
    return names


def _numbers(text: str | None, option: str) -> list[int]:
    names = _names(text, option)
    if wrong := [name for name in names if not name.isdecimal()]:
        raise RkdError(f"{option}: {wrong[0]!r} is not a whole number from 0")
    return [int(name) for name in names]


def _table(options: argparse.Namespace) -> int:
    session = Session.open(say=lambda text: print(text, file=sys.stderr))
    print(session.table(options.number))
    return 0


def _report(options: argparse.Namespace) -> int:
    session = Session.open(say=lambda text: print(text, file=sys.stderr))
    print(session.report())
    return 0


def _announce(store: Store, champion: "Champion") -> None:
    """Tell MLflow and Dagster of a new champion, which is on record whatever they say."""
    from assets.champion import told

    session = Session.open(say=lambda text: print(text, file=sys.stderr))
    print(told(store, champion, session.tracking(), session.instance))


def _mirror(options: argparse.Namespace) -> int:
    session = Session.open(say=lambda text: print(text, file=sys.stderr))
    if error := session._launch("mirror_to_mlflow"):
        raise RkdError(error)
    uri = shown(session.tracking().tracking_uri(session.store))
    print(f"MLflow ({uri}) has everything that is finished in {session.store.root}")
    return 0


def _status(options: argparse.Namespace) -> int:
    from rkd_pipeline.operations.status import training_states

    store = Store(Settings.from_environment().store)
    states = training_states(store)
    print(f"store {store.root}")
    print(states.to_markdown(index=False) if len(states) else "no trainings yet; see `rkd run --help`")
    return 0


def _prune(options: argparse.Namespace) -> int:
    from tabulate import tabulate

    from rkd_pipeline.operations import pruning

    store = Store(Settings.from_environment().store)
    items = pruning.prunable(store)
    sizes = pruning.sizes(items)
    rows = [(item.what, f"{size / 2**20:.1f}", item.why) for item, size in zip(items, sizes, strict=True)]
    print(f"store {store.root}")
    if not items:
        print("nothing can be deleted without loss")
        return 0
    print(tabulate(rows, ["what", "MiB", "why it can go"], "pipe", disable_numparse=True))
    stayed = pruning.prune(store, items) if options.yes else {}
    for what, why in stayed.items():
        print(f"stays   {what}: {why}")
    gone = sum(size for item, size in zip(items, sizes, strict=True) if item.what not in stayed)
    print(f"{gone / 2**20:.1f} MiB {'deleted' if options.yes else 'could be deleted; nothing was, without --yes'}")
    return 0


def _ui(options: argparse.Namespace) -> int:
    elsewhere = Settings.from_environment().mlflow_uri.startswith(("http://", "https://", "databricks"))
    _require_ports(options, ["port"] if elsewhere else ["port", "mlflow_port"])
    session = Session.open(say=print)
    session.offer_paper_keys()
    mlflow_pages = web_address(options.host, options.mlflow_port)
    tracking = session.tracking(mlflow_pages)
    uri = tracking.tracking_uri(session.store)
    workspace = ["-m", "rkd_pipeline.definitions", "-d", str(Path(__file__).parents[2])]
    commands = [["-m", "dagster_dg_cli.cli", "dev", "-h", options.host, "-p", str(options.port), *workspace]]
    if not elsewhere:
        tracking.prepare(session.store)
        mlflow = ["-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
        commands.append([*mlflow, "--host", options.host, "--port", str(options.mlflow_port)])
    served = {"RKD_MLFLOW_PAGES": mlflow_pages}  # links on asset pages lead there
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    children = [
        # Each leads its own group, so that its own children end with it.
        subprocess.Popen(
            [sys.executable, *command],
            start_new_session=True,
            env=os.environ | served | quiet,
        )
        for command in commands
    ]
    print(f"Dagster  {web_address(options.host, options.port)}")
    print(f"MLflow   {tracking.address(session.store)}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while all(child.poll() is None for child in children):
            time.sleep(0.5)
        return 1  # one of them ended by itself; its own message is above
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(children)


def _require_ports(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Raise ``RkdError`` unless the servers can listen where they are to: the addresses are printed at once."""
    for name in names:
        if fault := port_fault(options.host, getattr(options, name)):
            option = f"--{name.replace('_', '-')}"
            raise RkdError(f"{option}: {fault}; choose another: rkd ui {option} NUMBER, make ui {name.upper()}=NUMBER")
    if len({getattr(options, name) for name in names}) < len(names):
        raise RkdError(f"--port and --mlflow-port are both {options.port}; each server needs a port of its own")


def _stop(children: list[subprocess.Popen[bytes]]) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        for child in children:
            if child.poll() is None:
                os.killpg(child.pid, number)
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and any(child.poll() is None for child in children):
            time.sleep(0.2)


@dataclass
class Report:
    """How a run went: what to print, and how many trainings failed."""

    failures: dict[str, str] = field(default_factory=dict)
    text: str = ""

    @property
    def failed(self) -> int:
        """Partitions that did not finish."""
        return len(self.failures)


class Session:
    """The graph over the environment's settings, in this process."""

    def __init__(self, settings: Settings, store: Store, instance: "dg.DagsterInstance", say: Say) -> None:
        from rkd_pipeline.definitions import build_defs

        self.settings, self.store, self.instance, self.say = settings, store, instance, say
        self.defs = build_defs(settings)

    @classmethod
    def open(cls, say: Say) -> "Session":
        """Open store and instance; runs of dead processes are reported failed first."""
        from assets.partitions import offer_targets
        from resources.instance import open_instance

        settings = Settings.from_environment()
        store = Store(settings.store)
        instance, dead = open_instance(store)
        offer_targets(instance, targets_in(store))
        for run_id in dead:
            say(f"run {run_id[:8]} was left by a process that is gone; reported as failed")
        return cls(settings, store, instance, say)

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
            self.say(f"teacher {name} is {weights}")
            return name
        if teacher is None:
            return None
        return TeacherName.parse(f"{teacher}.{weights.lower()}" if weights else teacher)

    def run(self, cells: list[PlannedTraining], further: Sequence[str] = (), begun: "Round | None" = None) -> Report:
        """Do what is missing of a plan, go on past failures, refresh the tables, and report.

        ``further`` names jobs to run on every cell once it is trained. Where the cells are a re-benchmark's
        (``begun``), it is recorded before the tables are refreshed.
        """
        from assets.partitions import TRAINING_DIMENSION
        from rkd_pipeline.operations.status import training_state

        started = time.monotonic()
        report = Report()
        blocked = self._prepare_data(list(dict.fromkeys(c.target for c in cells)))
        self._launch("list_teachers")
        self.instance.add_dynamic_partitions(TRAINING_DIMENSION, training_keys(cells))
        before = {cell: training_state(self.store, cell.target, cell.training) for cell in cells}
        with progress.bar(len(cells), "trainings", "training") as bar:
            for cell in cells:
                name = f"{cell.target} {cell.training}"
                bar.set_postfix_str(name)
                error = None if self._known(cell, before[cell]) else blocked.get(cell.target) or self._train(cell)
                for job in further:
                    error = error or self._score(job, cell)
                if error:
                    report.failures[name] = error
                    bar.clear()
                    self.say(f"failed: {name}: {error}")
                bar.update()
        if begun is not None:
            from resources.hooks import Hook
            from rkd_pipeline.operations import rebenchmark

            hook = Hook.of(self.settings).process_config_and_initialize()
            rebenchmark.record_and_tell(self.store, begun, report.failures, hook.tell)
        if error := self._launch("refresh_tables"):
            report.failures["tables"] = error
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
        self.say(f"re-benchmark {begun.number} of {begun.plan}: {len(begun.cells)} trainings")
        report = self.run(begun.cells, begun=begun)
        history = self.store.require(HISTORY)
        report.text += "\n\n" + (history.folder / "history.md").read_text(encoding="utf-8")
        return report

    def table(self, number: str) -> str:
        """A table as markdown, refreshed."""
        stage = STAGES[f"table_{number}"]
        self._refresh()
        return (self.store.require(stage).folder / f"{stage.name}.md").read_text(encoding="utf-8")

    def report(self) -> Path:
        """The report's file, refreshed."""
        self._refresh()
        return self.store.require(REPORT).folder / "report.html"

    def _refresh(self) -> None:
        if error := self._launch("refresh_tables"):
            raise RkdError(error)

    def offer_paper_keys(self) -> None:
        """Add the paper's own training keys, so that the UI has something to materialise."""
        from assets.partitions import TRAINING_DIMENSION

        keys = [cell.training for cell in cross(["any"], PAPER_RECIPES, [0, 1, 2])]
        self.instance.add_dynamic_partitions(TRAINING_DIMENSION, keys)

    def tracking(self, pages: str | None = None) -> "MlflowTracking":
        """The mirror, as configured; ``pages``: where the store's own MLflow is served, if not where that says."""
        from resources.tracking import MlflowTracking

        return MlflowTracking(uri=self.settings.mlflow_uri, pages=pages or self.settings.mlflow_pages)

    def _prepare_data(self, targets: list[str]) -> dict[str, str]:
        """Bring targets up to date with their files; returns, per target that could not be prepared, why.

        Launched every time: only the files can tell whether they have changed, and what has not is not made again.
        """
        blocked = {}
        for name in targets:
            if error := self._launch("prepare_target", name):
                blocked[name] = f"its data is not ready: {error}"
        return blocked

    def _known(self, cell: PlannedTraining, state: str) -> bool:
        """Done in the store, heard of by Dagster, mirrored to MLflow: nothing to launch."""
        from assets.partitions import grid_key
        from rkd_pipeline.stages.benchmark import mlflow_run_id

        heard = self._heard(METRICS.name, grid_key(cell.target, cell.training))
        return state == "done" and heard and mlflow_run_id(self.store, cell.target, cell.training) is not None

    def _heard(self, asset: str, partition: str) -> bool:
        import dagster as dg

        return partition in self.instance.get_materialized_partitions(dg.AssetKey(asset))

    def _train(self, cell: PlannedTraining) -> str | None:
        from assets.partitions import grid_key

        error = None
        if cell.shared is not None:  # its recipe scores another one's training otherwise: that comes first
            error = self._launch("train_model", grid_key(cell.shared.target, cell.shared.training))
        return error or self._launch("train_and_evaluate", grid_key(cell.target, cell.training))

    def _score(self, job: str, cell: PlannedTraining) -> str | None:
        """A further scoring of a trained cell, unless it is done and Dagster has heard of it."""
        from assets.partitions import grid_key

        stage, partition = _FURTHER[job], grid_key(cell.target, cell.training)
        found = self.store.find(Ref(stage.name, cell.target, cell.training))
        if found and not self.store.why_stale(found) and self._heard(stage.name, partition):
            return None
        return self._launch(job, partition)

    def _launch(self, job: str, partition: str | None = None) -> str | None:
        """Run a job here; returns what went wrong, or None."""
        with signals_heeded_after():
            result = self.defs.resolve_job_def(job).execute_in_process(
                instance=self.instance,
                partition_key=partition,
                raise_on_error=False,
                run_config=_QUIET,
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
        from rkd_pipeline.operations.status import image_auroc_summary
        from rkd_pipeline.stages.benchmark import mlflow_run_id

        done_before = sum(state == "done" for state in before.values())
        rows = image_auroc_summary(self.store, [(c.target, c.training) for c in cells])
        unmirrored = [c for c in cells if mlflow_run_id(self.store, c.target, c.training) is None]
        lines = ["", "Image AUROC of the test images, by score", rows.to_markdown(index=False), ""]
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


if __name__ == "__main__":
    sys.exit(main())
