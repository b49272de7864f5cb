"""Fresh databases on the embedded Postgres, one for each contender."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import make_url

# As in the users' databases; the row script's table has no index, the pipeline's gets those of its migrations.
TABLE = (
    "CREATE TABLE user_logins (user_id varchar(128), device_type varchar(32), masked_ip varchar(256),"
    " masked_device_id varchar(256), locale varchar(32), app_version integer, create_date date)"
)


@contextmanager
def fresh(server_url: str, name: str) -> Iterator[str]:
    """Yields the libpq URL of a database with an empty `user_logins`, which is dropped at the end."""
    server = make_url(server_url).set(drivername="postgresql")
    url = server.set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(server.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            with psycopg.connect(url) as inside:
                inside.execute(TABLE)
            yield url
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def count(url: str, table: str) -> int:
    """Returns the number of rows of a table."""
    with psycopg.connect(url) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()  # noqa: S608 - names of this package
    return int(row[0]) if row else 0


def version(url: str) -> str:
    """Returns the server's version, such as 18.1."""
    with psycopg.connect(
        make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    ) as connection:
        return f"{connection.info.server_version // 10_000}.{connection.info.server_version % 10_000}"
