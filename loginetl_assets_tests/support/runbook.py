"""docs/runbook.md as a person follows it: its sections, and their commands, typed in order."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import boto3
import pytest
from botocore import xform_name
from botocore.model import ListShape, Shape, StructureShape
from botocore.validate import ParamValidator

from loginetl_assets.cli.console import exit_code_of
from loginetl_assets.cli.main import app
from loginetl_assets.local.postgres import binaries

RUNBOOK = Path(__file__).resolve().parents[2] / "docs" / "runbook.md"


@dataclass(frozen=True)
class Command:
    """A line of a code block, joined with those that continue it; its comment may name how it must end."""

    text: str

    @property
    def exit_code(self) -> int:
        """Returns the exit code that the document promises."""
        named = re.search(r"#.*\bexit code (\d+)", self.text)
        return int(named[1]) if named else 0


def sections() -> dict[str, list[Command]]:
    """Returns the commands of each section, by its heading; a section without any is for reading."""
    found: dict[str, list[Command]] = {}
    _, *parts = re.split(r"^## (.+)$", RUNBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for heading, body in zip(parts[::2], parts[1::2], strict=True):
        lines = re.findall(r"^    (\S(?:.*\\\n)*.*)$", body, flags=re.MULTILINE)
        found[heading.strip("`")] = [Command(re.sub(r"\s*\\\n\s*", " ", line)) for line in lines]
    return found


@dataclass
class Operator:
    """Types commands, in one shell whose variables last.

    `loginetl` runs in this process, where it costs no start, except for `psql`, which takes its process's place. `aws`
    is boto3 on the emulator: the AWS CLI names operations and parameters as the services do. `sleep` lets that time
    pass which the test has.

    Attributes:
        environment: the pipeline's settings.
        endpoint: the emulator of SQS and S3.
        directory: where the commands are typed.
        answer: what a command reads that asks.
        sleep: takes seconds.
        background: what was started with `&`.
    """

    environment: dict[str, str]
    endpoint: str
    directory: Path
    answer: str = ""
    sleep: Callable[[float], object] = lambda _: None
    background: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def follow(self, section: str, **placeholders: object) -> str:
        """Types a section's commands, its words in capitals replaced; returns what they printed.

        Each must end as the document says.
        """
        commands = sections()[section]
        assert commands, f"docs/runbook.md has no commands for {section}"
        printed = []
        for command in commands:
            text = command.text
            for name, value in placeholders.items():
                text = re.sub(rf"(?<![A-Z_]){name}(?![A-Z_])", str(value).replace("\\", r"\\"), text)
            exit_code, said = self.type(text)
            assert exit_code == command.exit_code, f"{text}\n{said}"
            printed.append(said)
        return "\n".join(printed)

    def type(self, text: str) -> tuple[int, str]:
        """Runs one command; returns its exit code and what it printed."""
        program, *words = shlex.split(Template(text).safe_substitute(self.environment), comments=True)
        match program:
            case "export":
                name, _, value = words[0].partition("=")
                self.environment[name] = value
                return 0, ""
            case "sleep":
                self.sleep(float(words[0]))
                return 0, ""
            case "aws":
                return 0, self._aws(words)
            case "loginetl" if words[0] != "psql":
                return self._loginetl(words)
        return self._other(program, words)

    def _loginetl(self, words: Sequence[str]) -> tuple[int, str]:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed, redirect_stderr(printed):
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.chdir(self.directory)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(self.answer.encode())))
            try:
                app(words)
            except SystemExit as end:
                return int(end.code or 0), printed.getvalue()
            except Exception as error:  # noqa: BLE001 - as `main` does
                return exit_code_of(error), printed.getvalue()
        raise AssertionError("a command ends with an exit code")

    def _other(self, program: str, words: Sequence[str]) -> tuple[int, str]:
        places = os.pathsep.join([str(Path(sys.executable).parent), str(binaries()), os.environ["PATH"]])
        found = shutil.which(program, path=places)
        assert found, program
        environment = {**os.environ, **self.environment}
        if words and words[-1] == "&":
            command = [found, *words[:-1]]
            with (self.directory / f"{program}.log").open("wb") as log:
                self.background.append(
                    subprocess.Popen(command, env=environment, cwd=self.directory, stdout=log, stderr=log)
                )
            return 0, ""
        done = subprocess.run(
            [found, *words],
            env=environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def _aws(self, words: Sequence[str]) -> str:
        service, name, *rest = words
        new_client: Any = boto3.client  # which has no type for a service named by a variable
        client = new_client("s3" if service == "s3api" else service, endpoint_url=self.endpoint)
        if (service, name) == ("s3", "sync"):
            return _copy_missing(client, *rest)
        operation = next(one for one in client.meta.service_model.operation_names if xform_name(one, "-") == name)
        expected = client.meta.service_model.operation_model(operation).input_shape
        parameters = {}
        for option, *values in (part.split() for part in re.split(r"(?:^| )--", " ".join(rest))[1:]):
            member = next(one for one in expected.members if xform_name(one, "-") == option)
            parameters[member] = _typed(expected.members[member], values)
        if operation == "StartMessageMoveTask":  # the emulator has none
            return _redrive(client, self.environment["LOGINETL_QUEUE_URL"], **parameters)
        if service == "cloudwatch":  # the emulator has none
            errors = ParamValidator().validate(
                parameters, client.meta.service_model.operation_model(operation).input_shape
            )
            assert not errors.has_errors(), errors.generate_report()
            return ""
        return json.dumps(getattr(client, xform_name(operation))(**parameters), default=str)


def _typed(shape: Shape, values: list[str]) -> Any:
    """Returns what the AWS CLI makes of an option's words."""
    match shape:
        case ListShape(member=StructureShape()):
            return [dict(part.split("=", 1) for part in value.split(",")) for value in values]
        case ListShape():
            return values
    (value,) = values
    return {"integer": int, "double": float}.get(shape.type_name, str)(value)


def _copy_missing(s3: Any, source: str, target: str) -> str:
    """Copies objects below one s3:// URL that are missing below another."""
    (bucket, prefix), (into, below) = (url.removeprefix("s3://").split("/", 1) for url in (source, target))

    def names(bucket: str, prefix: str) -> set[str]:
        found = s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", [])
        return {one["Key"].removeprefix(prefix) for one in found}

    missing = names(bucket, prefix) - names(into, below)
    for name in missing:
        s3.copy_object(Bucket=into, Key=f"{below}{name}", CopySource={"Bucket": bucket, "Key": f"{prefix}{name}"})
    return f"copied {len(missing)} objects"


def _redrive(sqs: Any, queue_url: str, SourceArn: str) -> str:  # noqa: N803 - as SQS calls it
    """Sends messages of a dead-letter queue again, as SQS does, which gives them new ids."""
    dead_letters = sqs.get_queue_url(QueueName=SourceArn.rsplit(":", 1)[-1])["QueueUrl"]
    while found := sqs.receive_message(QueueUrl=dead_letters, MaxNumberOfMessages=10).get("Messages"):
        for one in found:
            sqs.send_message(QueueUrl=queue_url, MessageBody=one["Body"])
            sqs.delete_message(QueueUrl=dead_letters, ReceiptHandle=one["ReceiptHandle"])
    return ""
