"""What --verbose logs: each request, the identity used, the mirrors that are tried; no secret."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from io import StringIO
from pathlib import Path

import pytest

from ociexport.errors import TransferError
from ociexport.registry.options import Credentials, Mirror, RegistryOptions
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.reference import ImageReference
from ociexport.system.progress.display import PlainProgress
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.registry_image import open_registry_source

MANIFEST = b'{"schemaVersion": 2, "layers": []}'
BLOB = bytes(4000)
USER = Credentials("alice", "pass-word")


def _told(registry: FakeRegistry, selector: str = ":1", **options: object) -> list[str]:
    """Fetch a manifest and a blob; returns the log, without the parts that differ in each run."""
    output = StringIO()
    registry.add_manifest("team/app", "1", MANIFEST, mediatypes.OCI_MANIFEST)
    blob = Descriptor(mediatypes.OCI_LAYER_GZIP, registry.add_blob(BLOB), len(BLOB))
    source = open_registry_source(
        ImageReference.parse(f"{registry.host}/team/app{selector}"),
        options=RegistryOptions(verbose=True, retry_delay_seconds=0, retry_times=1, **options),  # type: ignore[arg-type]
        progress=PlainProgress(output),
    )
    try:
        source.fetch_manifest()
        stream = source.open_blob(blob)
        while stream.read(1000):
            pass
        stream.close()
    finally:
        source.close()
    return [
        re.sub(r"\b\d+ ms", "N ms", line.removeprefix("ociexport: "))
        .replace(registry.host, "HOST")
        .replace(str(blob.digest), "BLOB")
        for line in output.getvalue().splitlines()
    ]


def test_each_request_is_told_with_what_came_of_it() -> None:
    with FakeRegistry() as registry:
        assert _told(registry) == [
            "GET http://HOST/v2/team/app/manifests/1: 200 OK in N ms, 34 B in N ms",
            "GET http://HOST/v2/team/app/blobs/BLOB: 200 OK in N ms, 4.0 kB in N ms",
        ]


def test_nothing_is_told_unless_asked_for() -> None:
    output = StringIO()
    with FakeRegistry() as registry:
        registry.add_manifest("team/app", "1", MANIFEST, mediatypes.OCI_MANIFEST)
        reference = ImageReference.parse(f"{registry.host}/team/app:1")
        source = open_registry_source(reference, progress=PlainProgress(output))
        source.fetch_manifest()
        source.close()
    assert output.getvalue() == ""


def test_it_is_told_as_whom_a_registry_is_asked_and_no_secret() -> None:
    with FakeRegistry(auth="bearer", users={"alice": "pass-word"}) as registry:
        told = _told(registry, credentials=USER)
        assert told[:4] == [
            "GET http://HOST/v2/team/app/manifests/1: 401 Unauthorized in N ms, 90 B in N ms",
            "registry HOST: team/app: identity used: user alice (from the command line)",
            "GET http://HOST/token?…: 200 OK in N ms, 41 B in N ms",
            "GET http://HOST/v2/team/app/manifests/1: 200 OK in N ms, 34 B in N ms",
        ]
        tokens = [request.headers["authorization"].split()[1] for request in registry.requests[1:]]
        assert len(set(tokens)) == 2
        for secret in ("pass-word", b64encode(b"alice:pass-word").decode(), *tokens):
            assert secret not in "\n".join(told)


def test_signed_addresses_of_storage_are_cut() -> None:
    with FakeRegistry() as storage, FakeRegistry(redirect_to=storage) as registry:
        told = _told(registry)
        assert [line.replace(storage.host, "STORAGE") for line in told[1:]] == [
            "GET http://HOST/v2/team/app/blobs/BLOB: 307 Temporary Redirect in N ms",
            "GET http://STORAGE/storage/BLOB?…: 200 OK in N ms, 4.0 kB in N ms",
        ]


def test_what_failed_is_told_and_what_was_asked_again() -> None:
    with FakeRegistry() as registry:
        registry.misbehave("/blobs/", Fault(reset_after=1000), times=1)
        told = _told(registry)
        assert told[1:] == [
            "GET http://HOST/v2/team/app/blobs/BLOB: 200 OK in N ms, 1.0 kB in N ms, then connection reset by peer",
            "blob BLOB: connection reset by peer; retry 1 of 1 in 0.0 s",
            "GET http://HOST/v2/team/app/blobs/BLOB (bytes=1000-): 206 Partial Content in N ms, 3.0 kB in N ms",
        ]


def test_mirrors_are_told_in_the_order_in_which_they_are_asked() -> None:
    gone = FakeRegistry()
    with gone, FakeRegistry() as mirror, FakeRegistry() as registry:
        gone_host = gone.host
        for server in (mirror, registry):
            server.add_blob(BLOB)
        mirror.add_manifest("team/app", "1", MANIFEST, mediatypes.OCI_MANIFEST)
        gone.misbehave("", Fault(status=503))
        told = _told(registry, mirrors=(Mirror(gone.host), Mirror(mirror.host)))
        lines = [line.replace(gone_host, "GONE").replace(mirror.host, "MIRROR") for line in told]
        assert lines[0] == "image HOST/team/app:1: mirrors GONE, MIRROR are tried first, then HOST"
        assert "GET http://MIRROR/v2/team/app/manifests/1?…: 200 OK in N ms, 34 B in N ms" in lines
        assert not any("//HOST" in line for line in lines)


def test_connection_that_can_not_be_made_is_told() -> None:
    with FakeRegistry() as registry:
        host = registry.host
    output = StringIO()
    source = open_registry_source(
        ImageReference.parse(f"{host}/team/app:1"),
        options=RegistryOptions(verbose=True, retry_times=0, plain_http=True),
        progress=PlainProgress(output),
    )
    with pytest.raises(TransferError):
        source.fetch_manifest()
    source.close()
    told = rf"ociexport: GET http://{re.escape(host)}/v2/team/app/manifests/1: connection refused, after \d+ ms\n"
    assert re.fullmatch(told, output.getvalue())


@pytest.mark.parametrize("options", [("-v",), ("--verbose", "--quiet")])
def test_command_tells_on_standard_error_and_results_stay_alone(tmp_path: Path, options: tuple[str, ...]) -> None:
    """The command line's --verbose overrides a quieter configuration."""
    with FakeRegistry() as registry:
        registry.add_manifest("team/app", "1", MANIFEST, mediatypes.OCI_MANIFEST)
        ended = run_command("inspect", *options, "--raw", f"{registry.host}/team/app:1", home=tmp_path)
        url = f"http://{registry.host}/v2/team/app/manifests/1"
    assert (ended.returncode, json.loads(ended.stdout)) == (0, json.loads(MANIFEST))
    assert f"ociexport: GET {url}: 200 OK in " in ended.stderr


def test_login_tells_too(tmp_path: Path) -> None:
    with FakeRegistry(auth="basic", users={"alice": "pass-word"}) as registry:
        words = ("login", "-v", "--authfile", tmp_path / "auth.json", registry.host)
        ended = run_command(*words, "-u", "alice", "--password-stdin", home=tmp_path, stdin="pass-word\n")
        url = f"http://{registry.host}/v2/"
    assert ended.returncode == 0
    assert [line.partition(" in ")[0] for line in ended.stderr.splitlines()] == [
        f"ociexport: GET {url}: 401 Unauthorized",
        f"ociexport: registry {registry.host}: identity used: user alice (from the command line)",
        f"ociexport: GET {url}: 200 OK",
        f"ociexport: {registry.host}: user alice accepted; stored",
    ]
