"""Errors that a user can act on. Each message names what is wrong, where, and the fix."""

from collections.abc import Iterable


class RkdError(Exception):
    """Base of every error that this project raises on purpose."""


class UnknownName(RkdError):
    """A name that is in none of our lists."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {what} {name!r}; known: {', '.join(sorted(known))}")


class BadKey(RkdError):
    """A training key that does not say what to train."""


class DataError(RkdError):
    """A dataset that is absent, incomplete or damaged."""


class TeacherError(RkdError):
    """A teacher's weights are absent or are not what their name says."""


class StoreError(RkdError):
    """A stored output is absent, or does not match what was asked for."""
