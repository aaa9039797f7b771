"""Bucket: objects in S3, or in a store with its interface. The only module that uses s3fs, which is an extra.

fsspec runs the event loop of s3fs in a thread of its own, so several threads may call these methods. Every error of the
libraries becomes one of ours here; none of them holds a secret.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ociexport.errors import (
    AuthenticationError,
    LimitExceededError,
    NotFoundError,
    RateLimitError,
    RegistryError,
    RegistryNotFoundError,
    TransferError,
    UsageError,
    counted,
    printable,
)
from ociexport.spec.lazy_dataclass import dataclass

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

# The least size of a part of an upload, but for the last; S3 allows this many parts.
MIN_PART_BYTES = 5 * 1024 * 1024
_MAX_PARTS = 10_000
# The libraries copy a part while they send it, so the number of parts decides the memory.
_SENT_AT_ONCE = 2
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_MISSING_BUCKET = frozenset({"NoSuchBucket"})
_MISSING_KEY = frozenset({"404", "NoSuchKey", "NotFound"})
_REFUSED = frozenset({"401", "403", "AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "InvalidToken"})
_REFUSED_KEYS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "TokenRefreshRequired"})
_BUSY = frozenset({"SlowDown", "429", "TooManyRequests", "RequestLimitExceeded", "Throttling", "ThrottlingException"})
_OTHER_REGION = frozenset({"301", "PermanentRedirect", "AuthorizationHeaderMalformed"})
# How stores answer a condition that has failed, or that another writer got in the way of.
_CONDITION_FAILED = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
# How stores answer a condition that they do not know.
_CONDITION_UNKNOWN = frozenset({"501", "NotImplemented", "InvalidArgument", "InvalidRequest", "XNotImplemented"})
# What a store may tell of a part, and wants to be told again when the upload is completed.
_CHECKSUMS = ("ChecksumCRC32", "ChecksumCRC32C", "ChecksumCRC64NVME", "ChecksumSHA1", "ChecksumSHA256")
_CREDENTIALS_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"


class MissingBucketError(RegistryNotFoundError):
    """There is no such bucket."""


class ConditionFailedError(RegistryError):
    """An object is not what the condition of a write says: another writer was there first."""


class ConditionUnknownError(RegistryError):
    """The store refuses writes with a condition."""


@dataclass(frozen=True, slots=True)
class S3Options:
    """How a store is reached; the credentials, the region and the endpoint are those of the AWS configuration.

    Args:
        verify: whether TLS certificates are verified; a path of authorities to trust instead of the system's.
        retry_times: how often a request that failed with a temporary error is retried.
        retry_delay_seconds: before a broken body is requested again; it doubles with each time.
    """

    verify: bool | str = True
    retry_times: int = 3
    retry_delay_seconds: float = 1.0
    connect_timeout_seconds: float = 15.0
    read_timeout_seconds: float = 60.0


class Bucket:
    """One bucket.

    Raises:
        UsageError: s3fs is not installed.
    """

    def __init__(self, name: str, options: S3Options) -> None:
        self.name = name
        self._options = options
        try:
            import s3fs  # type: ignore[import-untyped] # noqa: PLC0415 - start-up: only s3:// needs it, and it is an extra
            from fsspec.asyn import sync  # type: ignore[import-untyped] # noqa: PLC0415 - start-up: as above
        except ImportError as error:
            raise UsageError(
                f"s3://{name}: expected s3fs for a layout in S3, it is not installed",
                hint="pip install 'ociexport[s3]'",
            ) from error
        self._sync = sync
        retries = {"mode": "standard", "total_max_attempts": options.retry_times + 1}
        settings: dict[str, Any] = {
            "retries": retries,
            "connect_timeout": options.connect_timeout_seconds,
            "read_timeout": options.read_timeout_seconds,
        }
        if any(os.environ.get(variable) for variable in _ENDPOINT_VARIABLES):
            # Stores other than AWS need no name service for each bucket then.
            settings["s3"] = {"addressing_style": "path"}
        verify = {} if options.verify is True else {"verify": options.verify}
        self._files = s3fs.S3FileSystem(
            config_kwargs=settings, client_kwargs=verify, skip_instance_cache=True, use_listings_cache=False
        )
        self._client: Any = None
        self._sending = threading.Semaphore(_SENT_AT_ONCE)

    def size_of(self, key: str) -> int | None:
        """Return the size of an object; None if there is none."""
        try:
            size: int = self._call("head_object", key)["ContentLength"]
        except NotFoundError:
            return None
        return size

    def etag_of(self, key: str) -> str | None:
        """Return what changes with an object's content; None if there is no object."""
        try:
            return str(self._call("head_object", key)["ETag"])
        except NotFoundError:
            return None

    def read(self, key: str, max_bytes: int) -> tuple[bytes, str]:
        """Return an object of at most ``max_bytes``, and its etag; raises NotFoundError if there is none."""
        answer = self._call("get_object", key)
        body = answer["Body"]
        with self._translated("GET", key):
            try:
                raw = bytearray()
                while len(raw) <= max_bytes and (chunk := self._sync(self._files.loop, body.read, 1024 * 1024)):
                    raw += chunk
            finally:
                body.close()
        if len(raw) > max_bytes:
            raise LimitExceededError(f"expected at most {counted(max_bytes, 'byte')}, got more", where=self._url(key))
        if len(raw) != answer["ContentLength"]:
            expected = counted(answer["ContentLength"], "byte")
            raise TransferError(f"GET {self._url(key)}: expected {expected}, got {len(raw)}", method="GET")
        return bytes(raw), str(answer["ETag"])

    def open(self, key: str, size: int, offset: int) -> S3Stream:
        """Return an object's bytes from ``offset`` on; the caller closes the stream."""

        def open_from(position: int) -> Any:
            part = {"Range": f"bytes={position}-"} if position else {}
            return self._call("get_object", key, **part)["Body"]

        def read(body: Any, count: int) -> bytes:
            with self._translated("GET", key):
                return bytes(self._sync(self._files.loop, body.read, count))

        return S3Stream(open_from, read, size, offset, self._options)

    def write(
        self,
        key: str,
        content: BytesIO,
        media_type: str,
        *,
        if_etag: str | None = None,
        if_absent: bool = False,
    ) -> None:
        """Write an object, which appears as a whole.

        Args:
            if_etag: that the object must have now; None for any.
            if_absent: whether there must be no object now.

        Raises:
            ConditionFailedError: the object is another one now.
            ConditionUnknownError: the store refuses conditions.
        """
        condition = {"IfMatch": if_etag} if if_etag is not None else {"IfNoneMatch": "*"} if if_absent else {}
        with self._sending:
            content.seek(0)
            self._call("put_object", key, Body=content, ContentType=media_type, **condition)

    def begin_upload(self, key: str, size: int) -> S3Upload:
        """Return an upload of an object of ``size`` bytes in parts; it appears when the upload is completed."""
        return S3Upload(self._call, self._sending, key, max(MIN_PART_BYTES, -(-size // _MAX_PARTS)))

    def list_names(self, prefix: str) -> set[str]:
        """Return some names directly below ``prefix``, which ends with a slash; directories end with one."""
        found = self._call("list_objects_v2", None, Prefix=prefix, Delimiter="/", MaxKeys=100)
        keys = [one["Key"] for one in found.get("Contents", ())]
        keys += [one["Prefix"] for one in found.get("CommonPrefixes", ())]
        return {key.removeprefix(prefix) for key in keys} - {""}

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._files.close_session(self._files.loop, self._files._s3creator)

    def _call(self, method: str, key: str | None, **arguments: Any) -> Any:
        """Return the answer to one request of S3's interface."""
        if key is not None:
            arguments["Key"] = key
        with self._translated(method, key):
            if self._client is None:
                self._client = self._files.connect()
            return self._sync(self._files.loop, getattr(self._client, method), Bucket=self.name, **arguments)

    def _url(self, key: str | None) -> str:
        return printable(f"s3://{self.name}/{key}" if key is not None else f"s3://{self.name}")

    @contextmanager
    def _translated(self, method: str, key: str | None) -> Iterator[None]:
        """Raise our errors in place of those of botocore and aiohttp."""
        from aiohttp import ClientError as WebError  # noqa: PLC0415 - start-up: as for s3fs
        from botocore import exceptions  # type: ignore[import-untyped] # noqa: PLC0415 - start-up: as for s3fs

        url = self._url(key)
        where = f"{method} {url}"
        try:
            yield
        except exceptions.ClientError as error:
            raise self._error_of(error, where, url) from error
        except (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.CredentialRetrievalError,
            exceptions.ProfileNotFound,
            exceptions.TokenRetrievalError,
            exceptions.SSOError,
        ) as error:
            raise AuthenticationError(f"{where}: {_reason(error)}", url=url, hint=_CREDENTIALS_HINT) from error
        except (exceptions.ConnectionError, exceptions.HTTPClientError, WebError, OSError, TimeoutError) as error:
            hint = "check the network, the region (AWS_REGION) and the endpoint (AWS_ENDPOINT_URL)"
            raise TransferError(f"{where}: {_reason(error)}", url=url, hint=hint) from error
        except (exceptions.BotoCoreError, ValueError) as error:
            raise RegistryError(f"{where}: {_reason(error)}", url=url) from error

    def _error_of(self, error: Any, where: str, url: str) -> RegistryError:
        told = error.response.get("Error", {})
        code, message = str(told.get("Code", "")), str(told.get("Message", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        known = {code, str(status)}
        text = f"{where}: {printable(code)}" + (f": {printable(message)}" if message and message != code else "")
        if known & _MISSING_BUCKET:
            return MissingBucketError(f"s3://{self.name}: there is no such bucket", url=url, status=404)
        if known & _CONDITION_FAILED:
            return ConditionFailedError(text, url=url, status=status)
        if known & _BUSY:
            return RateLimitError(text, url=url, status=status)
        if known & _REFUSED_KEYS:
            return AuthenticationError(text, url=url, status=status, hint=_CREDENTIALS_HINT)
        if known & _OTHER_REGION:
            return RegistryError(text, url=url, status=status, hint="set AWS_REGION to the region of the bucket")
        if known & _REFUSED:
            hint = "these credentials may not do this there; without the right to list, a missing object is refused too"
            return AuthenticationError(text, url=url, status=status, hint=hint)
        if known & _MISSING_KEY:
            return RegistryNotFoundError(f"{where}: there is no such object", url=url, status=404)
        if known & _CONDITION_UNKNOWN:
            return ConditionUnknownError(text, url=url, status=status)
        kind = TransferError if isinstance(status, int) and status >= 500 else RegistryError
        return kind(text, url=url, status=status)


class S3Stream:
    """An object's bytes in order; after a broken connection, a new one continues at the same position."""

    def __init__(
        self,
        open_from: Callable[[int], Any],
        read: Callable[[Any, int], bytes],
        size: int,
        offset: int,
        options: S3Options,
    ) -> None:
        self._open_from = open_from
        self._read = read
        self._size = size
        self._position = offset
        self._options = options
        self._failures = 0
        # There is no part behind the end, but an empty object has a body.
        self._body = open_from(offset) if offset < size or not size else None

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, ``b""`` at the end.

        Raises:
            TransferError: the connection broke, and all retries failed.
        """
        if size < 0:
            size = max(self._size - self._position, 0) + 1
        while self._body is not None:
            try:
                chunk = self._read(self._body, size)
                if chunk or not size or self._position >= self._size:
                    self._position += len(chunk)
                    return chunk
                raise TransferError(f"expected {counted(self._size, 'byte')}, got {self._position}", method="GET")
            except TransferError:
                self._failures += 1
                if self._failures > self._options.retry_times:
                    raise
                time.sleep(self._options.retry_delay_seconds * 2 ** (self._failures - 1))
                self._body.close()
                self._body = self._open_from(self._position)
        return b""

    def close(self) -> None:
        """Close the connection."""
        if self._body is not None:
            self._body.close()


class S3Upload:
    """An upload in parts; nothing is visible before it is completed, and it is aborted on any error.

    Args:
        call: sends a request of S3's interface.
        sending: held while a part is sent.
        part_bytes: size of all parts but the last.
    """

    def __init__(self, call: Callable[..., Any], sending: threading.Semaphore, key: str, part_bytes: int) -> None:
        self._call = call
        self._sending = sending
        self._key = key
        self.part_bytes = part_bytes
        self._id: str | None = None
        self._parts: list[dict[str, object]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.abort()

    @property
    def is_begun(self) -> bool:
        """Whether a part was sent."""
        return self._id is not None

    def send(self, part: BytesIO) -> None:
        """Send the next part."""
        if self._id is None:
            begun = self._call("create_multipart_upload", self._key, ContentType="application/octet-stream")
            self._id = str(begun["UploadId"])
        number = len(self._parts) + 1
        with self._sending:
            part.seek(0)
            sent = self._call("upload_part", self._key, UploadId=self._id, PartNumber=number, Body=part)
        checksums = {name: sent[name] for name in _CHECKSUMS if name in sent}
        self._parts.append({"PartNumber": number, "ETag": sent["ETag"], **checksums})

    def complete(self) -> None:
        """Make the object of the parts."""
        self._call("complete_multipart_upload", self._key, UploadId=self._id, MultipartUpload={"Parts": self._parts})
        self._id = None

    def abort(self) -> None:
        """Discard the parts, if there are any that are not completed."""
        upload, self._id, self._parts = self._id, None, []
        if upload is not None:
            try:
                self._call("abort_multipart_upload", self._key, UploadId=upload)
            except RegistryError:
                # An earlier error matters more; the store's own rules remove unfinished uploads.
                return


def _reason(error: BaseException) -> str:
    return printable(" ".join(str(error).split()) or type(error).__name__)
