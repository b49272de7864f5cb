"""The scene of every fault: messages on a queue whose ids are known, services behind proxies, and the reckoning."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from uuid import UUID

import dagster as dg

from loginetl_assets.automation.jobs import LOGIN_ETL, PROCESS_LANDED, RETENTION
from loginetl_assets.landing.object_store import BATCHES, MASKED
from loginetl_assets.resources import LoginQueueResource
from loginetl_assets.services import Services
from loginetl_assets.settings import Settings
from loginetl_assets.steps.retention import UNREGISTERED_AGE
from loginetl_assets_tests.support import warm
from loginetl_assets_tests.support.http_proxy import HttpProxy, Response, alter, operation
from loginetl_assets_tests.support.leaks import holds
from loginetl_assets_tests.support.pipeline import MARKED_BAD, MARKS, Pipeline, marked_logins, sqs_client
from loginetl_assets_tests.support.postgres_proxy import PostgresProxy
from loginetl_assets_tests.support.proxy import DroppedError, Rule
from loginetl_assets_tests.support.warm import WarmProcess

GOOD = marked_logins(30)

# One receiver, so that what comes first and what second is the same in every run: batches of 20 and 12 messages, each
# deleted by two calls.
DRAIN = {"raw_login_messages": {"receivers": 1, "batch_messages": 15}}

VISIBILITY_SECONDS = 2  # of the faulty runs: their messages come again soon
_PATIENCE_SECONDS = 60


@dataclass
class Scene:
    """A queue with `GOOD` and `MARKED_BAD` on it, each sent once, one delivered again and again, and ways to run on it.

    Attributes:
        settings: of the services themselves.
        sqs: the way to SQS and S3 on which calls can fail.
        postgres: the way to Postgres on which statements can fail.
        directory: for this test alone.
        sent: what must become of each message: the user whose row it is, or None where it must be rejected.
        child: the process that is to be killed.
    """

    settings: Settings
    sqs: HttpProxy
    postgres: PostgresProxy
    directory: Path
    sent: dict[UUID, str | None] = field(default_factory=dict)
    child: WarmProcess | None = None

    def send(self) -> None:
        """Sends the messages, and keeps the ids that SQS gave them."""
        assert self.settings.queue_url is not None
        bodies = [*GOOD.items(), *((None, body) for body in MARKED_BAD)]
        client = sqs_client(self.settings.queue_url)
        for start in range(0, len(bodies), 10):
            ten = bodies[start : start + 10]
            answer = client.send_message_batch(
                QueueUrl=self.settings.queue_url,
                Entries=[{"Id": str(place), "MessageBody": body} for place, (_, body) in enumerate(ten)],
            )
            self.sent |= {UUID(one["MessageId"]): ten[int(one["Id"])][0] for one in answer["Successful"]}
        assert len(self.sent) == len(bodies)

    def deliver_one_again(self) -> None:
        """Lets SQS hand out the first message again with all that come later, as a standard queue may.

        So it comes twice in one batch, and in another batch as well.
        """
        first: list[Any] = []

        def once_more(response: Response) -> Response:
            answer = json.loads(response.body)
            if received := answer.get("Messages", []):
                answer["Messages"] = received + first
                first[:] = first or received[:1]
            return replace(response, body=json.dumps(answer).encode())

        self.sqs.add(Rule(operation("ReceiveMessage"), alter(once_more), times=None))

    @property
    def faulty(self) -> Settings:
        """The settings that lead through the proxies."""
        assert self.settings.queue_url is not None
        assert self.settings.database_url is not None
        return replace(
            self.settings,
            queue_url=self.sqs.through(self.settings.queue_url),
            database_url=self.postgres.through(self.settings.database_url),
            visibility_seconds=VISIBILITY_SECONDS,
        )

    # Runs under faults

    def kill(self) -> None:
        """Kills the child, as a rule's callback: what it had asked for does not come about any more."""
        assert self.child is not None
        os.kill(self.child.pid, signal.SIGKILL)
        raise DroppedError

    def run_in_child(self, job: str = LOGIN_ETL, config: Mapping[str, Any] | None = None) -> int:
        """Runs a job in a process of its own, through the proxies; gives its exit code."""
        order = {"job": job, "config": config, "visibility_seconds": VISIBILITY_SECONDS}
        settings = replace(self.faulty, visibility_seconds=self.settings.visibility_seconds)
        environment = {
            **os.environ,
            **settings.as_environment(),
            "AWS_ENDPOINT_URL_S3": self.sqs.url,
        }
        with Path(os.devnull).open("rb") as nothing, TemporaryFile() as said:
            self.child = warm.start(
                "loginetl_assets_tests.support.run_once:main",
                ["run_once", json.dumps(order)],
                cwd=self.directory,
                environment=environment,
                streams=(nothing, said, said),
            )
            exit_code = self.child.wait(timeout=120)
            said.seek(0)
            assert_no_value(said.read().decode())
        return exit_code

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        """The pipeline in this process, through the proxies.

        boto3 tries a call once, so that what happens to a call reaches the pipeline.
        """
        queue = LoginQueueResource(services=Services(self.faulty), max_attempts=1)
        with Pipeline.on(self.faulty, self.directory / "faulty", resource_overrides={"queue": queue}) as pipeline:
            yield pipeline

    # The reckoning

    def settle(self) -> None:
        """Runs without faults, until the queue has nothing more: what was received and not deleted comes again."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        queue = Services(self.settings).queue()
        with Pipeline.on(self.settings, self.directory / "clean") as pipeline:
            while True:
                while (depth := queue.depth()).in_flight:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
                if not depth.queued and not pipeline.totals().pending:
                    return
                pipeline.process()

    def age(self, *, loaded_days_ago: int) -> None:
        """Makes what is there old: objects old enough to be taken for unregistered ones, loads by that many days."""
        with Pipeline.on(self.settings, self.directory / "clock") as pipeline:
            pipeline.execute(
                "UPDATE loginetl.batches SET loaded_at = loaded_at - CAST(:days AS integer) * interval '1 day'",
                days=loaded_days_ago,
            )
        old = time.time() - (UNREGISTERED_AGE + timedelta(hours=1)).total_seconds()
        for path in self.objects():
            os.utime(path, (old, old))

    def objects(self) -> list[Path]:
        """The files of a landing on file://."""
        landing = self.settings.home / "landing"
        return [path for prefix in (BATCHES, MASKED) for path in (landing / prefix).glob("*")]

    def assert_settled(self, *, purged: bool = False) -> None:
        """Every message exactly once, every count right, the queue empty, and no object left that no batch names.

        What a dead run left in the landing is registered again before that, and changes nothing.

        Args:
            purged: whether retention has removed the batches' objects.
        """
        good = sorted(user for user in self.sent.values() if user)
        with Pipeline.on(self.settings, self.directory / "reckoning") as pipeline:
            if not self.settings.landing_url:  # the emulator's clock on S3 cannot be set back
                self.age(loaded_days_ago=0)
                pipeline.run(job=RETENTION)
                pipeline.run(job=PROCESS_LANDED)
            assert sorted(row.user_id for row in pipeline.query("SELECT user_id FROM user_logins")) == good
            outcomes = {
                row.message_uuid: row.outcome
                for row in pipeline.query("SELECT message_uuid, outcome FROM loginetl.processed_messages")
            }
            assert outcomes == {key: "loaded" if user else "rejected" for key, user in self.sent.items()}
            rejected = Counter(row.message_uuid for row in pipeline.query("SELECT * FROM loginetl.rejected_logins"))
            assert rejected == Counter(key for key, user in self.sent.items() if not user)

            batches = pipeline.query(
                "SELECT state, messages, loaded + duplicates + rejected + erased + lost AS settled"
                " FROM loginetl.batches"
            )
            assert {row.state for row in batches} == {"loaded"}
            assert [row.messages for row in batches] == [row.settled for row in batches]
            totals = pipeline.totals()
            assert (totals.loaded, totals.rejected, totals.erased) == (len(good), len(MARKED_BAD), 0)
            assert totals.messages == totals.loaded + totals.duplicates + totals.rejected
            assert totals.pending == 0

            unknown = "SELECT FROM user_logins WHERE {} NOT IN (SELECT token FROM loginetl.pii_vault)"
            for column in ("masked_ip", "masked_device_id"):
                assert pipeline.query(unknown.format(column)) == []

            depth = pipeline.services.queue().depth()
            assert (depth.queued, depth.in_flight) == (0, 0)

            if not self.settings.landing_url:
                named = pipeline.query(
                    "SELECT object_path AS key FROM loginetl.batches WHERE object_purged_at IS NULL"
                    " UNION SELECT masked_path FROM loginetl.batches WHERE masked_path IS NOT NULL"
                )
                left = {str(path.relative_to(self.settings.home / "landing")) for path in self.objects()}
                assert left == {row.key for row in named}
                assert bool(left) != purged


def assert_no_value(said: str) -> None:
    """Nothing of a message's content is in a text, in any spelling."""
    assert holds(said.encode(), MARKS) == []


def failures(result: dg.ExecuteInProcessResult) -> list[str]:
    """All that Dagster has on record of each failed attempt of a run, traces and causes included."""
    said = []
    for event in result.all_events:
        if event.is_step_failure or event.is_step_up_for_retry:
            error = getattr(event.event_specific_data, "error", None)
            assert error is not None
            said.append(str(error.to_string()))
    return said
