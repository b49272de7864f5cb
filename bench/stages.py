"""Single stages: encryption, masking, vault and parquet in memory; the load compared with a plain COPY."""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import polars as pl
import psycopg

from bench import database
from bench.failure import BenchmarkError
from bench.messages import bodies
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.logins.contract import COLUMN_NAMES
from loginetl_assets.logins.encryption import VaultEncryptor, decrypt, encrypt
from loginetl_assets.logins.masking import MASKED_SCHEMA, MaskedBatch, mask_batch
from loginetl_assets.logins.message import QueuedMessage, decode_messages, encode_messages
from loginetl_assets.services import Services
from loginetl_assets.settings import Settings
from loginetl_assets.storage import batches
from loginetl_assets.storage.batches import BatchState, Results
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.login_table import load_logins

BATCH = 5_000  # the drain's default
MASKED_MESSAGES = 50_000
LOADED_ROWS = 100_000


class _Stopwatch:
    """Seconds of each stage, summed over batches."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def in_memory(home: Path, *, messages: int = MASKED_MESSAGES) -> dict[str, float]:
    """Returns messages per second of each stage of masking, on one core, with new values only: the worst case.

    Raises:
        BenchmarkError: a count does not add up.
    """
    keys = Keyring({}, home / "keys")
    watch = _Stopwatch()
    masked_rows = 0
    for batch in _batches(messages):
        with watch.stage("encrypt a batch"):
            encrypted = encrypt(keys.landing, encode_messages(batch), "place")
        with watch.stage("decrypt a batch"):
            messages_read = decode_messages(decrypt(keys.landing, encrypted, "place"))
        with watch.stage("mask (mask_batch)"):
            masked = mask_batch(messages_read, keys.tokenizer)
        with watch.stage("vault: encrypt the values"):
            encryptor = VaultEncryptor(keys.vault)
            for token, _, value in masked.vault.iter_rows():
                encryptor.encrypt(token, value)
        with watch.stage("write parquet"):
            masked.logins.write_parquet(io.BytesIO(), compression="zstd")
        if masked.logins.height + len(masked.rejected) != len(batch):
            raise BenchmarkError("masking lost messages")
        masked_rows += masked.logins.height
    rates = {name: messages / seconds for name, seconds in watch.seconds.items()}
    return {**rates, "all stages": messages / sum(watch.seconds.values())}


def loading(home: Path, server_url: str, *, rows: int = LOADED_ROWS) -> dict[str, float]:
    """Returns rows per second into Postgres: by COPY alone, with the indexes of loginetl, and through its ledger.

    Raises:
        BenchmarkError: rows are missing.
    """
    keys = Keyring({}, home / "keys")
    masked = [mask_batch(batch, keys.tokenizer) for batch in _batches(rows)]
    whole = pl.concat(one.logins for one in masked)

    def straight(url: str) -> float:
        return _copy(url, whole.select(COLUMN_NAMES))

    def indexed(url: str) -> float:
        LoginDatabase(url).migrate()
        return _copy(url, whole.select(COLUMN_NAMES))

    def ours(url: str) -> float:
        LoginDatabase(url).migrate()
        return _load(home, url, masked)

    rates = {}
    ways: dict[str, Callable[[str], float]] = {
        "COPY into the bare table": straight,
        "COPY into the table with the indexes of loginetl": indexed,
        "the load of the pipeline: COPY, ledger, insert, commit per batch": ours,
    }
    for number, (name, way) in enumerate(ways.items()):
        with database.fresh(server_url, f"bench_load_{number}") as url:
            rates[name] = whole.height / way(url)
            if (found := database.count(url, "user_logins")) != whole.height:
                raise BenchmarkError(f"{name}: {found} rows, not {whole.height}")
    return rates


def _batches(messages: int) -> Iterator[list[QueuedMessage]]:
    made = [
        QueuedMessage(
            str(UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)), 1_700_000_000_000, body.encode()
        )
        for number, body in enumerate(bodies(messages, returning=0.0), 1)
    ]
    for start in range(0, messages, BATCH):
        yield made[start : start + BATCH]


def _copy(url: str, rows: pl.DataFrame) -> float:
    started = time.perf_counter()
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        with cursor.copy(f"COPY user_logins ({', '.join(COLUMN_NAMES)}) FROM STDIN".encode()) as copy:
            for row in rows.iter_rows():
                copy.write_row(row)
        connection.commit()
        return time.perf_counter() - started


def _load(home: Path, url: str, masked: list[MaskedBatch]) -> float:
    open_database = Services(Settings(home=home, database_url=url)).database()
    with open_database.transaction() as connection:
        for number, one in enumerate(masked):
            batches.register_batch(
                connection,
                object_path=str(number),
                landing_key_id=0,
                messages=[QueuedMessage("", 0, b"")] * one.logins.height,  # the others are no part of the load
                bytes=0,
                run_id=None,
            )
            batch = batches.claim_batch(connection, [BatchState.LANDED])
            if batch is None:
                raise BenchmarkError("the ledger has no batch")
            batches.mark_masked(
                connection,
                batch,
                Results(),
                masked_path=str(number),
                unknown_fields=0,
                run_id="bench",
            )
    started = time.perf_counter()
    for one in masked:
        with open_database.transaction() as connection:
            batch = batches.claim_batch(connection, [BatchState.MASKED])
            if batch is None:
                raise BenchmarkError("the ledger has no masked batch")
            outcome = load_logins(connection, batch, one.logins.match_to_schema(MASKED_SCHEMA))
            batches.mark_loaded(connection, batch, Results(loaded=outcome.inserted), run_id="bench")
    return time.perf_counter() - started
