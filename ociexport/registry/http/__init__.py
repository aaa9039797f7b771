"""The wire; requests is imported before any part of it."""

from ociexport.registry.http.narrow import import_requests

import_requests()
