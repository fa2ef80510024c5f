"""How long many trainings take on a cluster, and what limits it: a simulation on overheads that were measured.

    python benchmarks/cluster_scale.py --launch 1.5 --begin 7 --end 10 --events 60

It simulates no network and no disk. Per run there are three overheads: Dagster's daemon launches one run after the
other (``launch``, seconds of the daemon), the run's process imports what it needs (``begin``, on its own CPU), and its
slot is freed some time after its end (``end``). What limits is what is busy all the time: the GPUs, or the daemon.
"""

import argparse
import heapq
from dataclasses import dataclass


@dataclass(frozen=True)
class Overheads:
    """Seconds per run."""

    launch: float
    begin: float
    end: float


def simulate(partitions: int, slots: int, seconds: float, costs: Overheads) -> tuple[float, float]:
    """Seconds until all partitions are done, and the share of that in which a slot trains.

    >>> simulate(4, 2, 10.0, Overheads(0.0, 0.0, 0.0))
    (20.0, 1.0)
    >>> wall, busy = simulate(1000, 64, 10.0, Overheads(2.0, 0.0, 0.0))
    >>> wall  # the daemon needs two seconds for each
    2010.0
    """
    free = [0.0] * slots  # when each slot is free
    heapq.heapify(free)
    daemon = last = 0.0
    for _ in range(partitions):
        daemon = max(daemon, heapq.heappop(free)) + costs.launch
        done = daemon + costs.begin + seconds
        last = max(last, done)
        heapq.heappush(free, done + costs.end)
    return last, partitions * seconds / (last * slots)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launch", type=float, required=True, help="seconds of the daemon per run")
    parser.add_argument("--begin", type=float, required=True, help="from a job's start to its run's start")
    parser.add_argument("--end", type=float, required=True, help="from a run's end to the next one in its slot")
    parser.add_argument("--events", type=int, required=True, help="events that a run writes into PostgreSQL")
    given = parser.parse_args()
    costs = Overheads(given.launch, given.begin, given.end)
    print("| partitions | seconds each | slots | hours | slots that train | launches a minute | events a second |")
    print("|---|---|---|---|---|---|---|")
    for partitions in (1_000, 10_000):
        for seconds in (60.0, 600.0, 3600.0):
            for slots in (1, 8, 64):
                wall, busy = simulate(partitions, slots, seconds, costs)
                rate = partitions / wall
                numbers = f"{wall / 3600:,.1f} | {busy:.0%} | {rate * 60:.1f} | {rate * given.events:.1f}"
                print(f"| {partitions:,} | {seconds:.0f} | {slots} | {numbers} |")


if __name__ == "__main__":
    main()
