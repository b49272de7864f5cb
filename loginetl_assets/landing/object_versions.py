"""What obstore cannot reach of a bucket: versions of deleted objects, and S3 keys that are not valid paths.

Its listing fails as a whole where someone else's object has a key with an empty segment, a dot or a control character.
Failures are boto3's: the landing explains them.
"""

from collections.abc import Iterator
from datetime import datetime

import boto3
from botocore.exceptions import ClientError

from loginetl_assets.aws import session as aws


class ObjectVersions:
    """The versions of a bucket's objects below a prefix."""

    def __init__(self, session: boto3.Session, bucket: str, prefix: str) -> None:
        """Takes a session with credentials; nothing is asked yet."""
        self._client = aws.open_s3(session, attempts=5, read_timeout=30)
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    def are_kept(self) -> bool | None:
        """Returns whether the bucket keeps versions, or kept them once; None where that may not be asked."""
        try:
            return "Status" in self._client.get_bucket_versioning(Bucket=self._bucket)
        except ClientError as error:
            if aws.error_status(error) == 403:
                return None
            if aws.error_status(error) in {400, 404, 405, 501}:  # a store that has no versions
                return False
            raise

    def list(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        """Yields the paths below a prefix of the landing, each with the moment it was written."""
        below = f"{self._prefix}{prefix}/"
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=below):
            for found in page.get("Contents", ()):
                if not found["Key"].endswith("/"):  # an empty folder, as the web console makes it
                    yield found["Key"].removeprefix(self._prefix), found["LastModified"]

    def delete(self, path: str) -> bool:
        """Deletes all versions of a deleted object; returns whether none is left.

        Delete markers go last: without its marker a version that stays would be the object again.
        """
        key = self._prefix + path
        try:
            pages = list(self._client.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=key))
            for kind in ("Versions", "DeleteMarkers"):
                for one in (one for page in pages for one in page.get(kind, ()) if one["Key"] == key):
                    self._client.delete_object(Bucket=self._bucket, Key=key, VersionId=one["VersionId"])
        except ClientError as error:
            if 400 <= aws.error_status(error) < 500 and aws.error_status(error) != 429:
                return False
            raise
        return True
