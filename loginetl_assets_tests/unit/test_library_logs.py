"""What libraries may log in a process of ours, whoever sets which level."""

import logging
from collections.abc import Iterator

import boto3
import pytest
from sqlalchemy import create_engine, text

CANARY = "198.51.100.23"


class Seen(logging.Handler):
    """Takes everything, as a handler of a user's own would."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def text(self) -> str:
        return "\n".join(f"{record.getMessage()} {vars(record)}" for record in self.records)


@pytest.fixture
def seen() -> Iterator[Seen]:
    """A handler on the root logger, which is at DEBUG; every level that a test sets is put back."""
    seen, root = Seen(), logging.getLogger()
    before = {name: logging.getLogger(name).level for name in [None, *root.manager.loggerDict]}
    root.addHandler(seen)
    root.setLevel(logging.DEBUG)
    yield seen
    root.removeHandler(seen)
    for name in [None, *root.manager.loggerDict]:
        logging.getLogger(name).setLevel(before.get(name, logging.NOTSET))


@pytest.mark.parametrize(
    "name",
    [
        "botocore.parsers",
        "botocore.endpoint",
        "boto3.resources",
        "s3transfer.utils",
        "requests",
        "obstore",
        "sqlalchemy.engine.Engine",
        "sqlalchemy.pool.impl.NullPool",
        "alembic.runtime.migration",
        "tink",
        "absl",
        "polars",
        "a_library_of_next_year",
        "dagster_of_someone_else",
        "root",
    ],
)
def test_no_library_passes_below_info_whatever_level_is_set(name: str, seen: Seen) -> None:
    logger = logging.getLogger(name)
    own = Seen()
    logger.addHandler(own)
    logger.setLevel(1)
    try:
        logger.debug("Response body:\n%s", CANARY)
        logger.log(5, CANARY, extra={"body": CANARY})
        logger.debug("%(body)s", {"body": CANARY}, exc_info=ValueError(CANARY))
        assert not seen.records
        assert not own.records
        logger.warning("Connection pool is full.")
        assert [record.getMessage() for record in seen.records] == ["Connection pool is full."]
    finally:
        logger.removeHandler(own)


@pytest.mark.parametrize("name", ["botocore.credentials", "a_library_of_next_year", "dagster_aws"])
def test_libraries_may_speak_at_info(name: str, seen: Seen) -> None:
    logging.getLogger(name).info("Found credentials in environment variables.")

    assert [record.getMessage() for record in seen.records] == ["Found credentials in environment variables."]


@pytest.mark.parametrize("name", ["sqlalchemy.dialects.postgresql", "sqlalchemy.engine.Engine", "alembic.runtime"])
def test_statements_and_notices_are_not_told_at_info_either(name: str, seen: Seen) -> None:
    logging.getLogger(name).info("NOTICE: %s", CANARY)

    assert not seen.records


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR])
@pytest.mark.parametrize("name", ["psycopg", "urllib3.connectionpool"])
def test_neither_the_driver_nor_urllib3_quotes_in_a_log_what_it_passes_over(name: str, level: int, seen: Seen) -> None:
    logging.getLogger(name).log(level, "error ignored: %s", CANARY)

    assert not seen.records


@pytest.mark.parametrize("name", ["dagster", "dagster.code_server", "loginetl", "loginetl_assets.cli"])
def test_dagster_and_our_own_may_be_verbose(name: str, seen: Seen) -> None:
    logging.getLogger(name).debug("the step %s starts", "masked_logins")

    assert [record.getMessage() for record in seen.records] == ["the step masked_logins starts"]


def test_boto3s_own_switch_shows_no_message(seen: Seen, capsys: pytest.CaptureFixture[str]) -> None:
    boto3.set_stream_logger("", logging.DEBUG)
    root = logging.getLogger()
    stream = root.handlers[-1]
    try:
        logging.getLogger("botocore.parsers").debug("Response body:\n%s", CANARY)
    finally:
        root.removeHandler(stream)

    assert CANARY not in seen.text + capsys.readouterr().err


def test_sqlalchemys_own_switch_shows_no_row(seen: Seen, capsys: pytest.CaptureFixture[str]) -> None:
    engine = create_engine("sqlite://", echo="debug", hide_parameters=True)
    with engine.connect() as connection:
        row = connection.execute(text("SELECT CAST(:value AS text)"), {"value": CANARY}).one()
    engine.dispose()
    stream = logging.getLogger("sqlalchemy.engine.Engine")
    for handler in [*stream.handlers, *logging.getLogger("sqlalchemy").handlers]:
        handler.close()

    assert row == (CANARY,)
    assert CANARY not in seen.text + "".join(capsys.readouterr())
