"""What every AWS client shares: the session with its credentials, the endpoint, and the sorting of failures."""

import os
import re
from functools import cache
from typing import Any

import boto3
import botocore.loaders
import botocore.session
from botocore import exceptions as boto
from botocore.config import Config

from loginetl_assets.errors import OperatorError

DEFAULT_REGION = "us-east-1"  # for S3, which finds a bucket from any region, and for emulators

NO_CREDENTIALS = "no AWS credentials: set AWS_PROFILE, AWS_ACCESS_KEY_ID or an instance role"
CREDENTIAL_ERRORS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
    boto.TokenRetrievalError,
    boto.SSOError,
)
NETWORK_ERRORS = (boto.HTTPClientError, boto.ConnectionError)
AWS_ERRORS = (boto.BotoCoreError, boto.ClientError)

_TRANSIENT_CODES = re.compile("Throttl|OverLimit|RequestTimeout|SlowDown|TooManyRequests")


def open_session(**settings: str | None) -> boto3.Session:
    """Returns a boto3 session; raises OperatorError where AWS's files cannot be read or lack the profile."""
    core = botocore.session.get_session()
    try:
        session = boto3.Session(botocore_session=core, **settings)
        core.register_component("data_loader", _models())
        return session
    except boto.BotoCoreError as error:
        raise OperatorError(
            f"AWS_PROFILE and the files it names cannot be used ({type(error).__name__}): fix or unset it"
        ) from None


def open_s3(session: boto3.Session, *, attempts: int, read_timeout: float) -> Any:  # boto3-stubs has no S3 here
    """Returns an S3 client with ten connections, boto3's default; nothing is sent yet."""
    config = Config(
        retries={"total_max_attempts": attempts, "mode": "standard"},
        connect_timeout=5,
        read_timeout=read_timeout,
        s3={"addressing_style": "path" if endpoint_of("S3") else "auto"},
    )
    return session.client("s3", region_name=session.region_name or DEFAULT_REGION, config=config)


def endpoint_of(service: str) -> str | None:
    """Returns the endpoint that AWS's own variables name for a service, such as S3; None for AWS itself."""
    return os.environ.get(f"AWS_ENDPOINT_URL_{service}") or os.environ.get("AWS_ENDPOINT_URL")


def error_code(error: Exception) -> str:
    """Returns the service's code of a refused call, or the kind of any other error; never its text."""
    if isinstance(error, boto.ClientError):
        return str(error.response.get("Error", {}).get("Code") or error_status(error))
    return type(error).__name__


def remedy_of(error: Exception, right: str) -> str:
    """Returns an error's code, and what fixes it where it is a matter of region, credentials or the named right."""
    code = error_code(error)
    if isinstance(error, boto.NoRegionError):
        return "no AWS region: set AWS_DEFAULT_REGION"
    if isinstance(error, CREDENTIAL_ERRORS):
        return NO_CREDENTIALS
    if isinstance(error, NETWORK_ERRORS):
        return f"{code}: is the network up, and are region and AWS_ENDPOINT_URL… right?"
    if code.startswith("AccessDenied"):
        return f"{code}: grant these credentials {right}"
    return f"{code}: check the name, AWS_DEFAULT_REGION and AWS_PROFILE"


def error_status(error: Exception) -> int:
    """Returns the HTTP status of a refused call; 0 where there was no response."""
    if isinstance(error, boto.ClientError):
        return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return 0


def is_transient(error: Exception) -> bool:
    """Returns whether a failure usually passes: throttling, a failure of the service itself, the network."""
    status = error_status(error)
    passes = status >= 500 or status == 429 or isinstance(error, NETWORK_ERRORS)
    return passes or _TRANSIENT_CODES.search(error_code(error)) is not None


@cache
def _models() -> botocore.loaders.Loader:
    """Returns boto3's models of AWS's services, for all sessions: each would read them again, 0.2 s of CPU a client."""
    loader: botocore.loaders.Loader = botocore.session.get_session().get_component("data_loader")
    return loader
