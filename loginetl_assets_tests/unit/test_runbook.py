"""docs/runbook.md is whole: a section for each condition, and a test that walks each section."""

import re
from pathlib import Path

from loginetl_assets.conditions import Condition
from loginetl_assets_tests.support.runbook import RUNBOOK, sections

WALKED = Path(__file__).parents[1] / "integration" / "test_runbook.py"


def test_every_condition_has_a_section_of_its_name_that_alerts_link_to() -> None:
    headings = re.findall(r"^## `(.+)`$", RUNBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)

    assert sorted(headings) == sorted(Condition)


def test_every_section_is_walked_by_a_test() -> None:
    followed = re.findall(r"operator\.follow\(\s*\"([^\"]+)\"", WALKED.read_text(encoding="utf-8"))

    assert sorted(followed) == sorted(sections())


def test_every_section_has_commands_and_says_when_it_is_resolved() -> None:
    text = RUNBOOK.read_text(encoding="utf-8")
    bodies = re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]
    for (heading, commands), body in zip(sections().items(), bodies, strict=True):
        assert commands, heading
        if heading not in {Condition.TEST, "What to alarm on from outside"}:
            assert "**It means**" in body, heading
            assert "**It is resolved**" in body, heading
