"""The privacy officer's commands on a large table: recovery, a rotation alone and during a load, an erasure."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import psycopg
from rich.console import Console
from rich.table import Table

from bench import database
from bench.failure import BenchmarkError
from bench.messages import bodies
from loginetl_assets.build import build_definitions
from loginetl_assets.keys.keyring import TEMPLATES, Keyring
from loginetl_assets.keys.keysets import keyset_json, replace_keyset, with_new_primary
from loginetl_assets.logins.encryption import VaultEncryptor
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.privacy.erase import Erasure
from loginetl_assets.privacy.recover import Outcome, recover
from loginetl_assets.privacy.rotate import retokenize
from loginetl_assets.privacy.subjects import subject_of
from loginetl_assets.services import Services
from loginetl_assets.settings import KeysetRole, Settings
from loginetl_assets.steps.batch_objects import land
from loginetl_assets.storage import installation, vault
from loginetl_assets.storage.database import LoginDatabase, copy_rows

RECOVERED_TOKENS = 10_000
RETOKENIZED_ROWS = 200_000
RETOKENIZED_VALUES = 100_000
ERASURE_ROWS = 1_000_000
ROWS_PER_USER = 10
TARGET_ROWS_PER_SECOND = 20_000
_BATCH = 5_000
_ERASED_USER = "user-4711"
_LOADED = [dg.AssetKey("masked_logins"), dg.AssetKey("user_logins")]


def measure(home: Path, server_url: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures each command on a database of its own.

    Raises:
        BenchmarkError: the result of a command is wrong.
    """
    results: dict[str, Any] = {}
    say(f"a table of {RETOKENIZED_ROWS:,} rows: recovery, and retokenize alone")
    with _filled(home / "alone", server_url, "bench_privacy_alone", RETOKENIZED_ROWS, RETOKENIZED_VALUES) as settings:
        results["recover"] = _recovery(settings)
        _rotated(settings)
        results["retokenize_alone"] = _retokenize(settings)
    say("the same, and retokenize during a load")
    with _filled(home / "beside", server_url, "bench_privacy_beside", RETOKENIZED_ROWS, RETOKENIZED_VALUES) as settings:
        results["retokenize_during_a_load"] = _retokenize_during_a_load(settings)
    say(f"a table of {ERASURE_ROWS:,} rows: erasure of one user")
    with _filled(home / "erase", server_url, "bench_privacy_erase", ERASURE_ROWS, RETOKENIZED_VALUES) as settings:
        results["erase"] = _erasure(settings)
    return results


@contextmanager
def _filled(home: Path, server_url: str, name: str, rows: int, values: int) -> Iterator[Settings]:
    """Yields settings of a database with rows and vault entries; half of the values are addresses."""
    with database.fresh(server_url, name) as url:
        settings = Settings(home=home, database_url=url)
        services = Services(settings)
        services.keyring.make_missing()
        LoginDatabase(url).migrate()
        _fill(services.database(), services.keyring, rows, values)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")  # as autovacuum would have done by then
            connection.execute("CHECKPOINT")
        yield settings


def _fill(login_database: LoginDatabase, keys: Keyring, rows: int, values: int) -> None:
    each = values // 2
    tokens = {field: [keys.tokenizer.token(field, f"value-{n}") for n in range(each)] for field in ("ip", "device_id")}
    for field, of_field in tokens.items():
        for start in range(0, each, _BATCH):
            with login_database.transaction() as connection:
                for role in KeysetRole:
                    installation.check_keys(connection, role, keys.check_values(role))
                encryptor = VaultEncryptor(keys.vault)
                vault.add(
                    connection,
                    encryptor.wrapped_key,
                    keys.key_ids(KeysetRole.VAULT)[0],
                    (
                        (of_field[n], field, encryptor.encrypt(of_field[n], f"value-{n}"))
                        for n in range(start, min(start + _BATCH, each))
                    ),
                )
    # Address and device of a row are unrelated, and every user has ten rows.
    with login_database.transaction() as connection:
        copy_rows(
            connection,
            "user_logins",
            ("user_id", "device_type", "masked_ip", "masked_device_id", "locale", "app_version", "create_date"),
            (
                (
                    f"user-{n % (rows // ROWS_PER_USER)}",
                    "ios",
                    tokens["ip"][n % each],
                    tokens["device_id"][n * 7_919 % each],
                    "RU",
                    2_003_000,
                    "2024-05-01",
                )
                for n in range(rows)
            ),
        )


def _recovery(settings: Settings) -> dict[str, Any]:
    login_database = Services(settings).database()
    with psycopg.connect(settings.database_url or "") as connection:
        found = connection.execute(
            "SELECT token FROM loginetl.pii_vault ORDER BY md5(token) LIMIT %s", (RECOVERED_TOKENS,)
        ).fetchall()
    started = time.perf_counter()
    answers = recover(login_database, Services(settings).officer(), [row[0] for row in found], reason="benchmark")
    seconds = time.perf_counter() - started
    if len(answers) != RECOVERED_TOKENS or any(one.outcome is not Outcome.RECOVERED for one in answers):
        raise BenchmarkError("not every token was recovered")
    return {"tokens": RECOVERED_TOKENS, "seconds": round(seconds, 2)}


def _rotated(settings: Settings) -> Services:
    keys = Services(settings).keyring
    role = KeysetRole.MASKING
    replace_keyset("", keys.source(role), keyset_json(with_new_primary(keys.handle(role), TEMPLATES[role])))
    return Services(settings)


