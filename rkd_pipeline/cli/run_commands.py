"""``rkd run`` and ``rkd rebenchmark``: train what is missing, and measure it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rkd_pipeline.cli.options import export, group, one_of, open_session, refuse_beside, with_places
from rkd_pipeline.errors import RkdError
from rkd_pipeline.recipes.ablation_design import INTERACTIONS
from rkd_pipeline.recipes.plans import PLANS, named
from rkd_pipeline.signals import Interrupted

if TYPE_CHECKING:
    from rkd_pipeline.cli.session import Report

commands = group()
_OF_A_PLAN = ("targets", "recipes", "seeds", "teacher", "weights", "epochs", "ablation", "interactions")


@commands.command()
@with_places
def run(
    context: typer.Context,
    plan: Annotated[
        str | None,
        typer.Option(
            envvar="RKD_PLAN",
            help="Train a named set. It says everything itself, so the options that choose trainings are refused. "
            "systems has anomalib's models too where that extra is installed.",
            **one_of(sorted(PLANS)),
        ),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(envvar="RKD_TARGETS", metavar="NAMES", help="What to train on, separated by commas."),
    ] = None,
    recipes: Annotated[
        str, typer.Option(envvar="RKD_RECIPES", metavar="NAMES", help="How to train, separated by commas.")
    ] = "rkd",
    seeds: Annotated[
        str, typer.Option(envvar="RKD_SEEDS", metavar="NUMBERS", help="A training for each, separated by commas.")
    ] = "0",
    teacher: Annotated[
        str | None,
        typer.Option(envvar="RKD_TEACHER", metavar="NAME", help="Such as resnet18; the recipe's own if not given."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            envvar="RKD_WEIGHTS",
            metavar="NAME|FILE",
            help="The teacher's weights: a set that torchvision publishes, 'random', or a file.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(envvar="RKD_EPOCHS", help="Train for fewer epochs than the recipe says.")
    ] = None,
    ablation: Annotated[
        bool,
        typer.Option(
            "--ablation",
            envvar="RKD_ABLATION",
            help="Around each recipe, also train those that differ from it in one factor, or in a pair of them.",
        ),
    ] = False,
    interactions: Annotated[
        str | None,
        typer.Option(
            envvar="RKD_INTERACTIONS",
            metavar="PAIRS",
            help="With --ablation: which pairs of factors, such as 'loss*beta2,loss*stop'; '' for none.",
        ),
    ] = None,
    rotated: Annotated[
        bool,
        typer.Option(
            "--rotated", "--turned", envvar="RKD_ROTATED", help="Score the test images rotated by quarter turns too."
        ),
    ] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None,
        typer.Option(envvar="RKD_DEVICE", help="Where to compute; auto takes a GPU if there is one."),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", envvar="RKD_SKIP_BAD", help="Go on without images that cannot be used.")
    ] = False,
) -> int:
    """Train, score, measure, and refresh the tables.

    Name a plan, or choose targets, recipes and seeds. Only what is missing is done; a training that failed does not
    stop the others, and the exit status is then 1.
    """
    if plan is not None:
        refuse_beside(context, "plan", "says what is trained", _OF_A_PLAN, environment=True)
    if interactions is not None and not ablation:
        raise typer.BadParameter("--interactions says which pairs --ablation trains; give both, or neither")
    export(device=device, skip_bad=skip_bad)
    session = open_session()
    further = ["score_product_maps"] if ablation or plan == "ablation" else []
    cells = (
        named(plan)
        if plan is not None
        else session.plan(
            _names(targets, "--targets"),
            _names(recipes, "--recipes"),
            _numbers(seeds, "--seeds"),
            teacher=teacher,
            weights=weights,
            epochs=epochs,
            interactions=_pairs(interactions) if ablation else None,
        )
    )
    return _printed(session.run(cells, further + ["score_turned_pictures"] * rotated))


@commands.command()
@with_places
def rebenchmark(
    context: typer.Context,
    plan: Annotated[
        str | None,
        typer.Option(
            envvar="RKD_REBENCHMARK_PLAN",
            metavar="PLAN",
            help="A plan, or 'measured': all that the store holds; demo if not given.",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            envvar="RKD_REBENCHMARK_SEEDS", help="How many new seeds per configuration and repeat; 2 if not given."
        ),
    ] = None,
    new_draws: Annotated[
        int | None,
        typer.Option(
            envvar="RKD_REBENCHMARK_NEW_DRAWS",
            help="How many trainings on another draw of the test images; 0 if not given.",
        ),
    ] = None,
    new_reference: Annotated[
        str | None,
        typer.Option(
            envvar="RKD_REBENCHMARK_NEW_REFERENCE",
            metavar="WHY",
            help="Accept the level of the last round as the new reference, and train nothing.",
        ),
    ] = None,
) -> int:
    """Train a plan again with new seeds: which numbers moved?

    A number counts as moved if chance does not explain the difference. A round that was interrupted goes on.
    """
    if new_reference is not None:
        # Variables may stay: they are also settings of the schedule.
        why = "trains nothing"
        refuse_beside(context, "new_reference", why, ("plan", "seeds", "new_draws"), environment=False)
        return _accept(new_reference)
    export("RKD_REBENCHMARK_", plan=plan, seeds=seeds, new_draws=new_draws)
    return _printed(open_session().rebenchmark())


@commands.command(hidden=True)
def work() -> int:
    """Carry out trainings for a `rkd run` that has started this process, as it hands them over."""
    try:
        open_session().help_out()
    except Interrupted as ended:  # the command says so
        return ended.exit_status
    return 0


def _accept(why: str) -> int:
    from rkd_pipeline.operations import rebenchmark as rounds
    from rkd_pipeline.settings import Settings
    from rkd_pipeline.store.open_store import open_store

    number = rounds.accept(open_store(Settings.from_environment()), why)
    print(f"round {number} is the new reference")
    return 0


def _printed(report: "Report") -> int:
    from rkd_pipeline.cli.terminal import print_table

    print("\nImage AUROC of the test images, by score")
    print_table(report.scores)
    print(report.text)
    return 0 if report.failed == 0 else 1


def _pairs(text: str | None) -> Sequence[tuple[str, str]]:
    if text is None:
        return INTERACTIONS
    pairs = [part.partition("*") for part in text.split(",") if part.strip()]
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
