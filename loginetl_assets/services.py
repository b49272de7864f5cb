"""From settings to open connections: the one place that knows whether a service is configured or embedded."""

from contextlib import suppress
from functools import cached_property
from urllib.parse import urlsplit

import boto3

from loginetl_assets.aws.payloads import Payloads
from loginetl_assets.aws.sqs import LoginQueue, open_queue
from loginetl_assets.embedded import Addresses, Stack, embedded_stack
from loginetl_assets.home import check_home, make_home
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.settings import Settings
from loginetl_assets.storage import installation
from loginetl_assets.storage.adoption import check_table
from loginetl_assets.storage.database import LoginDatabase

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class Services:
    """Opens what the settings name.

    In the local environment whatever they leave open is embedded, started on demand: each of queue and database for
    itself, so that a queue elsewhere can be drained into the embedded Postgres.
    """

    def __init__(self, settings: Settings) -> None:
        """Takes the settings; nothing is opened or started yet."""
        self.settings = settings

    @property
    def needs_stack(self) -> bool:
        """Whether queue or database is embedded."""
        return not (self.settings.queue_url and self.settings.database_url)

    @cached_property
    def stack(self) -> Stack:
        """The embedded services of `LOGINETL_HOME`."""
        return embedded_stack(self.settings.home)

    def _embedded(self) -> Addresses:
        return self.stack.start()

    @property
    def queue_url(self) -> str:
        """The queue's URL; starts the embedded one where none is set."""
        return self.settings.queue_url or self._embedded().queue_url

    @property
    def database_url(self) -> str:
        """The database's URL, password and all; starts the embedded one where none is set."""
        return self.settings.database_url or self._embedded().database_url

    def queue(
        self,
        *,
        session: boto3.Session | None = None,
        endpoint_url: str | None = None,
        connections: int = 10,
        max_attempts: int = 5,
    ) -> LoginQueue:
        """Opens the queue; the arguments are those of `open_queue`."""
        embedded = self.settings.queue_url is None
        url = self.queue_url
        return open_queue(
            url,
            session=session,
            # Named here, so that AWS_ENDPOINT_URL in the environment cannot send local messages elsewhere.
            endpoint_url=self._embedded().sqs_endpoint if embedded else endpoint_url,
            max_attempts=max_attempts,
            connections=connections,
            emulator=embedded,
            # On this machine, and in the local environment, it is an emulator whoever started it.
            made_up_credentials=self.settings.is_local and urlsplit(url).hostname in _LOOPBACK,
        )

    def database(self, *, application_name: str = "loginetl") -> LoginDatabase:
        """Opens the database and makes sure that its schema is this version's.

        To bring the embedded one up to date is a part of its start. Any other is somebody's own, and only
        `loginetl migrate` changes it.
        """
        if self.settings.database_url is None:
            database = LoginDatabase(self.database_url)
            if not database.is_migrated():
                database.migrate(self.settings.login_table)
        return self.unchanged_database(application_name=application_name)

    def unchanged_database(self, *, application_name: str = "loginetl") -> LoginDatabase:
        """Opens the database, embedded or not, where its schema is this version's already."""
        database = LoginDatabase(self.database_url, application_name=application_name)
        database.check_revision()
        with database.transaction() as connection:
            check_table(connection, self.settings.table)
        return database

    def landing(self) -> Landing:
        """Opens the landing; in the local environment it is a directory of `LOGINETL_HOME` by default."""
        if self.settings.landing_url is None:
            with suppress(OSError):  # the landing itself says so
                make_home(self.settings.home)
        return Landing(self.settings.landing_url or (self.settings.home / "landing").as_uri())

    def bound_landing(self, database: LoginDatabase) -> Landing:
        """Opens the landing and makes sure that it is this database's."""
        landing = self.landing()
        with database.transaction() as connection:
            installation_id = installation.installation_id(connection)
        landing.bind(installation_id)
        return landing

    def payloads(self) -> Payloads:
        """Opens the bucket of payloads, if one is named."""
        return Payloads(self.settings.payload_bucket)

    @cached_property
    def keyring(self) -> Keyring:
        """The pipeline's keys; in the local environment missing ones are made."""
        made_in = None
        if self.settings.is_local:
            check_home(self.settings.home)
            made_in = self.settings.home / "keys"
        return Keyring(self.settings.keysets, made_in, self.settings.kms_key_uri)
