"""What libraries log, in a run whose Dagster instance keeps all they say: no value, and nothing that stops the run."""

import logging
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import text

from loginetl_assets.storage.copying import copy_rows
from loginetl_assets_tests.support.pipeline import MARKS, Pipeline, marked_logins

VERBOSE = {"managed_python_loggers": ["root", "sqlalchemy", "alembic", "botocore"], "python_log_level": "DEBUG"}

TALKATIVE_TRIGGER = """
CREATE FUNCTION public.tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE INFO '%', NEW; RAISE NOTICE '%', NEW; RAISE WARNING '%', NEW; RETURN NEW; END $$;
CREATE TRIGGER tell BEFORE INSERT ON public.user_logins FOR EACH ROW EXECUTE FUNCTION public.tell();
"""


@pytest.fixture
def verbose_pipeline(pipeline: Pipeline, tmp_path: Path) -> Iterator[Pipeline]:
    """The pipeline on Dagster's own default storage, with all loggers managed; their levels are put back."""
    names = [None, "sqlalchemy", "alembic", "botocore"]
    before = {name: logging.getLogger(name).level for name in names}
    home = tmp_path / "verbose"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home), overrides={"python_logs": VERBOSE}) as instance:
        yield Pipeline(pipeline.settings, instance)
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.timeout(120)
def test_what_a_trigger_tells_the_client_ends_in_no_log_and_the_run_ends(
    verbose_pipeline: Pipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    verbose_pipeline.execute(TALKATIVE_TRIGGER)
    verbose_pipeline.send(marked_logins(3).values())
    result = verbose_pipeline.run()

    said = "\n".join(str(entry) for entry in verbose_pipeline.instance.all_logs(result.run_id)) + "".join(
        capfd.readouterr()
    )
    assert verbose_pipeline.totals().loaded == 3
    assert "masked_logins" in said
    assert not [mark for mark in MARKS if mark in said]


def test_a_copy_that_is_interrupted_past_a_refused_row_quotes_it_in_no_log(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    """The driver tells of the server's error that it passes over, and that quotes the row."""

    def rows() -> Iterator[tuple[str]]:
        for number in range(200_000):  # more than the connection's buffers hold, so that the server has refused the row
            yield (f"{MARKS[0]}-not-a-number" if number == 7 else str(number),)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), pipeline.services.database().transaction() as connection:
        connection.execute(text("CREATE TEMP TABLE numbers (number integer)"))
        copy_rows(connection, "numbers", ["number"], rows())

    assert MARKS[0] not in caplog.text
