"""push --referrers: signatures and referrers arrive, and are found there by the API or under the fallback tag.

Spec: distribution-spec 1.1, "Pushing Manifests with Subject", "Referrers Tag Schema".
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ociexport.images.choose import PlatformChoice
from ociexport.spec import mediatypes
from ociexport.transfer.pull import pull
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.signing import tag_of
from tests.transfer.test_companions import BESIDE, IMAGE, POLICY, SBOM, SIGNATURE, about, referrers_tag_of, serve

REPOSITORY = "m/library/app"


def push(tmp_path: Path, source: str, registry: FakeRegistry, *words: str) -> int:
    ended = run_command("push", source, f"{registry.host}/{REPOSITORY}:1", "--referrers", *words, home=tmp_path)
    assert "Traceback" not in ended.stderr
    return ended.returncode


@pytest.mark.parametrize("has_api", [True, False])
@pytest.mark.parametrize("kind", ["registry", "layout", "archive", "dir"])
def test_referrers_arrive_and_prove_the_image_there(tmp_path: Path, has_api: bool, kind: str) -> None:
    with FakeRegistry() as origin, FakeRegistry(referrers=has_api) as registry:
        source = serve(origin)
        if kind == "dir":
            copied = run_command("copy", source, f"dir:{tmp_path}/saved", "--all", "--referrers", home=tmp_path)
            assert copied.returncode == 0, copied.stderr
            source = f"dir:{tmp_path}/saved"
        elif kind != "registry":
            source = str(tmp_path / ("saved.tar" if kind == "archive" else "saved"))
            pull(serve(origin), source, platform=PlatformChoice(), referrers=True)
        assert push(tmp_path, source, registry) == 0
        assert registry.manifests[REPOSITORY, tag_of(IMAGE)][0] == SIGNATURE.raw
        assert registry.manifests[REPOSITORY, str(SBOM.digest)][0] == SBOM.raw
        assert ((REPOSITORY, referrers_tag_of(IMAGE)) in registry.manifests) is not has_api
        again = pull(
            f"{registry.host}/{REPOSITORY}:1",
            tmp_path / "again",
            platform=PlatformChoice(),
            referrers=True,
            signatures=POLICY,
        )
        assert set(again.companions) == BESIDE
        # The image's own tag is the last manifest of all.
        puts = [request.path for request in registry.requests if request.method == "PUT"]
        assert puts[-1].endswith("/manifests/1")
        registry.requests.clear()
        assert push(tmp_path, source, registry) == 0
        assert [one.path for one in registry.requests if one.method not in ("GET", "HEAD")] == []


def test_the_list_under_the_fallback_tag_is_extended(tmp_path: Path) -> None:
    """Entries of others stay as they are, with members that we do not know."""
    other = about(IMAGE, b"of another client")
    with FakeRegistry() as origin, FakeRegistry() as registry:
        other.serve(registry, REPOSITORY, None)
        entry = {**other.descriptor.to_json(), "artifactType": "application/x", "x-member": {"kept": True}}
        index = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": [entry]}
        registry.add_manifest(REPOSITORY, referrers_tag_of(IMAGE), json.dumps(index).encode(), mediatypes.OCI_INDEX)
        assert push(tmp_path, serve(origin), registry) == 0
        listed = json.loads(registry.manifests[REPOSITORY, referrers_tag_of(IMAGE)][0])["manifests"]
        assert listed[0] == entry
        assert [one["digest"] for one in listed[1:]] == [str(SBOM.digest)]
        assert listed[1]["artifactType"] == "application/vnd.example.sbom"


def test_a_signature_tag_of_others_is_not_moved(tmp_path: Path) -> None:
    with FakeRegistry() as origin, FakeRegistry() as registry:
        about(IMAGE).serve(registry, REPOSITORY, tag_of(IMAGE))
        source = serve(origin)
        assert push(tmp_path, source, registry) == 2
        assert [one.path for one in registry.requests if one.method not in ("GET", "HEAD")] == []
        assert push(tmp_path, source, registry, "--move-tags") == 0


def test_a_server_that_answers_every_path_has_no_referrers_api(tmp_path: Path) -> None:
    with FakeRegistry() as origin, FakeRegistry() as registry:
        registry.misbehave("/referrers/", Fault(status=200, body=b"<html>", headers={"Content-Type": "text/html"}))
        assert push(tmp_path, serve(origin), registry) == 0
        assert (REPOSITORY, referrers_tag_of(IMAGE)) in registry.manifests
