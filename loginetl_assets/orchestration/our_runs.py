"""Which of the runs of a Dagster instance belong to this installation.

An instance may be shared: by other projects, and by other installations of loginetl. Only our
runs count as in flight or failed, and only they are deleted by retention.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG

INSTALLATION_TAG = "loginetl/installation"  # of a run: the id of the database that it works on
RUNS_PER_PAGE = 1_000


def label_of(run: dg.DagsterRun) -> str | None:
    """Returns the label (repository@location) of the code location that a run was launched from, if it was launched."""
    origin = run.remote_job_origin
    return origin.repository_origin.get_label() if origin else None


class OurRuns:
    """The runs of one installation on an instance.

    A run that was launched names its code location, and one whose worker has begun names the installation, by the
    tag of the database resource. `loginetl run` and `dagster asset materialize` launch nothing, so only the tag tells
    theirs.
    """

    def __init__(self, instance: dg.DagsterInstance, installation: str | None, code_location: str | None) -> None:
        """Takes what identifies the runs.

        Args:
            instance: where they are.
            installation: the id of the database they work on, if it is known.
            code_location: the label of the code location that this process belongs to, if to any; see `label_of`.
        """
        self._instance = instance
        self._installation = installation
        self._code_location = code_location

    def is_ours(self, run: dg.DagsterRun) -> bool:
        """Returns whether a run is of this code location and not of another installation."""
        launched_from, installation = label_of(run), run.tags.get(INSTALLATION_TAG)
        if launched_from and self._code_location and launched_from != self._code_location:
            return False
        if installation and self._installation:
            return installation == self._installation
        return launched_from is not None and launched_from == self._code_location

    def records(self, *, limit: int | None = None, **filters: Any) -> list[dg.RunRecord]:
        """Returns the newest of our runs, newest first; the filters are those of `RunsFilter`."""
        found = {
            record.storage_id: record
            for tags in self._tags()
            for record in self._instance.get_run_records(dg.RunsFilter(tags=tags, **filters), limit=limit)
            if self.is_ours(record.dagster_run)
        }
        return [found[storage_id] for storage_id in sorted(found, reverse=True)][:limit]

    def ids(self, **filters: Any) -> list[str]:
        """Returns the ids of all of our runs, however many there are; the filters are those of `RunsFilter`."""
        return list(dict.fromkeys(run_id for tags in self._tags() for run_id in self._pages(tags, filters)))

    def _tags(self) -> Iterator[dict[str, str]]:
        if self._installation:
            yield {INSTALLATION_TAG: self._installation}
        if self._code_location:
            yield {REPOSITORY_LABEL_TAG: self._code_location}

    def _pages(self, tags: dict[str, str], filters: dict[str, Any]) -> Iterator[str]:
        cursor = None
        while page := self._instance.get_runs(dg.RunsFilter(tags=tags, **filters), cursor=cursor, limit=RUNS_PER_PAGE):
            yield from (run.run_id for run in page if self.is_ours(run))
            cursor = page[-1].run_id
