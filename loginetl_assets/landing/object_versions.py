"""What obstore cannot reach of a bucket: the versions it keeps of deleted objects, and keys that are no path.

Its listing fails as a whole where somebody else's key has an empty segment, a dot or a control character.
"""

import os
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from loginetl_assets.errors import OperatorError, TransientError

_CONFIG = Config(
    retries={"total_max_attempts": 5, "mode": "standard"},
    connect_timeout=5,
    read_timeout=30,
)
_NOT_KNOWN_HERE = {400, 404, 405, 501}  # a store that has no versions


class ObjectVersions:
    """The versions of a bucket's objects below a prefix."""

    def __init__(self, session: boto3.Session, bucket: str, prefix: str, *, url: str) -> None:
        """Takes a session with credentials; nothing is asked yet. The URL is for errors."""
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        config = _CONFIG.merge(Config(s3={"addressing_style": "path"})) if endpoint else _CONFIG
        self._client: Any = session.client("s3", region_name=session.region_name or "us-east-1", config=config)
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._url = url

    def are_kept(self) -> bool | None:
        """Whether the bucket keeps versions, or kept them once; None where that may not be asked.

        Raises:
            TransientError: the store failed in a way that may pass.
        """
        try:
            return "Status" in self._client.get_bucket_versioning(Bucket=self._bucket)
        except (ClientError, BotoCoreError, HTTPClientError) as error:
            status = _status(error)
            if status == 403:
                return None
            if status in _NOT_KNOWN_HERE:
                return False
            raise self._explained(error, "delete from") from None

    def list(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        """Gives the keys below a prefix of the landing, each with the moment it was written.

        Raises:
            OperatorError: it may not be listed, or there is no such bucket.
            TransientError: the store failed in a way that may pass.
        """
        path = f"{self._prefix}{prefix}/"
        try:
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=path):
                for found in page.get("Contents", ()):
                    if found["Key"].endswith("/"):
                        continue  # an empty folder, as the web console makes it
                    yield found["Key"].removeprefix(self._prefix), found["LastModified"]
        except (ClientError, BotoCoreError, HTTPClientError) as error:
            if _status(error) in {403, 404}:
                raise OperatorError(
                    f"not allowed to list the landing at {self._url}, or there is no such bucket: check its rights and"
                    " LOGINETL_LANDING_URL"
                ) from None
            raise self._explained(error, "list") from None

    def delete(self, key: str) -> bool:
        """Deletes all versions of an object that was deleted; whether none is left.

        Delete markers go last: without its marker a version that stays would be the object again.

        Raises:
            TransientError: the store failed in a way that may pass.
        """
        path = self._prefix + key
        try:
            pages = list(self._client.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=path))
            for kind in ("Versions", "DeleteMarkers"):
                for one in (one for page in pages for one in page.get(kind, ()) if one["Key"] == path):
                    self._client.delete_object(Bucket=self._bucket, Key=path, VersionId=one["VersionId"])
        except (ClientError, BotoCoreError, HTTPClientError) as error:
            if 400 <= _status(error) < 500 and _status(error) != 429:
                return False
            raise self._explained(error, "delete from") from None
        return True

    def _explained(self, error: Exception, action: str) -> TransientError:
        return TransientError(f"cannot {action} the landing at {self._url} just now ({type(error).__name__})")


def _status(error: Exception) -> int:
    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
