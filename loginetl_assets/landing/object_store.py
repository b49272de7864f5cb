"""The landing: an object store (file:// or s3://) that keeps encrypted batches and masked files.

A `put` is atomic: an object is there whole or not at all. Nothing is ever overwritten, since every path is new.
"""

import json
import os
import re
import shlex
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid4

import obstore
from botocore.exceptions import BotoCoreError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, S3Store

from loginetl_assets.aws import session as aws
from loginetl_assets.durable import make_directory, sync
from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.landing.object_versions import ObjectVersions

BATCHES = "batches"
MASKED = "masked"
ERASURES = "erasures"
PROBES = f"{BATCHES}/probe-"  # what `check_writable` writes
_PROBE_AGE = timedelta(hours=1)  # whoever wrote an older one is gone: it is written within the time-outs below
MARKER = "installation.json"  # says which database the landing belongs to

_RIGHTS = {
    "read from": "s3:GetObject",
    "write to": "s3:PutObject",
    "delete from": "s3:DeleteObject and, where the bucket keeps versions, s3:DeleteObjectVersion",
    "list": "s3:ListBucket and, where the bucket keeps versions, s3:ListBucketVersions",
}
_OF_OURS = re.compile(rf"({BATCHES}|{MASKED})/[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def may_be_ours(path: str) -> bool:
    """Returns whether a path is of a kind that is written here; others obstore may not even take for a path."""
    return _OF_OURS.fullmatch(path) is not None


class ObjectMissingError(Exception):
    """The landing has no such object."""


class Landing:
    """Objects by path.

    Each method raises OperatorError where the store cannot be used as it is set (no right, no room, no bucket), and
    TransientError where it failed in a way that may pass.
    """

    def __init__(self, url: str) -> None:
        """Opens a landing by its URL, file:///… or s3://bucket/…; a missing directory is made."""
        self.url = url
        parts = urlsplit(url)
        self._directory: Path | None = None
        self._versions: ObjectVersions | None = None
        try:
            if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.startswith("/"):
                self._directory = Path(unquote(parts.path))
                self._store: LocalStore | S3Store = _open_directory(self._directory, url)
            elif parts.scheme == "s3" and parts.netloc:
                self._store, self._versions = _open_bucket(parts.netloc, parts.path.strip("/"))
            else:
                raise OperatorError("LOGINETL_LANDING_URL must be file:///absolute/path or s3://bucket/prefix")
        except (BaseError, OSError, ValueError) as error:
            raise OperatorError(
                f"the landing at {url} cannot be opened ({_why(error)}): correct LOGINETL_LANDING_URL, or the rights of"
                " the directories above it"
            ) from None

    def put(self, path: str, content: bytes, mode: Literal["create", "overwrite"] = "overwrite") -> None:
        """Writes a new object, durably; in mode `create` one that is there already stays."""
        with self._failures_explained("write to"):
            try:
                obstore.put(self._store, path, content, mode=mode)
            except AlreadyExistsError:
                return
            if self._directory is not None:  # obstore makes directories and renames into place, but does not sync
                written = PurePosixPath(path)
                for part in (written, *written.parents):
                    sync(self._directory / part)

    def check_writable(self) -> None:
        """Writes an object and deletes it."""
        path = f"{PROBES}{uuid4()}"  # where retention finds it, should this process die in between
        self.put(path, b"probe")
        self.delete([path])

    def bind(self, installation_id: UUID) -> None:
        """Makes sure that the landing belongs to this database, or raises OperatorError; the first that asks gets it.

        What one database's retention takes for left over is another's pending batch.
        """
        ours = json.dumps({"installation_id": str(installation_id)}).encode()
        try:
            found = self.get(MARKER)
        except ObjectMissingError:
            self.put(MARKER, ours, mode="create")
            found = self.get(MARKER)  # of two that are first at once one wins
        if found != ours:
            raise OperatorError(
                f"the landing at {self.url} belongs to another database's installation: set LOGINETL_LANDING_URL to a"
                f" place of this one's own. If that database is gone for good, delete the object {MARKER} there and run"
                " `loginetl batches register`"
            )

    def get(self, path: str) -> bytes:
        """Returns an object whole, or raises ObjectMissingError."""
        with self._failures_explained("read from"):
            try:
                return bytes(obstore.get(self._store, path).bytes())
            except (FileNotFoundError, NotFoundError):
                raise ObjectMissingError(f"the landing has no object {path}") from None

    def delete(self, paths: Iterable[str]) -> list[str]:
        """Deletes objects, in every version that the bucket keeps; one that is gone already is no error.

        Returns those of which versions stay, because a right is missing or they are locked.
        """
        left = []
        for path in paths:
            with self._failures_explained("delete from"):
                with suppress(FileNotFoundError, NotFoundError):
                    obstore.delete(self._store, path)
                if self.keeps_versions and not (self._versions and self._versions.delete(path)):
                    left.append(path)
        return left

    @cached_property
    def keeps_versions(self) -> bool | None:
        """Whether deleted objects stay as noncurrent versions; None where that may not be asked."""
        with self._failures_explained("delete from"):
            return self._versions.are_kept() if self._versions else False

    def delete_unfinished(self, before: datetime) -> int:
        """Deletes what writes left behind that were killed before that moment; returns how many files.

        A moment to come is for whoever keeps all others from writing by the vault's lock. Only probes are written under
        no lock: theirs must be old, too. On S3 a lifecycle rule does it (AbortIncompleteMultipartUpload): nothing of it
        is an object yet.
        """
        if self._directory is None:
            return 0
        of_probes = min(before, datetime.now(UTC) - _PROBE_AGE)
        deleted = 0
        for prefix in (BATCHES, MASKED):
            for path in (self._directory / prefix).glob("*#*"):  # the library's name for it until it is renamed
                is_probe = f"{prefix}/{path.name}".startswith(PROBES)
                with suppress(FileNotFoundError):  # it was renamed just now
                    if path.stat().st_mtime < (of_probes if is_probe else before).timestamp():
                        path.unlink()
                        deleted += 1
        return deleted

    def list(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        """Yields the paths under a prefix, whoever wrote them, each with the moment it was written."""
        with self._failures_explained("list"):
            if self._versions:
                yield from self._versions.list(prefix)
                return
            for chunk in obstore.list(self._store, prefix):
                for found in chunk:
                    yield found["path"], found["last_modified"]

    @contextmanager
    def _failures_explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except (*aws.AWS_ERRORS, BaseError, OSError) as error:
            raise self._explained(error, action) from None

    def _explained(self, error: Exception, action: str) -> Exception:
        url, text = self.url, str(error)
        denied = isinstance(error, (PermissionError, PermissionDeniedError, UnauthenticatedError))
        if "No space left" in text or "StorageFull" in text or "quota" in text.lower():
            return OperatorError(
                f"the landing at {url} is full: make room, such as by a lower LOGINETL_RETENTION_DAYS and the job"
                " retention, or move all of it to where LOGINETL_LANDING_URL then points"
            )
        if denied or "Permission denied" in text or aws.error_status(error) == 403:
            owned = "let the user that runs loginetl own that directory and all below it"
            remedy = owned if url.startswith("file:") else f"grant these credentials {_RIGHTS[action]}"
            return OperatorError(f"not allowed to {action} the landing at {url}: {remedy}, or set LOGINETL_LANDING_URL")
        if "NoSuchBucket" in text or aws.error_status(error) == 404:  # of a listing: no object is asked for
            return OperatorError(
                f"there is no bucket for the landing at {url}: create it or correct LOGINETL_LANDING_URL"
            )
        if url.startswith("file:"):
            return OperatorError(
                f"cannot {action} the landing at {url} ({_why(error)}): fix the disk or its mount, or set"
                " LOGINETL_LANDING_URL to another directory"
            )
        return TransientError(f"cannot {action} the landing at {url} just now ({type(error).__name__})")


def _why(error: Exception) -> str:
    number = re.search(r"\(os error (\d+)\)", str(error))  # all that obstore says of an OSError
    strerror = os.strerror(int(number[1])) if number else getattr(error, "strerror", None)
    return str(strerror or type(error).__name__)


def _open_directory(directory: Path, url: str) -> LocalStore:
    make_directory(directory)
    if directory.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        # Masked files name users, and what the library writes below is open to all but for the umask. Not closed by
        # us: whoever opened it may have had a reason.
        raise OperatorError(
            f"others can enter the landing at {url}: `chmod go= {shlex.quote(str(directory))}`,"
            " or set LOGINETL_LANDING_URL to a directory that does not exist yet"
        )
    return LocalStore(prefix=directory)


def _open_bucket(bucket: str, prefix: str) -> tuple[S3Store, ObjectVersions]:
    session, endpoint = aws.open_session(), aws.endpoint_of("S3")
    try:
        credentials = Boto3CredentialProvider(session)
    except (ValueError, BotoCoreError):  # none are found, or not all of them
        raise OperatorError(aws.NO_CREDENTIALS) from None
    options: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}  # an emulator or a store of one's own
    store = S3Store(
        bucket,
        prefix=prefix or None,
        region=session.region_name or aws.DEFAULT_REGION,
        # Together well inside the visibility time-out: the library's own default is ten retries over three minutes.
        retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=30)},
        client_options={
            "connect_timeout": "5 seconds",
            "timeout": "30 seconds",
            "allow_http": (endpoint or "").startswith("http:"),
        },
        virtual_hosted_style_request=False,
        credential_provider=credentials,
        **options,
    )
    return store, ObjectVersions(session, bucket, prefix)
