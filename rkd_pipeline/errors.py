"""Errors that a user can act on. Each message names what is wrong, where, and the fix."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rkd_pipeline.names import printable

_NAMED = 10  # problems of a kind that are spelled out


class RkdError(Exception):
    """Base of every error that this project raises on purpose; its text can be printed and stored whatever it names."""

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class UnknownName(RkdError):
    """A name that is in none of our lists."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {what} {name!r}; known: {', '.join(sorted(known))}")


class BadKey(RkdError):
    """A training key that does not say what to train."""


class DataError(RkdError):
    """A dataset that is absent, incomplete or damaged."""


@dataclass(frozen=True)
class Problem:
    """One file, or one row of a table, that cannot be used.

    Attributes:
        path: which, as the dataset names it.
        what: what is wrong with it.
        fix: what to do about it.
    """

    path: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}; {self.fix}"


def summary(problems: Iterable[Problem]) -> list[str]:
    """A line per problem; of those that one folder has in common, the first ten are named and the others counted."""
    alike: dict[tuple[str, str, str], list[Problem]] = {}
    for problem in problems:
        folder, _, name = problem.path.rpartition("/")
        # Names within the texts differ from file to file, and so do numbers.
        suffix, kind = (re.sub(r"\d+", "0", t) for t in (name.rpartition(".")[2], problem.what.replace(name, "")))
        alike.setdefault((folder, suffix, kind), []).append(problem)
    lines = []
    for (folder, _, _), group in alike.items():
        lines += [str(problem) for problem in group[:_NAMED]]
        if len(group) > _NAMED:
            lines.append(f"and {len(group) - _NAMED} more like these in {folder or 'the same place'}")
    return lines


class BadFiles(DataError):
    """Files that cannot be used: one report, which names them all or, of one kind, the first ten."""

    def __init__(
        self, where: str, problems: Sequence[Problem], of: int | None = None, *, skippable: bool = True
    ) -> None:
        self.problems = tuple(problems)
        count = f"{len(problems)}" if of is None else f"{len(problems)} of {of}"
        lines = [f"{where}: {count} {'entry' if len(problems) == 1 and of is None else 'entries'} cannot be used"]
        lines += [f"  {line}" for line in summary(self.problems)]
        if skippable:
            lines.append(
                "Mend or remove them, or go on without them: --skip-bad (or RKD_SKIP_BAD=1); every result then says so"
            )
        super().__init__("\n".join(lines))


class TeacherError(RkdError):
    """A teacher's weights are absent or are not what their name says."""


class StoreError(RkdError):
    """A stored output is absent, or does not match what was asked for."""


class NewerResult(StoreError):
    """A stored output that a newer version of this package made: it is neither read nor made again."""


class LockLost(StoreError):
    """A lock that this process held and holds no more: another may be at work on the same result."""


class Superseded(StoreError):
    """Another process has written the same record first."""


class DamagedRecord(StoreError):
    """An entry of a store whose record cannot be read."""


class NotWhatWasWritten(StoreError):
    """Bytes that came back from a store are not those that went into it."""


class CheckpointError(StoreError):
    """A checkpoint that cannot be resumed: damaged, or of another training."""


# The kernel's words, and SQLite's, of which the second also stands for a folder that may not be written.
_NO_ACCESS = re.compile(
    "Permission denied|Operation not permitted|Read-only file system"
    "|attempt to write a readonly database|unable to open database file"
)
# The kernel's words, and SQLite's: it speaks of an I/O error where its shared memory cannot grow.
_NO_ROOM = re.compile("No space left on device|Disk quota exceeded|disk is full|disk I/O error")


def no_room(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error."""
    while error is not None:
        if _NO_ROOM.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def of_the_system(error: BaseException | None) -> str:
    """What to say of an error that a full disk or a missing permission is behind; empty where neither is.

    Libraries wrap what the kernel says, so the causes are looked at too.
    """
    while error is not None:
        said = (str(error).splitlines() or [""])[0]
        if _NO_ROOM.search(str(error)):
            return (
                f"{said}. Make room on the disk (`rkd prune` lists what can go) and start again: what is done is kept"
            )
        if _NO_ACCESS.search(str(error)):
            return printable(
                f"{said}. The place belongs to another user, or is read-only: run as its owner, get write permission "
                "for the store and what is in it, or name another place (--store, --output)"
            )
        error = error.__cause__ or error.__context__
    return ""
