"""The one way in which a benchmark gives up."""


class BenchmarkFailed(Exception):  # noqa: N818 - says what happened
    """A benchmark cannot run, or a contender's result is wrong; its figures must not be used."""
