"""What a step did, in numbers: one record per step, under the same names in metadata, on the terminal and in tests."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import msgspec


@dataclass(frozen=True)
class StepTotals:
    """Counts that add up. A step's own record names them."""

    def __add__(self, other: Self) -> Self:
        """Returns the sums, count by count."""
        return type(self)(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})

    def as_metadata(self) -> dict[str, Any]:
        """Returns the counts by name."""
        return dict(msgspec.to_builtins(self))

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Self:
        """Returns the record of which `as_metadata` made a part of the given metadata."""
        return msgspec.convert({one.name: metadata[one.name] for one in fields(cls)}, cls)


@dataclass(frozen=True)
class BatchTotals(StepTotals):
    """What a step that works batch by batch did with them."""

    batches: int = 0
    quarantined_batches: int = 0  # not among the others
