"""The files that say how the project is tested and written agree with each other."""

import ast
import re
import tomllib
from configparser import ConfigParser
from typing import Any

import yaml

from loginetl_assets_tests.unit.test_deploy_files import ROOT, run_tool

WORKFLOW = ".github/workflows/test.yml"


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_hosted_ci_is_valid_by_the_schema_of_workflows() -> None:
    run_tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", WORKFLOW)


def test_hosted_ci_runs_make_test_alone_on_every_python_that_the_project_names() -> None:
    job = yaml.safe_load((ROOT / WORKFLOW).read_text(encoding="utf-8"))["jobs"]["test"]
    language = "Programming Language :: Python :: "
    named = [one.removeprefix(language) for one in project()["project"]["classifiers"] if one.startswith(language)]

    assert [step["run"] for step in job["steps"] if "run" in step] == ["make test"]
    assert job["strategy"]["matrix"]["python"] == named


def test_hosted_ci_may_only_read_and_its_actions_are_pinned_to_a_version() -> None:
    workflow = yaml.safe_load((ROOT / WORKFLOW).read_text(encoding="utf-8"))
    actions = [step["uses"] for step in workflow["jobs"]["test"]["steps"] if "uses" in step]

    assert workflow["permissions"] == {"contents": "read"}
    assert [action for action in actions if not re.fullmatch(r"actions/[\w-]+@v\d+\.\d+\.\d+", action)] == []


def test_the_script_of_ci_runs_make_test_and_nothing_else() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()

    commands = [line for line in lines if line and not line.startswith("#")]
    assert commands == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "exec make test"]


def test_editors_and_ruff_agree_about_python_files() -> None:
    editors = ConfigParser()
    editors.read_string("[top]\n" + (ROOT / ".editorconfig").read_text(encoding="utf-8"))

    assert editors["*.py"]["max_line_length"] == str(project()["tool"]["ruff"]["line-length"])
    assert editors["*.py"]["indent_size"] == "4"
    assert editors["*"]["end_of_line"] == "lf"


def test_no_function_of_the_package_is_longer_than_sixty_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sorted((ROOT / "loginetl_assets").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (node.end_lineno or 0) - node.lineno >= 60
    ]

    assert long == []


def test_the_picture_of_the_packages_has_the_layers_of_the_import_rules_in_their_order() -> None:
    (layers,) = (one["layers"] for one in project()["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
    picture = (ROOT / "docs" / "images" / "packages.svg").read_text(encoding="utf-8")
    rows: dict[int, set[str]] = {}
    for y, names in re.findall(r'<text x="\d+" y="(\d+)"><tspan font-weight="600">(.*?)</tspan>', picture):
        rows.setdefault(int(y), set()).update(names.split(", "))

    assert [rows[y] for y in sorted(rows)] == [set(layer.split(" | ")) for layer in layers]


def test_the_baseline_of_the_schema_is_frozen() -> None:
    baseline = ROOT / "loginetl_assets" / "storage" / "migrations" / "versions" / "v0001_baseline.py"
    assert "loginetl_assets" not in baseline.read_text(encoding="utf-8"), "what it would import may change"
