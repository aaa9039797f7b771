"""Uploads: each blob arrives once, whole or in chunks, whatever the registry answers on the way.

Spec: distribution-spec 1.1, "Pushing Blobs".
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ociexport.errors import AuthenticationError, DigestMismatchError, RegistryError, TransferError
from ociexport.registry.options import Credentials
from ociexport.registry.upload import UploadOutcome
from ociexport.spec.digest import Chunk, Digest
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.pusher import BLOB, MIB, Pusher, assert_arrived, descriptor_of, steps

USERS = {"user": "pass:word"}
USER = Credentials("user", "pass:word")


def test_a_blob_is_sent_in_one_put(registry: FakeRegistry) -> None:
    push = Pusher(registry)
    assert push() == UploadOutcome(None, len(BLOB))
    assert_arrived(registry)
    assert steps(registry) == ["POST", "PUT"]
    assert push.reported == registry.uploads.received_bytes == len(BLOB)


@pytest.mark.parametrize("locations", ["relative", "absolute", "query", "id"])
def test_the_upload_is_found_wherever_the_registry_says(registry: FakeRegistry, locations: str) -> None:
    registry.uploads.locations = locations  # type: ignore[assignment]
    registry.uploads.cut_after(24 * MIB)
    Pusher(registry)()
    assert_arrived(registry)
    assert registry.uploads.received_bytes == len(BLOB)


@pytest.mark.parametrize("begins", [True, False])
def test_a_registry_without_uploads_gets_the_blob_in_one_post(registry: FakeRegistry, begins: bool) -> None:
    """No Location, or POST without a digest refused."""
    registry.uploads.takes_whole_post, registry.uploads.begins = True, begins
    registry.uploads.locations = "none"
    Pusher(registry)()
    assert_arrived(registry)
    assert steps(registry) == ["POST", "POST"]
    assert registry.uploads.received_bytes == len(BLOB)


def test_an_empty_blob_is_sent(registry: FakeRegistry) -> None:
    Pusher(registry)(b"")
    assert_arrived(registry, b"")


def test_a_blob_is_mounted(registry: FakeRegistry) -> None:
    digest = str(registry.add_blob(BLOB))
    registry.uploads.homes[digest] = {"team/base"}
    assert Pusher(registry)(BLOB, "team/base") == UploadOutcome("team/base", 0)
    assert "team/app" in registry.uploads.homes[digest]
    assert steps(registry) == ["POST"]


def test_a_mount_that_begins_an_upload_is_used(registry: FakeRegistry) -> None:
    """202 to a mount is an upload session, not a reason to ask again."""
    registry.uploads.mounts = "begins"
    Pusher(registry)(BLOB, "team/base", "team/other")
    assert_arrived(registry)
    assert steps(registry) == ["POST", "PUT"]


def test_a_refused_mount_is_no_failure(registry: FakeRegistry) -> None:
    registry.uploads.mounts = "refuses"
    Pusher(registry)(BLOB, "team/base")
    assert_arrived(registry)


def test_after_a_cut_only_the_rest_is_sent(registry: FakeRegistry) -> None:
    registry.uploads.cut_after(24 * MIB)
    push = Pusher(registry)
    push()
    assert_arrived(registry)
    assert [body.method for body in registry.uploads.bodies] == ["PUT", "PATCH"]
    assert steps(registry) == ["POST", "GET", "PATCH", "PUT"]
    assert registry.uploads.received_bytes == len(BLOB)
    assert push.reported == len(BLOB)


def test_after_a_cut_that_lost_the_upload_chunks_are_sent(registry: FakeRegistry) -> None:
    """docker-registry forgets an upload whose body was cut; a second cut then costs one chunk at most."""
    registry.uploads.keeps_cut = False
    registry.uploads.cut_after(24 * MIB)
    Pusher(registry)()
    assert_arrived(registry)
    assert [body.method for body in registry.uploads.bodies] == ["PUT", "PATCH", "PATCH", "PATCH"]
    assert max(body.length for body in registry.uploads.bodies[1:]) == 16 * MIB


def test_a_registry_that_refuses_patch_gets_the_whole_again(registry: FakeRegistry) -> None:
    registry.uploads.takes_patch = False
    registry.uploads.cut_after(24 * MIB)
    registry.uploads.keeps_cut = False
    Pusher(registry)()
    assert_arrived(registry)
    assert [body.method for body in registry.uploads.bodies] == ["PUT", "PATCH", "PUT"]


def test_a_registry_that_keeps_a_cut_and_refuses_patch_gets_the_whole_again(registry: FakeRegistry) -> None:
    registry.uploads.takes_patch = False
    registry.uploads.cut_after(24 * MIB)
    Pusher(registry)()
    assert_arrived(registry)
    assert [body.method for body in registry.uploads.bodies] == ["PUT", "PATCH", "PUT"]


@pytest.mark.parametrize(
    "says", ["0-0", "0-41943039", "0-999999999999", None, "bytes=0-0", "nonsense", "0-" + "9" * 30]
)
@pytest.mark.parametrize("takes_patch", [True, False])
def test_a_registry_that_always_says_the_same_range_makes_no_loop(
    registry: FakeRegistry, says: str | None, takes_patch: bool
) -> None:
    registry.uploads.says = lambda received: says
    registry.uploads.takes_patch = takes_patch
    registry.uploads.keeps_cut = False
    registry.uploads.cut_after(24 * MIB)
    Pusher(registry)()
    assert_arrived(registry)
    assert registry.uploads.received_bytes <= 24 * MIB + 2 * len(BLOB)


def test_chunks_are_as_long_as_the_registry_asks(registry: FakeRegistry) -> None:
    registry.uploads.min_chunk_bytes = 20 * MIB
    registry.uploads.keeps_cut = False
    registry.uploads.cut_after(MIB)
    Pusher(registry)()
    assert_arrived(registry)
    chunks = [body.length for body in registry.uploads.bodies if body.method == "PATCH"]
    assert chunks == [20 * MIB, 20 * MIB]


def test_chunks_shrink_until_the_registry_takes_them(registry: FakeRegistry) -> None:
    registry.uploads.max_body_bytes = 3 * MIB
    Pusher(registry)()
    assert_arrived(registry)
    accepted = [body.length for body in registry.uploads.bodies if body.length <= 3 * MIB]
    assert sum(accepted) == len(BLOB)
    assert len(registry.uploads.bodies) - len(accepted) <= 5


def test_a_registry_that_takes_no_body_is_an_error(registry: FakeRegistry) -> None:
    registry.uploads.max_body_bytes = 1000
    with pytest.raises(RegistryError, match="413"):
        Pusher(registry)()
    assert len(registry.requests) < 40


def test_a_chunk_that_timed_out_is_followed_by_smaller_ones(registry: FakeRegistry) -> None:
    registry.uploads.keeps_cut = False
    registry.uploads.cut_after(MIB)
    registry.misbehave("/uploads/", Fault(status=408), method="PATCH", times=2)
    Pusher(registry)()
    assert_arrived(registry)
    assert [body.length // MIB for body in registry.uploads.bodies if body.method == "PATCH"][1] == 8


@pytest.mark.parametrize("status", [500, 502, 503, 429, 404, 416])
@pytest.mark.parametrize("method", ["PUT", "PATCH", "GET", "POST"])
def test_a_registry_that_fails_for_ever_is_given_up(registry: FakeRegistry, status: int, method: str) -> None:
    registry.uploads.cut_after(24 * MIB)
    registry.misbehave("/uploads/", Fault(status=status), method=method)
    try:
        Pusher(registry)()
    except RegistryError:
        pass
    else:
        assert_arrived(registry)
    assert len(registry.requests) < 60
    assert registry.uploads.received_bytes <= 8 * len(BLOB)


def test_an_error_after_the_blob_arrived_is_none(registry: FakeRegistry) -> None:
    registry.misbehave("/uploads/", Fault(reset_after=-1), method="PUT", times=1)
    Pusher(registry)()
    assert_arrived(registry)
    assert registry.uploads.received_bytes == len(BLOB)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_user_is_told(status: int) -> None:
    with FakeRegistry(auth="basic", users={"user": "pass:word"}, read_only=status) as registry:
        with pytest.raises(AuthenticationError) as caught:
            Pusher(registry, credentials=USER)()
        assert registry.uploads.bodies == []
        assert caught.value.hint
        if status == 403:
            assert "may not write to this repository" in caught.value.hint


def test_damaged_bytes_are_not_completed(registry: FakeRegistry) -> None:
    damaged = BLOB[:-1] + bytes([BLOB[-1] ^ 1])
    with pytest.raises(DigestMismatchError):
        Pusher(registry)(damaged, descriptor=descriptor_of(BLOB))
    assert registry.blobs == {}
    assert "PUT" not in [request.method for request in registry.requests]


def test_an_error_of_the_source_is_raised_as_it_is(registry: FakeRegistry) -> None:
    def read(offset: int) -> Iterator[Chunk]:
        yield BLOB[:MIB]
        raise TransferError("the source broke")

    with pytest.raises(TransferError, match=r"^the source broke$"):
        Pusher(registry)(read=read)
    assert steps(registry) == ["POST"]


# Tokens


def test_the_token_is_for_pull_and_push() -> None:
    with FakeRegistry(auth="bearer") as registry:
        Pusher(registry)()
        scopes = [request.query["scope"] for request in registry.requests if request.path == "/token"]
        assert scopes == [["repository:team/app:pull,push"]]
        assert_arrived(registry)


def test_a_mount_asks_for_both_repositories_in_two_parameters() -> None:
    with FakeRegistry(auth="bearer") as registry:
        registry.uploads.homes[str(registry.add_blob(BLOB))] = {"team/base"}
        Pusher(registry)(BLOB, "team/base")
        scopes = [request.query["scope"] for request in registry.requests if request.path == "/token"]
        assert scopes == [["repository:team/app:pull,push", "repository:team/base:pull"]]


def test_a_token_that_expires_during_uploads_is_renewed() -> None:
    with FakeRegistry(auth="bearer", token_uses=2) as registry:
        push = Pusher(registry)
        for number in range(4):
            push(os.urandom(1000 + number))
        assert len(registry.blobs) == 4


# Other servers


def test_an_upload_on_another_server_gets_no_credentials() -> None:
    """Issue 14: Location and redirects to another host; credentials go to the registry only."""
    with (
        FakeRegistry(address="127.0.0.2") as other,
        FakeRegistry(auth="basic", users={"user": "pass:word"}) as registry,
    ):
        other.uploads._open["upload-1"] = bytearray()
        headers = {"Location": f"{other.url}/v2/team/app/blobs/uploads/upload-1"}
        registry.misbehave("/uploads/", Fault(status=202, headers=headers), method="POST")
        Pusher(registry, credentials=USER, headers=(("X-Secret", "s"),))()
        assert_arrived(other)
        assert [set(request.headers) & {"authorization", "x-secret"} for request in other.requests] == [set()]


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirected_upload_gets_no_credentials(status: int) -> None:
    with (
        FakeRegistry(address="127.0.0.2") as other,
        FakeRegistry(auth="bearer", users={"user": "pass:word"}) as registry,
    ):
        other.uploads._open["upload-1"] = bytearray()
        query = f"?digest={Digest.of(BLOB)}"
        headers = {"Location": f"{other.url}/v2/team/app/blobs/uploads/upload-1{query}"}
        registry.misbehave("/uploads/", Fault(status=status, headers=headers), method="PUT")
        Pusher(registry, credentials=USER)()
        assert_arrived(other)
        assert [request.headers.get("authorization") for request in other.requests] == [None]
