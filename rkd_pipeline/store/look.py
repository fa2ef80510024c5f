"""One look at a store: what was read of its results, and why each is stale, so that both are found out once.

Whoever looks at thousands of results looks at each again and again: as itself, and as what others were made from.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rkd_pipeline.store.place import Place

if TYPE_CHECKING:
    from rkd_pipeline.store.result_store import Result


@dataclass
class Look:
    """What is known by now; names are those of ``Ref`` as text.

    Attributes:
        place: that is looked at.
        results: as they are stored; None where there is none.
        reasons: why a result is stale; None where it is not.
    """

    place: Place
    results: "dict[str, Result | None]" = field(default_factory=dict)
    reasons: dict[str, str | None] = field(default_factory=dict)

    def forget(self, name: str) -> None:
        """A result changes: it, and whether what was made from it is stale, must be looked at again."""
        self.results.pop(name, None)
        changed = {name}
        while changed:
            for made in changed:
                self.reasons.pop(made, None)
            changed = {made for made in self.reasons if self._is_made_from(made, changed)}

    def _is_made_from(self, name: str, changed: set[str]) -> bool:
        result = self.results.get(name)
        return result is None or not changed.isdisjoint(result.provenance.inputs)


# Of this thread, while there is one.
_present: ContextVar[Look | None] = ContextVar("look", default=None)


def look_at(place: Place) -> Look | None:
    """The look at a place that is under way in this thread."""
    look = _present.get()
    return look if look is not None and look.place.root == place.root else None  # one place may be opened twice


@contextmanager
def one_look(place: Place) -> Iterator[None]:
    """Around a look at many results; within another look at the same place it is that one."""
    if look_at(place) is not None:
        yield
        return
    before = _present.set(Look(place))
    try:
        with place.one_look():
            yield
    finally:
        _present.reset(before)
