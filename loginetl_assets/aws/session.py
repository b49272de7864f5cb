"""What every AWS client shares: the session with its credentials, the endpoint, and the sorting of failures."""

import os
from functools import cache
from typing import Any

import boto3
import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as NoConnectionError

from loginetl_assets.errors import OperatorError

DEFAULT_REGION = "us-east-1"  # for S3, which finds a bucket from any region, and for emulators

NO_CREDENTIALS = "no AWS credentials: set AWS_PROFILE, AWS_ACCESS_KEY_ID or an instance role"
CREDENTIAL_ERRORS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    ProfileNotFound,
    TokenRetrievalError,
    SSOError,
)
NETWORK_ERRORS = (HTTPClientError, NoConnectionError)

_TRANSIENT_CODES = {"RequestTimeout", "SlowDown", "TooManyRequests", "TooManyRequestsException"}


def open_session(**settings: str | None) -> boto3.Session:
    """Returns a boto3 session; AWS_PROFILE is looked up here.

    Raises:
        OperatorError: there is no such profile, or AWS's files cannot be read.
    """
    core = botocore.session.get_session()
    try:
        session = boto3.Session(botocore_session=core, **settings)
        core.register_component("data_loader", _models())
        return session
    except BotoCoreError as error:
        raise OperatorError(
            f"AWS_PROFILE and the files it names cannot be used ({type(error).__name__}): fix or unset it"
        ) from None


def open_s3(session: boto3.Session, config: Config) -> Any:  # boto3-stubs has no S3 here
    """Returns an S3 client; nothing is sent yet."""
    return session.client("s3", region_name=session.region_name or DEFAULT_REGION, config=config)


def endpoint_of(service: str) -> str | None:
    """Returns the endpoint that AWS's own variables name for a service, such as S3; None for AWS itself."""
    return os.environ.get(f"AWS_ENDPOINT_URL_{service}") or os.environ.get("AWS_ENDPOINT_URL")


def error_code(error: Exception) -> str:
    """Returns the service's code of a refused call, or the kind of any other error; never its text."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", ""))
    return type(error).__name__


def error_status(error: Exception) -> int:
    """Returns the HTTP status of a refused call; 0 where there was no response."""
    if isinstance(error, ClientError):
        return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return 0


def is_transient(error: Exception) -> bool:
    """Returns whether a failure usually passes: throttling, a failure of the service itself, the network."""
    code, status = error_code(error), error_status(error)
    return (
        status >= 500
        or status == 429
        or code in _TRANSIENT_CODES
        or "Throttl" in code
        or "OverLimit" in code
        or isinstance(error, NETWORK_ERRORS)
    )


@cache
def _models() -> botocore.loaders.Loader:
    """Returns boto3's models of AWS's services, for all sessions: each would read them again, 0.2 s of CPU a client."""
    loader: botocore.loaders.Loader = botocore.session.get_session().get_component("data_loader")
    return loader
