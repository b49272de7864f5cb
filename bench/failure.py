"""The error of a benchmark."""


class BenchmarkError(Exception):
    """A benchmark cannot run, or the result of a contender is wrong; its figures must not be used."""
