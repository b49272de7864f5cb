"""What is measured inside this process: the queue's client, the transform in memory, the load and its checks."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from uuid import UUID, uuid4

import psycopg

from bench.drains import installed_with_queue, status_seconds
from bench.messages import bodies
from bench.peers.common import Queue as PlainQueue
from bench.run import BenchmarkError, Say
from bench.services import Services, execute
from bench.targets import Counts, Readings
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.landing.batch_files import pack_masked
from loginetl_assets.logins.encryption import VaultEncryptor, decrypt, encrypt
from loginetl_assets.logins.masking import MaskingRules, mask_batch
from loginetl_assets.logins.message import QueuedMessage, decode_messages, encode_messages
from loginetl_assets.services import Services as Opened
from loginetl_assets.settings import Settings
from loginetl_assets.steps.batch_objects import land
from loginetl_assets.steps.load import load_pending
from loginetl_assets.steps.mask import mask_pending
from loginetl_assets.steps.verify import verify_loaded
from loginetl_assets_tests.support.corpus import GROWING, MIB

_BATCH = 5_000  # the drain's default
_SENT_AT = 1_700_000_000_000
_LOGINS, _LEDGER = "user_logins", "loginetl.processed_messages"


def client(services: Services, counts: Counts, say: Say) -> Readings:
    """Receives and deletes in one thread, by the pipeline's client and by plain boto3."""
    readings = defaultdict[str, list[float]](list)
    for number in range(counts.repeats):
        say(f"receive and delete in one thread ({number + 1} of {counts.repeats})")
        with services.emulator.queue(bodies(counts.client)) as queue:
            opened = Opened(Settings(home=services.directory(), queue_url=queue.url)).queue()
            started = time.process_time()
            while received := opened.receive(wait_seconds=0, visibility_seconds=120):
                opened.delete([one.receipt_handle for one in received])
            readings["client"].append((time.process_time() - started) * 1e6 / counts.client)
            queue.require_empty("the client")
        with services.emulator.queue(bodies(counts.client)) as queue:
            plain = PlainQueue(queue.url)
            started = time.process_time()
            while found := plain.receive():
                plain.delete([message["ReceiptHandle"] for message in found])
            readings["plain boto3"].append((time.process_time() - started) * 1e6 / counts.client)
    return readings


def transform(services: Services, counts: Counts, say: Say) -> Readings:
    """Opens, parses, checks, masks, encrypts for the vault and writes, in memory; CPU time, so on one core."""
    readings = defaultdict[str, list[float]](list)
    keys = Keyring({}, services.directory() / "keys")
    few, some, many = counts.transformed
    _transform(keys, few, 0.0)  # what the libraries do the first time
    for number in range(counts.repeats):
        say(f"transform in memory ({number + 1} of {counts.repeats})")
        readings["all new"].append(some / _transform(keys, some, 0.0))
        readings["tenth new"].append(some / _transform(keys, some, 0.9))
        costs = [_transform(keys, messages, 0.0) / messages for messages in (few, many)]
        readings["transform growth"].append(costs[1] / costs[0])
        readings["hostile growth"].append(max(_hostile_growth(keys, shape) for shape in GROWING.values()))
    return readings


def _transform(keys: Keyring, messages: int, returning: float) -> float:
    """Returns the seconds of CPU that it takes; what is known to the vault is not encrypted again."""
    seconds, known, masked_rows = 0.0, set[str](), 0
    for batch in _batches(messages, returning):
        landed = encrypt(keys.landing, encode_messages(batch), "place")
        started = time.process_time()
        masked = mask_batch(decode_messages(decrypt(keys.landing, landed, "place")), keys.tokenizer)
        encryptor = VaultEncryptor(keys.vault)
        for token, _, value in masked.vault.iter_rows():
            if token not in known:
                encryptor.encrypt(token, value)
        pack_masked(masked.logins)
        seconds += time.process_time() - started
        known.update(masked.vault["token"])
        masked_rows += masked.logins.height + len(masked.rejected)
    if masked_rows != messages:
        raise BenchmarkError("masking lost messages")
    return seconds


def _hostile_growth(keys: Keyring, shape: Callable[[int], bytes]) -> float:
    """Returns what a byte of a body of 1 MiB costs, over one of 64 KiB: near sixteen where reading is quadratic.

    Sixteen short bodies make a batch, so that its fixed cost is the same; all differ: equal values are masked once.
    """
    long, short = MIB, MIB // 16

    def seconds(parts: Sequence[bytes]) -> float:
        messages = [QueuedMessage(str(UUID(int=number)), 0, body) for number, body in enumerate(parts)]
        started = time.process_time()
        mask_batch(messages, keys.tokenizer)
        return time.process_time() - started

    shorts, longs = [shape(short + number) for number in range(16)], [shape(long)]
    return min(seconds(longs) for _ in range(2)) / min(seconds(shorts) for _ in range(2))


