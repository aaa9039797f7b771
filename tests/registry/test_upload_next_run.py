"""Uploads that were cut: the next run goes on, and any cuts and answers come to an end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ociexport.errors import RegistryError
from ociexport.spec.digest import Chunk, Digest
from ociexport.storage.layout.saved_uploads import SavedUploads
from tests.support.fake_registry import FakeRegistry
from tests.support.pusher import BLOB, MIB, Pusher, assert_arrived, steps


def test_the_next_run_goes_on(registry: FakeRegistry, tmp_path: Path) -> None:
    """Cut at 60 %, and the run ends: at most one chunk is sent twice."""
    saved = SavedUploads(str(tmp_path), registry.host, "team/app")

    def read(offset: int) -> Iterator[Chunk]:
        yield BLOB[offset : 24 * MIB]
        raise KeyboardInterrupt

    push = Pusher(registry)
    with pytest.raises(KeyboardInterrupt):
        push(read=read, saved=saved)
    push.client.close()
    files = list((tmp_path / ".ociexport" / "uploads").iterdir())
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600]
    for _ in range(500):  # until the registry has seen the end of the connection
        if registry.uploads.bodies:
            break
        time.sleep(0.01)
    assert registry.uploads.received_bytes >= 22 * MIB
    Pusher(registry)(saved=saved)
    assert_arrived(registry)
    assert registry.uploads.received_bytes <= len(BLOB) + 16 * MIB
    assert list(tmp_path.iterdir()) == []


def test_an_upload_that_the_registry_forgot_begins_anew(registry: FakeRegistry, tmp_path: Path) -> None:
    saved = SavedUploads(str(tmp_path), registry.host, "team/app")
    saved.write(Digest.of(BLOB), f"{registry.url}/v2/team/app/blobs/uploads/gone")
    Pusher(registry)(saved=saved)
    assert_arrived(registry)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["other", "other repository", "no URL", "dots"])
def test_a_foreign_upload_is_not_used(registry: FakeRegistry, tmp_path: Path, place: str) -> None:
    """A layout may come from a stranger, and must not say where blobs are sent."""
    with FakeRegistry(address="127.0.0.2") as other:
        urls = {
            "other": f"{other.url}/v2/team/app/blobs/uploads/1",
            "other repository": f"{registry.url}/v2/evil/app/blobs/uploads/1",
            "no URL": "file:///etc/passwd",
            "dots": f"{registry.url}/v2/team/app/blobs/uploads/../../../../evil/blobs/uploads/1",
        }
        saved = SavedUploads(str(tmp_path), registry.host, "team/app")
        saved.write(Digest.of(BLOB), urls[place])
        Pusher(registry)(saved=saved)
        assert other.requests == []
        assert "GET" not in steps(registry)


def test_a_file_that_others_can_read_is_not_used(registry: FakeRegistry, tmp_path: Path) -> None:
    saved = SavedUploads(str(tmp_path), registry.host, "team/app")
    saved.write(Digest.of(BLOB), f"{registry.url}/v2/team/app/blobs/uploads/1")
    for path in (tmp_path / ".ociexport" / "uploads").iterdir():
        path.chmod(0o644)
    assert saved.find(Digest.of(BLOB)) is None


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 3 * MIB), max_size=3),
    keeps=st.booleans(),
    patch=st.booleans(),
    says=st.sampled_from([None, "0-0", "0-3145727", "true"]),
    limit=st.sampled_from([None, MIB, 3 * MIB]),
)
def test_any_cuts_and_any_answers_end(
    cuts: list[int], keeps: bool, patch: bool, says: str | None, limit: int | None
) -> None:
    """Each upload ends, with the blob at the registry or with an error of the registry."""
    raw = BLOB[: 3 * MIB]
    with FakeRegistry() as registry:
        uploads = registry.uploads
        uploads.keeps_cut, uploads.takes_patch, uploads.max_body_bytes = keeps, patch, limit
        if says != "true":
            uploads.says = lambda received: says
        for cut in cuts:
            uploads.cut_after(cut)
        try:
            Pusher(registry)(raw)
        except RegistryError:
            assert limit is not None
            assert not patch
        else:
            assert_arrived(registry, raw)
        assert len(registry.requests) < 60
