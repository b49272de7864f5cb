"""What libraries log, in a run whose Dagster instance keeps all they say: no value, and nothing that stops the run."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from loginetl_assets_tests.pipeline import MARKS, Pipeline, marked_logins

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
        yield replace(pipeline, instance=instance)
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