def load(services: Services, counts: Counts, say: Say) -> Readings:
    """Loads into empty databases, beside COPY of the same rows, and into one that holds a large table and ledger."""
    readings = defaultdict[str, list[float]](list)
    costs, checks = [], []
    for number in range(counts.repeats):
        say(f"load into an empty table ({number + 1} of {counts.repeats})")
        with installed_with_queue(services, 0) as settings:
            _load(settings, _BATCH, seed=-1)  # what is done once, here and below: connections, caches of the catalog
            cost, check = _load(settings, counts.loaded, seed=number)
            rows, ids = (_copied_out(settings.database_url or "", table) for table in (_LOGINS, _LEDGER))
        readings["loaded rows a second"].append((len(rows) - _BATCH) / cost)
        for name, tables in (
            ("over copy", {_LOGINS: rows}),
            ("over copy into the ledger, too", {_LOGINS: rows, _LEDGER: ids}),
        ):
            with installed_with_queue(services, 0) as other:
                _copy(other.database_url or "", {table: lines[:_BATCH] for table, lines in tables.items()})
                copied = _copy(other.database_url or "", {table: lines[_BATCH:] for table, lines in tables.items()})
            readings[name].append(copied / cost)
        costs.append(cost)
        checks.append(check)
    with installed_with_queue(services, 0) as settings:
        say(f"a table and a ledger of {counts.large:,} rows")
        _grow(settings.database_url or "", counts.large)
        _load(settings, _BATCH, seed=-1)
        for number in range(counts.repeats):
            say(f"load into the large table ({number + 1} of {counts.repeats})")
            cost, check = _load(settings, counts.loaded, seed=number)
            readings["load growth"].append(cost / costs[number])
            readings["checks growth"].append(check / checks[number])
            readings["seconds of checks and status on the large table"].append(check)
    return readings


def _load(settings: Settings, messages: int, *, seed: int) -> tuple[float, float]:
    """Returns how many seconds it takes to load masked messages, and to check them and read the status."""
    opened, run_id = Opened(settings), str(uuid4())
    database, keys = opened.database(), opened.keyring
    landing = opened.bound_landing(database)
    for batch in _batches(messages, 0.08, seed=seed):
        with database.transaction() as connection:
            land(connection, landing, keys, batch, run_id)
    _, failed = mask_pending(database, landing, keys, MaskingRules(), run_id=run_id)
    started = time.perf_counter()
    totals, failed_load = load_pending(database, landing, keys, run_id=run_id)
    loaded = time.perf_counter() - started
    started = time.perf_counter()
    read, repeats, sums, _ = verify_loaded(database, landing, run_id)
    checked = time.perf_counter() - started + status_seconds(settings)
    if (
        failed
        or failed_load
        or totals.loaded != sums.loaded
        or read.rows != totals.loaded
        or any(vars(repeats).values())
    ):
        raise BenchmarkError(f"the load is wrong: {failed or failed_load or totals}")
    return loaded, checked


def _batches(messages: int, returning: float, *, seed: int = 0) -> Iterator[list[QueuedMessage]]:
    made = iter(bodies(messages, returning=returning, seed=seed))
    while part := list(islice(made, _BATCH)):
        yield [QueuedMessage(str(uuid4()), _SENT_AT, body.encode()) for body in part]


def _copied_out(url: str, table: str) -> list[bytes]:
    copied_out = f"COPY {table} TO STDOUT".encode()
    with psycopg.connect(url) as connection, connection.cursor() as cursor, cursor.copy(copied_out) as copy:
        return b"".join(copy).splitlines(keepends=True)


def _copy(url: str, tables: Mapping[str, Sequence[bytes]]) -> float:
    """Returns how many seconds COPY takes into tables with the indexes of loginetl: text as Postgres wrote it."""
    texts = {table: b"".join(lines) for table, lines in tables.items()}
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        started = time.perf_counter()
        for table, text in texts.items():
            with cursor.copy(f"COPY {table} FROM STDIN".encode()) as copy:
                copy.write(text)
        connection.commit()
        return time.perf_counter() - started


# Tokens and ids look like real ones: as long, and in no order.
_ROWS = (
    "INSERT INTO user_logins (user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date)"
    " SELECT md5(n::text)::uuid::text, 'ios', '11111111.' || left(encode(sha256(n::text::bytea), 'base64'), 43),"
    " '11111111.' || left(encode(sha256((-n)::text::bytea), 'base64'), 43), 'RU', 2003000, '2024-05-01'"
    " FROM generate_series(1, {rows}) n"
)
_IDS = (
    "INSERT INTO loginetl.processed_messages (message_uuid, batch_id, outcome)"
    " SELECT md5(n::text)::uuid, 0, 'loaded' FROM generate_series(1, {rows}) n ORDER BY 1"
)


def _grow(url: str, rows: int) -> None:
    """Fills table and ledger; their indexes are built afterwards, or in their own order, which is faster."""
    indexes = execute(url, "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'user_logins'")
    for name, _ in indexes:
        execute(url, f"DROP INDEX {name}")
    execute(url, _ROWS.format(rows=rows))
    for _, definition in indexes:
        execute(url, f"SET maintenance_work_mem = '1GB'; {definition}")
    execute(url, f"SET work_mem = '1GB'; {_IDS.format(rows=rows)}")
    for statement in ("VACUUM ANALYZE", "CHECKPOINT"):
        execute(url, statement)
