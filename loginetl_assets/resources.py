"""The Dagster resources: `get_client` of each opens what `Services` knows how to open.

None of them holds a secret as configuration, so none shows up in the repository snapshot, the Dagster UI or run config.
"""

from typing import Any

import dagster as dg
from pydantic import PrivateAttr

from loginetl_assets.aws.payloads import Payloads
from loginetl_assets.aws.session import open_session
from loginetl_assets.aws.sqs import LoginQueue
from loginetl_assets.dagster_instance import INSTALLATION_TAG, adopt_run
from loginetl_assets.errors import OperatorError
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.logins.masking import MaskingRules
from loginetl_assets.services import Services
from loginetl_assets.settings import AppVersion, Identity, Settings, UnknownFields
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.installation import installation_id
from loginetl_assets.storage.live_runs import Heartbeat

EMBEDDED = "embedded in LOGINETL_HOME"

# What boto3 reads in place of each setting of a session.
_SESSION = {
    "AWS_REGION": "region_name",
    "AWS_DEFAULT_REGION": "region_name",
    "AWS_PROFILE": "profile_name",
    "AWS_ACCESS_KEY_ID": "aws_access_key_id",
    "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key",
    "AWS_SESSION_TOKEN": "aws_session_token",
}


def fixed(resource: dg.ConfigurableResource[Any]) -> dg.ResourceDefinition:
    """Takes a resource's fields out of what run config, and so the launchpad, can change for one run.

    They decide what is read and what is in the table; its page in the Dagster UI shows its address and those fields
    that hold no secret.
    """
    fields = {name: getattr(resource, name) for name in type(resource).model_fields if name != "services"}
    fields = {name: value for name, value in fields.items() if value is not None}
    shown = {"address": getattr(resource, "address", None), **fields}
    lines = [f"{name}: {value}" for name, value in shown.items() if value is not None and not name.startswith("aws_")]
    return resource.get_resource_definition().configured(
        fields, config_schema={}, description="\n\n".join([(type(resource).__doc__ or "").strip(), *lines])
    )


class LoginQueueResource(dg.ConfigurableResource[LoginQueue], extra="forbid"):
    """The login queue on SQS; settings that are not given follow AWS's variables and profiles.

    No setting turns TLS off.
    """

    services: dg.ResourceDependency[Services]
    # Named as dagster-aws names them, whose base class costs every process the import of its integrations, 0.6 s.
    region_name: str | None = None
    profile_name: str | None = None
    endpoint_url: str | None = None
    max_attempts: int = 5  # the first included
    aws_access_key_id: str | None = None
    aws_secret_access_key: str | None = None
    aws_session_token: str | None = None

    @property
    def address(self) -> str:
        """The queue's URL; no credentials are accepted in it."""
        return self.services.settings.queue_url or EMBEDDED

    def get_client(self, connections: int = 10) -> LoginQueue:
        """Opens the queue for that many calls at once."""
        return self.services.queue(
            session=open_session(**{name: getattr(self, name) for name in _SESSION.values()}),
            endpoint_url=self.endpoint_url,
            connections=connections,
            max_attempts=self.max_attempts,
        )

    def as_environment(self) -> dict[str, str]:
        """The variables from which a child process opens the same queue."""
        named = {variable: getattr(self, name) for variable, name in _SESSION.items()}
        named |= {"AWS_ENDPOINT_URL_SQS": self.endpoint_url, "AWS_MAX_ATTEMPTS": str(self.max_attempts)}
        return {
            **self.services.settings.as_environment(),
            **{variable: value for variable, value in named.items() if value is not None},
        }


class LoginDatabaseResource(dg.ConfigurableResource[LoginDatabase]):
    """The Postgres that holds `user_logins` and the ledger."""

    services: dg.ResourceDependency[Services]
    _context: dg.InitResourceContext | None = PrivateAttr(default=None)
    _heartbeat: Heartbeat | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Keeps the context of the run that it is opened in; a sensor's tick has no run."""
        self._context = context
        if context.run and context.instance:
            adopt_run(context.instance, context.run)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Stops the run's heartbeat. The in-process executor keeps a resource from the first step to the last."""
        if self._heartbeat:
            self._heartbeat.stop()

    @property
    def address(self) -> str:
        """Host and name of the database, without the password."""
        url = self.services.settings.database_url
        try:
            return LoginDatabase(url).address if url else EMBEDDED
        except OperatorError as error:  # definitions load all the same; a run fails with this
            return str(error)

    def get_client(self) -> LoginDatabase:
        """Opens the database, its schema checked.

        The first time in a run, it tags the run with the installation and starts its heartbeat.
        """
        database = self.services.database()
        if self._heartbeat is None and self._context and self._context.run and self._context.instance:
            run_id = self._context.run.run_id
            with database.transaction() as connection:
                installation = str(installation_id(connection))
            self._context.instance.add_run_tags(run_id, {INSTALLATION_TAG: installation})
            heartbeat = Heartbeat(database, run_id)
            heartbeat.start()
            self._heartbeat = heartbeat
        return database


class LandingResource(dg.ConfigurableResource[Landing]):
    """The object store of encrypted batches and masked files."""

    services: dg.ResourceDependency[Services]

    @property
    def address(self) -> str:
        """The bucket or directory; no credentials are accepted in its URL."""
        return self.services.settings.landing_url or EMBEDDED

    def get_client(self, database: LoginDatabase) -> Landing:
        """Opens the landing and makes sure that it is this database's."""
        return self.services.bound_landing(database)


class PayloadsResource(dg.ConfigurableResource[Payloads]):
    """The bucket of payloads that messages point to."""

    services: dg.ResourceDependency[Services]

    @property
    def address(self) -> str:
        """The bucket's name."""
        return self.services.settings.payload_bucket or "none: LOGINETL_PAYLOAD_BUCKET is not set"

    def get_client(self) -> Payloads:
        """Opens the bucket, if one is named."""
        return self.services.payloads()


class KeyringResource(dg.ConfigurableResource[Keyring]):
    """The pipeline's keysets. Their settings are secrets and are not shown."""

    services: dg.ResourceDependency[Services]

    def get_client(self) -> Keyring:
        """Opens the keyring; each keyset is read when it is first needed."""
        return self.services.keyring


class RulesResource(dg.ConfigurableResource["RulesResource"]):
    """The settings that decide how messages are received, validated and reported; none is a secret."""

    visibility_seconds: int
    unknown_fields: str
    app_version: str
    identity: str
    max_rejection_rate: float
    max_duplicate_rate: float

    @classmethod
    def of(cls, settings: Settings) -> "RulesResource":
        """Takes each from the setting of its name."""
        return cls(**{name: getattr(settings, name) for name in cls.model_fields})

    @property
    def masking(self) -> MaskingRules:
        """The rules of masking."""
        return MaskingRules(
            reject_unknown_fields=self.unknown_fields == UnknownFields.REJECT,
            major_only=self.app_version == AppVersion.MAJOR,
            by_event_id=self.identity == Identity.EVENT_ID,
        )
