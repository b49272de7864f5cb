"""The benchmark's figures: how they are judged and kept, and that the documents have those that are saved."""

import json
import re
import sys
from pathlib import Path

import pytest

from bench import report
from bench.__main__ import main
from bench.documents import DOCUMENTS, benchmarks_as_markdown
from bench.run import run
from bench.targets import PARTS, TARGETS, Target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_documents_have_the_figures_that_are_saved(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == DOCUMENTS[path](), "run `make docs`"


def test_a_target_is_judged_by_the_median_and_not_met_without_figures() -> None:
    at_least = Target("drain", "reading", "", "≥", 2.0, "")
    at_most = Target("drain", "reading", "", "≤", 2.0, "")

    assert at_least.is_met([0.0, 2.0, 3.0])
    assert not at_least.is_met([0.0, 1.0, 9.0])
    assert at_most.is_met([9.0, 2.0, 1.0])
    assert not at_most.is_met([])


def test_every_target_is_measured_by_a_part_and_by_a_reading_of_its_own() -> None:
    assert {target.part for target in TARGETS} <= set(PARTS)
    assert len({target.reading for target in TARGETS}) == len(TARGETS)


def test_the_cpu_time_of_a_command_is_that_of_the_processes_that_it_waited_for_too() -> None:
    work = "import time\nwhile time.process_time() < 0.2: pass"
    command = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"

    assert run([sys.executable, "-c", command, work]).cpu_seconds >= 0.2


def test_the_table_of_faults_says_what_each_tool_did_with_the_messages() -> None:
    none = {"rows": 9, "rejected": 0, "lost": 0, "twice": 0, "stuck": 0, "new_columns": 0}
    outcomes = {
        "a": none,
        "b": {**none, "lost": 1, "twice": 2, "stuck": 3_000, "new_columns": 2},
        "c": {**none, "rejected": 1},
    }
    results = {"parts": {"faults": {"outcomes": {"one number for an ip": outcomes}}}}

    assert report.fault_header(results) == ("", "a", "b", "c")
    assert list(report.fault_rows(results)) == [
        (
            "one number for an ip",
            "all loaded once",
            "1 lost, 2 twice, 3,000 stuck, table changed",
            "1 kept with a reason",
        )
    ]


def test_parts_that_are_not_measured_keep_their_saved_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "measured.json"
    monkeypatch.setattr(report, "MEASURED", file)
    file.write_text(json.dumps({"machine": {}, "parts": {"start": {"readings": {"help": [1.0]}}, "load": {}}}))

    report.save({"machine": {"cores": 2}, "parts": {"load": {"readings": {"over copy": [0.5]}}}})

    assert report.measured()["parts"] == {
        "start": {"readings": {"help": [1.0]}},
        "load": {"readings": {"over copy": [0.5]}},
    }


def test_figures_of_small_counts_are_never_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--quick", "--save"])

    with pytest.raises(SystemExit):
        main()

    assert "not allowed with" in capsys.readouterr().err


def test_whatever_is_measured_and_not_met_is_listed_with_a_word() -> None:
    page = benchmarks_as_markdown()
    listed = page.partition("What is not met")[2].partition("\n## ")[0]
    unmet = re.findall(r"^\| (.+?) \| [≥≤].* \| no \|$", page, re.MULTILINE)

    assert re.findall(r"^- \*\*(.+?)\*\*: \S", listed, re.MULTILINE) == unmet
