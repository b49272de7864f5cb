"""The Dagster resources: thin shells that open what `Services` knows how to open.

None of them holds a secret as configuration, so none shows up in the repository snapshot, the web page or run config.
"""

from typing import Any

import dagster as dg
from dagster_aws.utils import ResourceWithBoto3Configuration
from pydantic import PrivateAttr

from loginetl_assets.aws.payloads import Payloads
from loginetl_assets.aws.sqs import LoginQueue, open_session
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.services import Services
from loginetl_assets.settings import AppVersion, Identity, Settings, UnknownFields
from loginetl_assets.steps.mask import MaskingRules
from loginetl_assets.storage import batches as ledger
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.live_runs import Heartbeat

INSTALLATION_TAG = "loginetl/installation"  # of a run: the id of the database that it works on


def label_of(run: dg.DagsterRun) -> str | None:
    """The label (repository@location) of the code location from which a run was launched, if it was launched."""
    origin = run.remote_job_origin
    return origin.repository_origin.get_label() if origin else None


def fixed(resource: dg.ConfigurableResource[Any]) -> dg.ResourceDefinition:
    """Takes a resource's fields out of what run config, and so the launchpad, can change for one run.

    They decide what is read and what is in the table; the description shows them, those without a secret.
    """
    fields = {
        name: value
        for name in type(resource).model_fields
        if name != "services" and (value := getattr(resource, name)) is not None
    }
    shown = [f"{name}: {value}" for name, value in fields.items() if not name.startswith("aws_")]
    return resource.get_resource_definition().configured(
        fields,
        config_schema={},
        description="\n\n".join([(type(resource).__doc__ or "").strip(), "As the settings say it:", *shown]),
    )


class LoginQueueResource(ResourceWithBoto3Configuration):
    """The login queue on SQS, with dagster-aws's own boto3 settings; unset ones follow AWS's variables and profiles."""

    services: dg.ResourceDependency[Services]

    def open(self, connections: int = 10) -> LoginQueue:
        """Opens the queue for that many calls at once."""
        session = open_session(
            region_name=self.region_name,
            profile_name=self.profile_name,
            aws_access_key_id=self.aws_access_key_id,
            aws_secret_access_key=self.aws_secret_access_key,
            aws_session_token=self.aws_session_token,
        )
        return self.services.queue(
            session=session,
            endpoint_url=self.endpoint_url,
            connections=connections,
            max_attempts=self.max_attempts,
        )

    def as_environment(self) -> dict[str, str]:
        """The variables from which a child process opens the same queue."""
        named = {
            "AWS_REGION": self.region_name,
            "AWS_DEFAULT_REGION": self.region_name,
            "AWS_PROFILE": self.profile_name,
            "AWS_ENDPOINT_URL_SQS": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.aws_access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.aws_secret_access_key,
            "AWS_SESSION_TOKEN": self.aws_session_token,
        }
        return {
            **self.services.settings.as_environment(),
            **{name: value for name, value in named.items() if value is not None},
        }


class LoginDatabaseResource(dg.ConfigurableResource[LoginDatabase]):
    """The Postgres that holds `user_logins` and the ledger."""

    services: dg.ResourceDependency[Services]
    _context: dg.InitResourceContext | None = PrivateAttr(default=None)
    _heartbeat: Heartbeat | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Remembers the run that it is opened in; a sensor's tick is none."""
        self._context = context

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Ends the run's sign of life. The executor in process keeps a resource from the first step to the last."""
        if self._heartbeat:
            self._heartbeat.stop()

    def open(self) -> LoginDatabase:
        """Opens the database, its schema checked.

        The first time in a run, it tags the run with the installation and begins its sign of life.
        """
        database = self.services.database()
        if self._heartbeat is None and self._context and self._context.run and self._context.instance:
            run_id = self._context.run.run_id
            with database.transaction() as connection:
                installation = str(ledger.installation_id(connection))
            self._context.instance.add_run_tags(run_id, {INSTALLATION_TAG: installation})
            heartbeat = Heartbeat(database, run_id)
            heartbeat.start()
            self._heartbeat = heartbeat
        return database


class LandingResource(dg.ConfigurableResource[Landing]):
    """The object store of sealed batches and masked files."""

    services: dg.ResourceDependency[Services]

    def open(self, database: LoginDatabase) -> Landing:
        """Opens the landing and makes sure that it is this database's."""
        return self.services.bound_landing(database)

    def open_payloads(self) -> Payloads:
        """Opens the bucket of payloads that messages point at, if one is named."""
        return self.services.payloads()


class KeyringResource(dg.ConfigurableResource[Keyring]):
    """The pipeline's keysets."""

    services: dg.ResourceDependency[Services]

    def open(self) -> Keyring:
        """Opens the keyring; each keyset is read when it is first needed."""
        return self.services.keyring


class RulesResource(dg.ConfigurableResource["RulesResource"]):
    """The settings that decide how messages are received, read and judged; nothing secret."""

    visibility_seconds: int
    reject_unknown_fields: bool
    major_version_only: bool
    by_event_id: bool
    max_rejection_rate: float
    freshness_hours: float

    @property
    def masking(self) -> MaskingRules:
        """Those of masking."""
        return MaskingRules(
            reject_unknown_fields=self.reject_unknown_fields,
            major_only=self.major_version_only,
            by_event_id=self.by_event_id,
        )

    @classmethod
    def of(cls, settings: Settings) -> "RulesResource":
        """Takes the rules from the settings."""
        return cls(
            visibility_seconds=settings.visibility_seconds,
            reject_unknown_fields=settings.unknown_fields is UnknownFields.REJECT,
            major_version_only=settings.app_version is AppVersion.MAJOR,
            by_event_id=settings.identity is Identity.EVENT_ID,
            max_rejection_rate=settings.max_rejection_rate,
            freshness_hours=settings.freshness_hours,
        )
