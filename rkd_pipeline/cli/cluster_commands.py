"""``rkd check-cluster``: whether machines that share a store and a Ray cluster agree."""

from rkd_pipeline.cli.options import group, with_places
from rkd_pipeline.errors import RkdError

commands = group()


@commands.command("check-cluster")
@with_places
def check_cluster() -> int:
    """Ask every node of the cluster whether code, locks, clocks, settings and files are as here."""
    from rkd_pipeline.settings import Settings

    try:
        from resources.cluster_check import check
    except ModuleNotFoundError as error:
        raise RkdError(f"{error.name} is not installed; pip install 'rkd-pipeline[cluster]'") from error
    hosts, faults = check(Settings.from_environment())
    print(f"{len(hosts)} nodes answered: {', '.join(sorted(hosts))}")
    for fault in faults:
        print(f"wrong  {fault}")
    if not faults:
        print("nothing is wrong")
    return 1 if faults else 0
