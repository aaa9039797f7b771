"""What the body of an error says, in the forms of registries, token services, gateways and storage services."""

from __future__ import annotations

import re
import zlib
from contextlib import suppress

from ociexport.errors import InvalidImageError, describe_content
from ociexport.spec.json_fields import JsonObject, parse_json_object
from ociexport.spec.named_tuple import NamedTuple

# A registry's error body is short; a longer one is a page for browsers.
MAX_ERROR_BODY_BYTES = 64 * 1024

_GZIP_MAGIC = b"\x1f\x8b"
# How zlib is told to expect gzip's header and trailer.
_GZIP_WINDOW_BITS = 31
# Further errors in one body usually repeat the first ones.
_MAX_SHOWN_ERRORS = 3

# The error of a storage service. An XML parser would expand entities, and would refuse what was cut at the limit.
_STORAGE_ERROR = re.compile(r"\s*(?:<\?xml[^>]*>\s*)?<Error[\s>]")
_STORAGE_MEMBERS = (re.compile(r"<Code>([^<]*)</Code>"), re.compile(r"<Message>([^<]*)</Message>"))


class Explanation(NamedTuple):
    """The server's own words for an error; they are untrusted, and not yet safe to show.

    Args:
        codes: the registry's or the storage service's error codes.
        is_of_storage: whether the body has the form of a storage service.
    """

    text: str = ""
    codes: tuple[str, ...] = ()
    is_of_storage: bool = False


def explain_body(content_type: str, body: bytes) -> Explanation:
    """Return what the error ``body`` says.

    Spec: distribution-spec 1.1, "Error Codes"; RFC 6749 5.2 for token services; S3, GCS and Azure for storage services.
    """
    if not body.strip():
        return Explanation()
    if body.startswith(_GZIP_MAGIC):
        # Some proxies compress every body. A damaged one may be shown in part, since nothing depends on it.
        with suppress(zlib.error):
            body = zlib.decompressobj(_GZIP_WINDOW_BITS).decompress(body, MAX_ERROR_BODY_BYTES)
    text = body.decode("utf-8-sig", "replace")
    if _STORAGE_ERROR.match(text):
        code, words = (_member_of(text, member) for member in _STORAGE_MEMBERS)
        return Explanation(": ".join(filter(None, (code, words))), (code,) if code else (), is_of_storage=True)
    try:
        return _explain_json(parse_json_object(body, where=""))
    except InvalidImageError:
        if content_type.startswith("text/plain"):
            return Explanation(text.strip())
        return Explanation(f"with {describe_content(body)} in place of a registry's error")


def _member_of(text: str, member: re.Pattern[str]) -> str:
    match = member.search(text)
    if not match:
        return ""
    import html  # noqa: PLC0415 - start-up: only some refusals need it

    return " ".join(html.unescape(match[1]).split())


def _explain_json(item: JsonObject) -> Explanation:
    errors = [
        (error.optional_text("code") or "", error.optional_text("message") or "") for error in item.objects("errors")
    ]
    if errors:
        shown = (": ".join(filter(None, error)) for error in errors[:_MAX_SHOWN_ERRORS])
        return Explanation("; ".join(shown), tuple(code for code, _ in errors if code))
    # Token services name an error and may describe it.
    if (description := item.optional_text("error_description")) is not None:
        return Explanation(": ".join(filter(None, (item.optional_text("error"), description))))
    # Gateways in front of registries use other forms.
    words = (item.optional_text(key) for key in ("message", "details", "error"))
    return Explanation(next(filter(None, words), ""))
