"""What the checks share: results of one computation for those of its checks that are selected."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import dagster as dg


class Result(NamedTuple):
    """What one check found."""

    passed: bool
    severity: dg.AssetCheckSeverity
    description: str  # what was found, against which limit, and what to do next
    metadata: Mapping[str, Any]


def selected_results(
    context: dg.AssetCheckExecutionContext, results: Mapping[str, Result], shared: Mapping[str, int]
) -> Iterator[dg.AssetCheckResult]:
    """Yields the selected ones of the results, by check, with the shared counts in each."""
    for key in context.selected_asset_check_keys:
        found = results[key.name]
        yield dg.AssetCheckResult(
            check_name=key.name,
            asset_key=key.asset_key,
            passed=found.passed,
            severity=found.severity,
            description=found.description,
            metadata={**found.metadata, **shared},
        )
