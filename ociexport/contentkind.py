"""What unexpected bytes are, in words: libmagic's, since its keepers know every format there is."""

from __future__ import annotations

# libmagic tells by the beginning of a file; the tar magic stands at byte 257.
_MAX_LOOKED_AT_BYTES = 4096


def describe_content(content: bytes) -> str:
    """Return what ``content`` is, for an error message: ``HTML document, ASCII text``."""
    try:
        # pylibmagic brings the C library as a wheel and must be imported first: it tells python-magic where that is.
        import pylibmagic  # noqa: F401, PLC0415 - heavy, and only an error needs it
        import magic  # isort: skip # noqa: PLC0415

        description = str(magic.from_buffer(content[:_MAX_LOOKED_AT_BYTES]))
    except (ImportError, OSError):
        # An error about the real trouble must not be lost because this machine's libmagic is broken.
        return f"{len(content)} bytes of something else"
    return description
