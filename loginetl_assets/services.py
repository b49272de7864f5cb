"""From settings to open connections: the one place that knows whether a service is configured or embedded."""

from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from loginetl_assets.aws.payloads import Payloads
from loginetl_assets.aws.sqs import LoginQueue, open_queue
from loginetl_assets.embedded import embedded_stack
from loginetl_assets.home import check_home, make_home
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.keys.officer import Officer
from loginetl_assets.landing.object_store import Landing
from loginetl_assets.settings import QueueCalls, Settings
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.installation import check_vault_days, installation_id
from loginetl_assets.storage.login_table_setup import check_table

if TYPE_CHECKING:
    from loginetl_assets.embedded import EmbeddedStack

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class Services:
    """Opens what the settings name.

    In the local environment what they leave unset is embedded and started on demand, queue and database each for
    itself: so a queue elsewhere can be drained into the embedded Postgres.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def needs_stack(self) -> bool:
        """Whether queue or database is embedded."""
        return not (self.settings.queue_url and self.settings.database_url)

    @cached_property
    def stack(self) -> "EmbeddedStack":
        """The embedded services of `LOGINETL_HOME`."""
        return embedded_stack(self.settings.home)

    @property
    def queue_url(self) -> str:
        """The queue's URL; starts the embedded one where none is set."""
        return self.settings.queue_url or self.stack.start().queue_url

    @property
    def database_url(self) -> str:
        """The database's URL, password and all; starts the embedded one where none is set."""
        return self.settings.database_url or self.stack.start().database_url

    def queue(self, *, endpoint_url: str | None = None, **options: Any) -> LoginQueue:
        """Returns the opened queue; the arguments are those of `open_queue`."""
        embedded, url = self.settings.queue_url is None, self.queue_url
        return open_queue(
            url,
            # Named here, so that AWS_ENDPOINT_URL in the environment cannot send local messages elsewhere.
            endpoint_url=self.stack.start().sqs_endpoint if embedded else endpoint_url,
            direct=self.settings.queue_calls is QueueCalls.DIRECT,
            emulator=embedded,
            # On this machine, and in the local environment, it is an emulator whoever started it.
            placeholder_credentials=self.settings.is_local and urlsplit(url).hostname in _LOOPBACK,
            **options,
        )

    def database(self, *, application_name: str = "loginetl") -> LoginDatabase:
        """Returns the opened database as `unchanged_database`, after migrating the embedded one, and no other."""
        if self.settings.database_url is None:
            database = LoginDatabase(self.database_url)
            if not database.is_migrated(self.settings.vault_days):
                database.migrate(self.settings.login_table, self.settings.vault_days)
        return self.unchanged_database(application_name=application_name)

    def unchanged_database(self, *, application_name: str = "loginetl") -> LoginDatabase:
        """Returns the opened database, whose schema and login table were checked to be this version's.

        Raises:
            OperatorError, TransientError: they are not, or it does not answer.
        """
        database = LoginDatabase(self.database_url, application_name=application_name)
        database.check_revision()
        with database.transaction() as connection:
            check_table(connection, self.settings.table)
            check_vault_days(connection, self.settings.vault_days)
        return database

    def landing(self) -> Landing:
        """Returns the landing; in the local environment it is a directory of `LOGINETL_HOME` by default."""
        if self.settings.landing_url is None:
            with suppress(OSError):  # the landing itself reports it
                make_home(self.settings.home)
        return Landing(self.settings.landing_url or (self.settings.home / "landing").as_uri())

    def bound_landing(self, database: LoginDatabase) -> Landing:
        """Returns the landing, checked to belong to this database."""
        landing = self.landing()
        with database.transaction() as connection:
            owner = installation_id(connection)
        landing.bind(owner)
        return landing

    def payloads(self) -> Payloads:
        """Returns the bucket of payloads, or what stands for it where none is named."""
        return Payloads(self.settings.payload_bucket)

    @cached_property
    def keyring(self) -> Keyring:
        """The pipeline's keys; in the local environment missing ones are made."""
        return Keyring(self.settings.keysets, self._made_keys(), self.settings.kms_key_uri)

    def officer(self) -> Officer:
        """Returns the privacy officer's keys, read again; in the local environment those made with the keyring's."""
        return Officer(self.settings.officer_keyset, self._made_keys(), self.settings.kms_key_uri)

    def _made_keys(self) -> Path | None:
        if not self.settings.is_local:
            return None
        check_home(self.settings.home)
        return self.settings.home / "keys"