def _retokenize(settings: Settings) -> dict[str, Any]:
    services = Services(settings)
    ends: dict[str, float] = {}
    started = time.perf_counter()
    counts = retokenize(
        services.database(application_name="loginetl retokenize"),
        services.landing(),
        services.keyring,
        Services(settings).officer(),
        reason="benchmark",
        progress=lambda step, done, total: ends.update({step: time.perf_counter()}),
    )
    ended = time.perf_counter()
    rows_started = max((end for step, end in ends.items() if step != "rows"), default=started)
    seconds = {"vault": ends["vault"] - started, "rows": ends["rows"] - rows_started, "total": ended - started}
    new = f"{services.keyring.tokenizer.key_id}."
    with psycopg.connect(settings.database_url or "") as connection:
        left = connection.execute(
            "SELECT count(*) FROM user_logins"
            " WHERE NOT (starts_with(masked_ip, %s) AND starts_with(masked_device_id, %s))",
            (new, new),
        ).fetchone()
    if left != (0,) or counts.rows < RETOKENIZED_ROWS or counts.removed_entries < RETOKENIZED_VALUES:
        raise BenchmarkError(f"retokenize left {left} rows, moved {counts}")
    return {
        "rows": counts.rows,
        "values": counts.values,
        "seconds": {name: round(took, 2) for name, took in seconds.items()},
        "rows_per_second": round(counts.rows / seconds["rows"]),
        "rows_per_second_total": round(counts.rows / seconds["total"]),
        "values_per_second": round(counts.values / seconds["vault"]),
    }


def _retokenize_during_a_load(settings: Settings) -> dict[str, Any]:
    with subprocess.Popen(
        [sys.executable, "-m", "bench.privacy"],
        env={**os.environ, **_rotated(settings).settings.as_environment()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as load:
        try:
            _until_loading(settings, load)
            started, before = time.perf_counter(), _rows(settings)
            found = _retokenize(settings)
            loaded, seconds = _rows(settings) - before, time.perf_counter() - started
            if load.poll() is not None or not loaded:
                raise BenchmarkError("the load did not continue during the retokenize")
        finally:
            load.kill()
    return {**found, "loaded_meanwhile": loaded, "loaded_per_second": round(loaded / seconds)}


def _until_loading(settings: Settings, load: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while _rows(settings) == RETOKENIZED_ROWS:
        if load.poll() is not None or time.monotonic() > deadline:
            raise BenchmarkError("the load for the retokenize did not start")
        time.sleep(0.1)


def _rows(settings: Settings) -> int:
    return database.count(settings.database_url or "", "user_logins")


def load_for_ever(settings: Settings) -> None:
    """Masks and loads new messages, 10 000 in each run, until it is killed: the load during a retokenize."""
    services = Services(settings)
    landing, login_database = services.landing(), services.database()
    job = build_definitions(settings).resolve_implicit_job_def_def_for_assets(_LOADED)
    if job is None:
        raise BenchmarkError("the assets form no job")
    fresh = bodies(10_000_000)
    with dg.DagsterInstance.ephemeral() as instance:
        while True:
            for _ in range(2):
                messages = [
                    QueuedMessage(str(uuid4()), 1_700_000_000_000, body.encode()) for body in islice(fresh, _BATCH)
                ]
                with login_database.transaction() as connection:
                    land(connection, landing, services.keyring, messages)
            job.execute_in_process(instance=instance, asset_selection=_LOADED)


def _erasure(settings: Settings) -> dict[str, Any]:
    services = Services(settings)
    subject = subject_of(_ERASED_USER, [], services.keyring)
    with psycopg.connect(settings.database_url or "") as connection:
        plan = connection.execute(
            "EXPLAIN DELETE FROM user_logins WHERE user_id = %s RETURNING masked_ip, masked_device_id", (_ERASED_USER,)
        ).fetchall()
    erasure = Erasure(services.database(), services.landing(), services.keyring, subject)
    started = time.perf_counter()
    counts = erasure.run("benchmark")
    seconds = time.perf_counter() - started
    if counts.rows != ROWS_PER_USER or _rows(settings) != ERASURE_ROWS - ROWS_PER_USER:
        raise BenchmarkError(f"erasure removed {counts.rows} rows, not {ROWS_PER_USER}")
    return {"table_rows": ERASURE_ROWS, "rows": counts.rows, "seconds": round(seconds, 2), "plan": [r[0] for r in plan]}


def show(console: Console, found: dict[str, Any]) -> None:
    """Prints the figures."""
    table = Table("", "seconds", "per second", title="The privacy officer's commands")
    for column in table.columns[1:]:
        column.justify = "right"
    recovered = found["recover"]
    table.add_row(f"recover {recovered['tokens']:,} tokens", f"{recovered['seconds']:.2f}", "")
    for name, title in (("retokenize_alone", "retokenize"), ("retokenize_during_a_load", "retokenize during a load")):
        one = found[name]
        seconds = one["seconds"]
        table.add_row(f"{title}: vault values", f"{seconds['vault']:.2f}", f"{one['values_per_second']:,}")
        table.add_row(f"{title}: rows", f"{seconds['rows']:.2f}", f"{one['rows_per_second']:,}")
        table.add_row(f"{title}: total", f"{seconds['all of it']:.2f}", f"{one['rows_per_second_total']:,}")
    table.add_row("rows loaded meanwhile", "", f"{found['retokenize_during_a_load']['loaded_per_second']:,}")
    erased = found["erase"]
    table.add_row(f"erase {erased['rows']} of {erased['table_rows']:,} rows", f"{erased['seconds']:.2f}", "")
    console.print(table)
    console.print("\n".join(erased["plan"]), style="dim", highlight=False, markup=False)
    console.print(f"Target: {TARGET_ROWS_PER_SECOND:,} rows per second or more during a load.")


if __name__ == "__main__":
    load_for_ever(Settings.from_environment())
