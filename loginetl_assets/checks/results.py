"""What the checks share: results of one computation for those of its checks that are selected."""

from collections.abc import Iterator, Mapping

import dagster as dg


def selected_results(
    context: dg.AssetCheckExecutionContext,
    asset: str,
    results: Mapping[str, tuple[bool, dg.AssetCheckSeverity, Mapping[str, int]]],
    shared: Mapping[str, int],
) -> Iterator[dg.AssetCheckResult]:
    """Yields the selected ones of the results, by check: passed or not, severity, counts; the shared counts in each."""
    for name, (passed, severity, counts) in results.items():
        if dg.AssetCheckKey(dg.AssetKey(asset), name) in context.selected_asset_check_keys:
            yield dg.AssetCheckResult(
                check_name=name, asset_key=asset, passed=passed, severity=severity, metadata={**counts, **shared}
            )
