"""Postgres: one engine, its time-outs, and transactions whose errors carry no values."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import psycopg
from sqlalchemy import Connection, create_engine, make_url, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from loginetl_assets.errors import BatchConflictError, BatchError, OperatorError, TransientError
from loginetl_assets.storage.login_table_setup import Setup
from loginetl_assets.storage.statements import named
from loginetl_assets.storage.tables import REVISION, installation
from loginetl_assets.table_name import TableName

# A batch is copied in well under a second (5 000 rows at 75 k rows/s with the ledger): these bounds only end what is
# stuck. Rows wait for rows where two runs bring the same token, hence a lock time-out above one batch's time.
STATEMENT_TIMEOUT_SECONDS = 120
LOCK_TIMEOUT_SECONDS = 30
IDLE_IN_TRANSACTION_SECONDS = 300
CONNECT_TIMEOUT_SECONDS = 10

# A role or a database may have other defaults. In a transaction that keeps its first snapshot, erasure's last look and
# the vault's sweep would not see what was committed while they waited for those who land and mask.
_SEMANTICS = r"-c default_transaction_isolation=read\ committed -c datestyle=ISO -c intervalstyle=postgres"

_RELEASED = re.compile(r"v\d{4}")  # the ids of this version's revisions and of later ones, in their order

_HAS_REVISION = named("find_revision", "SELECT to_regclass('loginetl.alembic_version') IS NOT NULL")
_READ_REVISION = named("read_revision", "SELECT version_num FROM loginetl.alembic_version")
_NO_TIMEOUT = named("wait_for_indexes", "SET statement_timeout = 0")
_CHECK_CONSTRAINTS = named("check_constraints", "SET CONSTRAINTS ALL IMMEDIATE")
_TRY_LOCK = named("lock_migrations", f"SELECT pg_try_advisory_lock({0x6C6F67696E65746C})")  # "loginetl"

# Connection, conflict, resources, lock, intervention, system; and our own time-outs of an idle transaction.
_TRANSIENT = ("08", "40", "53", "55", "57", "58", "25P03", "25P04")
_OF_THE_SERVER = ("08", "53300", "57P", "58")  # of these, what the next transaction would meet too
_REFUSED_CLASSES = ("22", "23", "44", "54", "P0")  # data, constraint, view's check, size; RAISE without a code
_NEVER_OF_A_ROW = ("08", "40", "53", "57P", "58")  # wherever it came up: connection, conflict, resources, server


_REFUSED_LOGIN = "Postgres refuses the login at {where}: correct LOGINETL_DATABASE_URL"
_NOT_MIGRATED = "a table or column is missing at {where}{object}: run `loginetl migrate`"
_BY_CODE = {  # each an OperatorError
    "28P01": _REFUSED_LOGIN,
    "28000": _REFUSED_LOGIN,
    "3D000": "no such database at {where}: create it or correct LOGINETL_DATABASE_URL",
    "42P01": _NOT_MIGRATED,
    "42703": _NOT_MIGRATED,
    "3F000": _NOT_MIGRATED,
    "42501": "the role at {where} lacks a right it needs{object}: as the owner run `loginetl migrate` and, where its"
    " login is in one of these roles, `loginetl roles`; on what is not loginetl's, GRANT the right",
    "25006": "{where} is read-only: point LOGINETL_DATABASE_URL at the primary",
    "53100": "the disk of Postgres is full at {where}: make room and run again",
}
# libpq gives no SQLSTATE where a client is not let in: what is found in its text then, the first that is.
_WITHOUT_CODE: dict[tuple[str, ...], tuple[type[Exception], str]] = {
    ("password authentication failed", "no password supplied"): (
        OperatorError,
        "Postgres refuses the password at {where}: correct LOGINETL_DATABASE_URL",
    ),
    ("pg_hba.conf", "not permitted to log in"): (
        OperatorError,
        "Postgres refuses the login at {where}: correct its pg_hba.conf or the role",
    ),
    ("too many c", "remaining connection slots"): (  # clients, or connections for a role
        TransientError,
        "Postgres at {where} has no connection free: run less at once, or raise max_connections or the limit of the"
        " role or database",
    ),
    ("does not exist",): (
        OperatorError,
        "no such database or role at {where}: create it or correct LOGINETL_DATABASE_URL",
    ),
}
_UNREACHABLE = (
    TransientError,
    "Postgres cannot be reached at {where}: is it up (`loginetl up` starts an embedded one), and is"
    " LOGINETL_DATABASE_URL right?",
)
_DRIVER_FAILED = (
    OperatorError,
    "the database driver failed at {where} ({error}): check the parameters of LOGINETL_DATABASE_URL",
)
_NAMING = {"aclchk.c", "namespace.c", "parse_relation.c"}  # where the server's text names an object and nothing else
_DRIVER_ERRORS = (psycopg.OperationalError, psycopg.InterfaceError)


class RowsRefusedError(Exception):
    """Postgres refused rows that were written within `attempt`; nothing of it stayed, and the transaction goes on."""

    def __init__(self, sqlstate: str | None = None, constraint_name: str | None = None) -> None:
        super().__init__()
        self.sqlstate = sqlstate
        self.constraint_name = constraint_name


class LoginDatabase:
    """The database that holds `user_logins` and the ledger."""

    def __init__(self, url: str, *, application_name: str = "loginetl") -> None:
        """Takes a Postgres URL in any common spelling, else raises OperatorError; nothing is connected yet."""
        self.url = _with_psycopg(url)
        asked = " ".join(self.url.normalized_query.get("options", ()))  # of the server, such as a search_path
        self._engine = create_engine(
            self.url,
            hide_parameters=True,
            use_native_hstore=False,  # none is stored: one question less on the first connection
            # A connection a transaction: transactions here are whole batches, so its few milliseconds do not show, a
            # restarted server needs no ping, and nothing is left open for anybody to close.
            poolclass=NullPool,
            connect_args={
                "application_name": application_name,
                "connect_timeout": CONNECT_TIMEOUT_SECONDS,
                "client_encoding": "utf8",  # the server says which text a database of another encoding cannot hold
                "options": (
                    f"{asked} {_SEMANTICS} -c statement_timeout={STATEMENT_TIMEOUT_SECONDS}s"
                    f" -c lock_timeout={LOCK_TIMEOUT_SECONDS}s"
                    f" -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_SECONDS}s"
                ),
            },
        )

    @property
    def address(self) -> str:
        """Where it is, without the password, and of the query only what says where."""
        query = {name: value for name, value in self.url.query.items() if name in {"host", "port"}}
        return self.url.set(query=query).render_as_string(hide_password=True)

    def address_for_psql(self) -> str:
        """Returns the connection string for libpq's programs: all that the URL says, but for the password.

        Every user of the machine can read a command line, so only what libpq itself would show goes there.

        Raises:
            OperatorError: the URL has another secret, or a parameter that libpq does not know.
        """
        _, parameters = self._engine.dialect.create_connect_args(self.url)
        for own in ("password", "context"):  # the latter is between SQLAlchemy and psycopg
            parameters.pop(own, None)
        shown = {one.keyword.decode(): not one.dispchar for one in psycopg.pq.Conninfo.get_defaults()}
        if secret := sorted(name for name in parameters if not shown.get(name, True)):
            raise OperatorError(
                f"psql takes {', '.join(secret)} on its command line only, which others can read: use a"
                " LOGINETL_DATABASE_URL without it"
            )
        if parameters.keys() - shown.keys():  # not named: it may be the rest of a password
            raise OperatorError("LOGINETL_DATABASE_URL has a parameter that libpq does not know: remove or correct it")
        return psycopg.conninfo.make_conninfo(**parameters)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction: committed at the end of the block, rolled back when it raises.

        Raises:
            OperatorError: an error that no retry fixes.
            TransientError: an error that a retry may fix.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except (SQLAlchemyError, psycopg.Error) as error:  # the latter of COPY, which runs past SQLAlchemy
            raise self._explained(error) from None

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A transaction all of whose statements see the database as the first one did."""
        with self.transaction() as connection:
            connection.execute(named("keep_snapshot", "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            yield connection

    def revision(self) -> str | None:
        """The schema's state: the last migration that ran, or None before the first."""
        with self.transaction() as connection:
            return connection.scalars(_READ_REVISION).first() if connection.scalars(_HAS_REVISION).one() else None

    def is_migrated(self, vault_days: int | None) -> bool:
        """Whether a migration to this version has run to its end: the record of login table and LOGINETL_VAULT_DAYS."""
        if self.revision() != REVISION:
            return False
        with self.transaction() as connection:
            recorded = select(installation.c.login_table.is_not(None).label("has_table"), installation.c.vault_days)
            row = connection.execute(named("read_record", recorded)).one()
        return row.has_table and vault_days in {None, row.vault_days}

    def migrate(self, table: TableName | None = None, vault_days: int | None = None) -> None:
        """Brings schema `loginetl` to this version's state and records the login table; two at once take turns.

        Args:
            table: what LOGINETL_TABLE says, None where it is not set.
            vault_days: what LOGINETL_VAULT_DAYS says. It is recorded too: the role that loads must not decide it.

        Raises:
            OperatorError: the role may not create what is needed, or the table cannot be loaded; nothing was made.
        """
        from alembic import command  # slow to import, and only needed here

        from loginetl_assets.storage.migrations import alembic_config

        found = self.revision()
        if found is not None and not (_RELEASED.fullmatch(found) and found <= REVISION):
            self._refuse_revision(found)
        try:
            with self._engine.connect() as connection:
                connection.execute(_NO_TIMEOUT)  # an index on a large table takes its time
                # Polled, not awaited: a waiting statement holds a snapshot, for which CREATE INDEX CONCURRENTLY in
                # the other session would wait in turn.
                while not connection.scalars(_TRY_LOCK).one():
                    connection.commit()
                    time.sleep(0.1)
                setup = Setup.plan(connection, table)
                connection.execute(named("create_schema", "CREATE SCHEMA IF NOT EXISTS loginetl"))
                connection.commit()
                command.upgrade(alembic_config(connection), "head")
                connection.commit()
                setup.build(connection.execution_options(isolation_level="AUTOCOMMIT"))
                with self.transaction() as recording:
                    setup.record(recording, vault_days)
        except SQLAlchemyError as error:
            raise self._explained(error) from None

    def check_revision(self) -> None:
        """Makes sure that schema `loginetl` is the one this version works with.

        Raises:
            OperatorError: it is not there, older, newer, or from before the first release.
        """
        found = self.revision()
        if found != REVISION:
            self._refuse_revision(found)

    def _refuse_revision(self, found: str | None) -> NoReturn:
        where = f"schema loginetl at {self.address}"
        if found is None:
            raise OperatorError(f"{where} is not there: run `loginetl migrate`")
        if not _RELEASED.fullmatch(found):
            raise OperatorError(
                f"{where} is at revision {found}, from before the first release, and cannot be upgraded: set"
                " LOGINETL_DATABASE_URL to a new database, or LOGINETL_HOME to a new directory for an embedded one"
            )
        remedy = "upgrade loginetl" if found > REVISION else "run `loginetl migrate`"
        raise OperatorError(f"{where} is at revision {found}, this version needs {REVISION}: {remedy}")

    def _explained(self, raised: Exception) -> Exception:
        """Sorts an error; the server's text, which may carry values, stays out, but for the name of an object."""
        error = getattr(raised, "orig", None) or raised
        code = getattr(error, "sqlstate", None)
        if code is None:
            said = str(error)
            known = (one for parts, one in _WITHOUT_CODE.items() if any(part in said for part in parts))
            fallback = _UNREACHABLE if isinstance(error, _DRIVER_ERRORS) else _DRIVER_FAILED
            kind, words = next(known, fallback)
        elif code in _BY_CODE:
            kind, words = OperatorError, _BY_CODE[code]
        elif code.startswith(_TRANSIENT):
            kind = TransientError if code.startswith(_OF_THE_SERVER) else BatchConflictError
            words = "Postgres failed temporarily at {where} (SQLSTATE {code}, {error}): run again"
        else:
            kind = BatchError
            words = "Postgres refused {statement} at {where} (SQLSTATE {code}, {error}): the server's log says why"
        values = {"object": _object_of(error), "statement": _statement_of(raised), "code": code}
        return kind(words.format(where=self.address, error=type(error).__name__, **values))


def _object_of(error: Exception) -> str:
    """Returns what the server says of the object that an error is about, in brackets; empty where it says nothing.

    Not of what a function or trigger of the users' ran: its statement may be made of values.
    """
    diag = getattr(error, "diag", None)
    is_named = diag is not None and diag.source_file in _NAMING and not diag.context
    return f" ({diag.message_primary})" if diag is not None and is_named else ""


def _statement_of(raised: Exception) -> str:
    found = re.search(r"/\* (\w+) \*/", str(getattr(raised, "statement", None) or ""))
    return f"statement {found[1]}" if found else "a statement"


@contextmanager
def attempt(connection: Connection, *, has_another_way: bool = False) -> Iterator[None]:
    """A savepoint around rows that the server may refuse: by width, constraint, encoding, trigger or policy.

    Where the same is tried in another way next, whatever does not pass by waiting is taken for a refusal.

    Raises:
        RowsRefusedError: it did, at once or by a constraint that would have waited for the commit.
    """
    try:
        with connection.begin_nested():
            yield
            connection.execute(_CHECK_CONSTRAINTS)
    except (SQLAlchemyError, psycopg.Error) as error:
        cause = getattr(error, "orig", None) or error
        # COPY runs past SQLAlchemy, and its context quotes the row: what was sent must not look like a trigger's words.
        if isinstance(cause, psycopg.Error) and (
            _refuses_rows(cause, copying=cause is error) or (has_another_way and not _may_pass(cause))
        ):
            # A trigger's own words (RAISE … USING CONSTRAINT) may be made of the row.
            name = None if _is_of_a_language(cause) else cause.diag.constraint_name
            raise RowsRefusedError(cause.sqlstate, name) from None
        raise


def _refuses_rows(error: psycopg.Error, *, copying: bool) -> bool:
    """Whether an error says no to what the rows are, and not to who writes them or when.

    By what no server translates: the code, the name of a function or file of Postgres's own source, and the name of
    the language in the lines that say in which function the error came up (`PL/pgSQL function f() line 1 at RAISE`).
    """
    code, diag = error.sqlstate or "", error.diag
    if code.startswith(_REFUSED_CLASSES) or _is_unknown(code):
        return True
    if copying or code.startswith(_NEVER_OF_A_ROW):
        return False
    if diag.source_function == "ExecWithCheckOptions":  # a policy of row-level security
        return True
    if _may_pass(error):
        return False
    return _is_of_a_language(error) or "PL/" in (diag.context or "")


def _may_pass(error: psycopg.Error) -> bool:
    """Whether waiting may help: against a time-out or a lock, in a trigger too, unless its own words say so."""
    return error.sqlstate is None or (error.sqlstate.startswith(_TRANSIENT) and not _is_of_a_language(error))


def _is_of_a_language(error: psycopg.Error) -> bool:
    return (error.diag.source_file or "").startswith("pl")  # pl_exec.c, plperl.c, plpy_elog.c


def _is_unknown(code: str) -> bool:
    """Whether Postgres has no such SQLSTATE: a trigger gave it to its exception (RAISE … USING ERRCODE)."""
    try:
        psycopg.errors.lookup(code)
    except KeyError:
        return bool(code)
    return False


def _with_psycopg(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise OperatorError("LOGINETL_DATABASE_URL must be a URL such as postgresql://user@host/database") from None
    if parsed.drivername.split("+")[0] not in {"postgresql", "postgres"}:
        raise OperatorError("LOGINETL_DATABASE_URL must be a postgresql:// URL")
    if "@" in f"{parsed.host}{parsed.database}":  # the end of a password: it would be shown wherever the address is
        raise OperatorError("LOGINETL_DATABASE_URL has an @ too many: write those of the password as %40")
    if password := parsed.query.get("password"):  # among what is hidden
        parsed = parsed.difference_update_query(["password"]).set(password=str(password))
    return parsed.set(drivername="postgresql+psycopg")
