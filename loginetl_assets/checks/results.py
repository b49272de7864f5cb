"""What the checks share: results of one computation for those of its checks that are selected."""

from collections.abc import Iterator, Mapping

import dagster as dg


def selected_results(
    context: dg.AssetCheckExecutionContext,
    results: Mapping[str, tuple[bool, dg.AssetCheckSeverity, Mapping[str, int]]],
    shared: Mapping[str, int],
) -> Iterator[dg.AssetCheckResult]:
    """Yields the selected ones of the results, by check: passed or not, severity, counts; the shared counts in each."""
    for key in context.selected_asset_check_keys:
        passed, severity, counts = results[key.name]
        yield dg.AssetCheckResult(
            check_name=key.name,
            asset_key=key.asset_key,
            passed=passed,
            severity=severity,
            metadata={**counts, **shared},
        )
