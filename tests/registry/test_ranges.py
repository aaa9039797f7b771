"""Large blobs over several connections."""

from __future__ import annotations

import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ociexport.errors import RegistryNotFoundError, SizeMismatchError, TransferError
from ociexport.registry.client import RegistryClient
from ociexport.registry.download import ranges
from ociexport.registry.http.transport import MAX_SPARE_CONNECTIONS
from ociexport.registry.options import RegistryOptions
from ociexport.registry.source import RegistrySource, registry_source
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest, VerifyingReader
from ociexport.spec.reference import ImageReference
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.pull import pull
from tests.support.fake_registry import FakeRegistry, Fault, Request
from tests.support.image_builder import AMD64, build_image
from tests.support.memory_source import member
from tests.support.registry_image import open_registry_source
from tests.support.system_parts import mounted, run

MIB = 1 << 20
BLOB = random.Random(1).randbytes(44 * MIB)


@pytest.fixture(autouse=True)
def _any_connection_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_WORTHWHILE_SECONDS", 0.0)
    monkeypatch.setattr(ranges, "_FAST_BYTES_PER_SECOND", math.inf)
    monkeypatch.setattr(ranges, "_BUSY_SHARE", math.inf)


@contextmanager
def _source(registry: FakeRegistry, image: str | None = None, **options: object) -> Iterator[RegistrySource]:
    settings = {"retry_delay_seconds": 0, "read_timeout_seconds": 10, **options}
    source = open_registry_source(
        ImageReference.parse(image or f"{registry.host}/a:1"),
        options=RegistryOptions(**settings),  # type: ignore[arg-type]
    )
    try:
        yield source
    finally:
        source.close()


def _read_all(source: RegistrySource, registry: FakeRegistry, offset: int = 0) -> bytes:
    descriptor = Descriptor(mediatypes.OCI_LAYER, registry.add_blob(BLOB), len(BLOB))
    stream = source.open_blob(descriptor, offset)
    try:
        return b"".join(iter(lambda: stream.read(MIB), b""))
    finally:
        stream.close()


def _is_part(request: Request) -> bool:
    return re.fullmatch(r"bytes=\d+-\d+", request.headers.get("range", "")) is not None


def _is_part_but(begin: int) -> Callable[[Request], bool]:
    return lambda request: _is_part(request) and not request.headers["range"].startswith(f"bytes={begin}-")


def _is_open_range(request: Request) -> bool:
    return request.headers.get("range", "").endswith("-")


def _ranges(registry: FakeRegistry) -> list[str | None]:
    return [request.headers.get("range") for request in registry.requests if "/blobs/" in request.path]


def _requests_to_the_end(registry: FakeRegistry) -> list[str | None]:
    """Return the Range headers without an end; None for a request without a Range."""
    return [text for text in _ranges(registry) if text is None or text.endswith("-")]


def _connections(registry: FakeRegistry) -> int:
    return len({request.connection for request in registry.requests if "/blobs/" in request.path})


@pytest.mark.parametrize("offset", [0, 1, 5 * MIB + 3])
def test_parts_are_put_together_in_order(offset: int) -> None:
    # At full speed the whole blob may be in the kernel's buffers before another connection is made.
    with FakeRegistry(bytes_per_second=60 * MIB) as registry, _source(registry) as source:
        assert _read_all(source, registry, offset) == BLOB[offset:]
        assert _connections(registry) > 1


def test_parts_are_fetched_at_the_same_time() -> None:
    """One connection limited to B/s must not limit the pull to B/s; `make bench` measures the gain."""
    asked: list[Digest] = []
    are_several = threading.Event()

    def wait_for_others(part: bytes) -> bytes:
        asked.append(Digest.of(part))
        if len(asked) == 3:
            are_several.set()
        assert are_several.wait(30), "expected three requests before the first of them is answered"
        return part

    with FakeRegistry() as registry:
        registry.misbehave("/blobs/", Fault(change=wait_for_others), when=_is_part)
        with _source(registry) as source:
            assert _read_all(source, registry) == BLOB
    assert are_several.is_set()


def test_one_connection_is_all_where_no_more_are_wanted() -> None:
    with FakeRegistry(bytes_per_second=60 * MIB) as registry, _source(registry, connections_per_blob=1) as source:
        assert _read_all(source, registry) == BLOB
        assert _connections(registry) == 1


@pytest.mark.parametrize(("name", "value"), [("_WORTHWHILE_SECONDS", 60.0), ("_FAST_BYTES_PER_SECOND", 1.0)])
def test_one_connection_that_is_fast_is_enough(name: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest takes little time, or the rate is already that of the network."""
    monkeypatch.setattr(ranges, name, value)
    with FakeRegistry() as registry, _source(registry) as source:
        assert _read_all(source, registry) == BLOB
        assert _connections(registry) == 1
        assert _ranges(registry) == [None]


def test_server_without_ranges_sends_it_once() -> None:
    with FakeRegistry(ranges=False) as registry, _source(registry) as source:
        assert _read_all(source, registry) == BLOB
        assert _requests_to_the_end(registry) == [None]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=403),
        Fault(status=429),
        Fault(status=416),
        Fault(status=400),
        Fault(status=501),
        Fault(headers={"Content-Range": None}),
        Fault(headers={"Content-Range": "bytes 7-9/20"}),
        Fault(headers={"Content-Range": f"bytes 4194304-{'9' * 5000}/*"}),
    ],
)
def test_server_that_refuses_parts_is_read_over_one_connection(fault: Fault) -> None:
    """A limit on connections, a firewall, a storage without ranges: the first connection continues."""
    with FakeRegistry() as registry, _source(registry, retry_times=1) as source:
        registry.misbehave("/blobs/", fault, when=_is_part)
        assert _read_all(source, registry) == BLOB
        assert _requests_to_the_end(registry) == [None]


def test_server_that_gives_one_body_at_a_time_is_read_over_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part would wait for the end of the kept connection."""
    monkeypatch.setattr(ranges, "_FIRST_PART_SECONDS", 0.3)
    with FakeRegistry() as registry, _source(registry) as source:
        registry.misbehave("/blobs/", Fault(delay_seconds=3), when=_is_part)
        assert _read_all(source, registry) == BLOB
        assert _requests_to_the_end(registry) == [None]


def test_server_that_has_given_all_in_place_of_a_part_is_not_asked_for_parts() -> None:
    with FakeRegistry(ranges=False) as registry, _source(registry) as source:
        assert _read_all(source, registry, 20 * MIB) == BLOB[20 * MIB :]
        assert _ranges(registry) == [f"bytes={20 * MIB}-"]


@pytest.mark.parametrize("started", [0, 1])
def test_machine_without_threads_reads_over_fewer_connections(started: int, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    names: list[str] = []

    def start_some(thread: threading.Thread) -> None:
        if "connection" in thread.name:
            names.append(thread.name)
            if len(names) > started:
                raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    with FakeRegistry() as registry, closing(RegistryClient()) as client:
        source = registry_source(client, ImageReference.parse(f"{registry.host}/a:1"))
        assert _read_all(source, registry) == BLOB
        assert names != []
        _wait_for_the_threads()
        assert client.transport.spare_connections.take(100) == MAX_SPARE_CONNECTIONS


def test_server_that_refuses_a_later_part_goes_on_over_one_connection() -> None:
    """The first part has arrived by then, so the first connection is closed and a new one is made."""
    with FakeRegistry() as registry, _source(registry, retry_times=1) as source:
        registry.misbehave("/blobs/", Fault(status=403), when=_is_part_but(4 * MIB))
        assert _read_all(source, registry) == BLOB
        assert _requests_to_the_end(registry) == [None, f"bytes={8 * MIB}-"]


@pytest.mark.parametrize("fault", [Fault(cut_after=MIB), Fault(reset_after=MIB), Fault(status=503)])
def test_parts_that_break_are_continued(fault: Fault) -> None:
    with FakeRegistry() as registry, _source(registry, retry_times=6) as source:
        registry.misbehave("/blobs/", fault, times=5)
        assert _read_all(source, registry) == BLOB


def test_parts_may_be_shorter_than_asked_for() -> None:
    with FakeRegistry() as registry, _source(registry, retry_times=6) as source:
        registry.misbehave("/blobs/", Fault(change=lambda raw: raw[:1000]), times=5, when=_is_part)
        assert _read_all(source, registry) == BLOB


def test_parts_of_nothing_do_no_harm() -> None:
    with FakeRegistry() as registry, _source(registry, retry_times=1) as source:
        registry.misbehave("/blobs/", Fault(change=lambda raw: b""), when=_is_part)
        assert _read_all(source, registry) == BLOB
        assert _requests_to_the_end(registry) == [None]


def test_size_that_is_not_the_blobs_is_told() -> None:
    with FakeRegistry() as registry, _source(registry) as source:
        descriptor = Descriptor(mediatypes.OCI_LAYER, registry.add_blob(BLOB), len(BLOB) + 1)
        with pytest.raises(SizeMismatchError) as caught:
            source.open_blob(descriptor, 1)
        assert str(caught.value) == (
            f"blob {descriptor.digest}: size mismatch: expected {len(BLOB) + 1} bytes, got a part of {len(BLOB)}"
        )
        # From offset 0 the whole blob is requested; the verifying reader finds that it is shorter.
        stream = source.open_blob(descriptor)
        with (
            VerifyingReader(stream, descriptor.digest, descriptor.size, subject="it") as reader,
            pytest.raises(SizeMismatchError, match=f"expected {len(BLOB) + 1} bytes, got {len(BLOB)}$"),
        ):
            list(iter(lambda: reader.read(MIB), b""))


def test_blob_that_vanishes_ends_in_its_own_error() -> None:
    with FakeRegistry() as registry, _source(registry) as source:
        registry.misbehave("/blobs/", Fault(status=404), when=_is_part_but(4 * MIB))
        registry.misbehave("/blobs/", Fault(status=404), when=_is_open_range)
        with pytest.raises(RegistryNotFoundError):
            _read_all(source, registry)


def test_full_disk_for_the_parts_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", fail)
    with FakeRegistry() as registry, _source(registry) as source:
        assert _read_all(source, registry) == BLOB
        assert _connections(registry) == 1


def test_reader_that_stops_leaves_no_thread_behind() -> None:
    with FakeRegistry(bytes_per_second=20 * MIB) as registry, _source(registry) as source:
        descriptor = Descriptor(mediatypes.OCI_LAYER, registry.add_blob(BLOB), len(BLOB))
        stream = source.open_blob(descriptor)
        for _ in range(10):
            stream.read(MIB)
        stream.close()
        deadline = time.monotonic() + 5
        while any("connection" in thread.name for thread in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_close_of_the_source_ends_a_reader_in_another_thread() -> None:
    with FakeRegistry() as registry:
        registry.misbehave("/blobs/", Fault(), times=1)
        registry.misbehave("/blobs/", Fault(delay_seconds=60))
        errors: list[BaseException] = []
        with _source(registry) as source:

            def read() -> None:
                try:
                    _read_all(source, registry)
                except TransferError as error:
                    errors.append(error)

            thread = threading.Thread(target=read)
            thread.start()
            time.sleep(0.5)
        thread.join(30)
        assert not thread.is_alive()
        assert len(errors) == 1


# Into a file


def _pull_into(layout: ImageLayout, registry: FakeRegistry) -> Path:
    """Pull an image whose only layer is the blob; returns the layer's path."""
    image = build_image([[member("big", BLOB)]], compression="plain")
    options = RegistryOptions(retry_delay_seconds=0, read_timeout_seconds=10)
    pull(image.serve(registry, "library/app", "1"), layout, platform=AMD64, registry=options)
    return Path(layout.blob_path(image.layers[0].digest))


def _refuse_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", fail)


def _wait_for_the_threads() -> None:
    deadline = time.monotonic() + 10
    while any("connection" in thread.name for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_parts_are_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _refuse_temporary_files(monkeypatch)
    layout = ImageLayout(tmp_path / "layout")
    with FakeRegistry() as registry:
        path = _pull_into(layout, registry)
        assert _connections(registry) > 3
    assert Digest.of(path.read_bytes()).encoded == path.name
    assert os.listdir(tmp_path / "layout" / ".ociexport") == ["verified"]


def test_parts_are_written_into_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _refuse_temporary_files(monkeypatch)
    image = build_image([[member("big", BLOB)]], compression="plain")
    with FakeRegistry() as registry:
        pull(image.serve(registry, "library/app", "1"), tmp_path / "x.tar", platform=AMD64)
        assert _connections(registry) > 3
    copied = pull(f"{tmp_path}/x.tar", tmp_path / "layout", platform=AMD64)
    assert copied.manifest_digest == image.digest


def test_connection_that_comes_late_writes_nothing(tmp_path: Path) -> None:
    """One part is refused, so the rest comes over one connection; then wrong bytes of another part arrive."""
    layout = ImageLayout(tmp_path / "layout")
    image = build_image([[member("big", BLOB)]], compression="plain")
    wrong = Fault(change=lambda raw: raw[::-1], stall_after=0, delay_seconds=1)

    def is_part(number: int) -> Callable[[Request], bool]:
        return lambda request: request.headers.get("range", "").startswith(f"bytes={number * 4 * MIB}-")

    with FakeRegistry() as registry, _source(registry, image.serve(registry, "library/app", "1")) as source:
        registry.misbehave("/blobs/", wrong, when=is_part(4), times=1)
        registry.misbehave("/blobs/", Fault(status=403), when=is_part(3), times=1)
        # The connection that replaces it stalls after the other part's place, until that part has arrived.
        registry.misbehave("/blobs/", Fault(stall_after=12 * MIB, delay_seconds=2), when=is_part(3), times=1)
        pull(source, layout, platform=AMD64)
        _wait_for_the_threads()
    path = Path(layout.blob_path(image.layers[0].digest))
    assert Digest.of(path.read_bytes()).encoded == path.name


@pytest.mark.system
def test_disk_that_is_full_keeps_what_came(tmp_path: Path) -> None:
    """After a full disk, complete blobs stay and a partial one is resumed."""
    image = build_image([[member("big", BLOB)], [member("small", b"x")]], compression="plain")
    big, small = image.layers
    with FakeRegistry() as registry, mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=30M", "tmpfs") as disk:
        reference = image.serve(registry, "library/app", "1")
        layout = ImageLayout(disk / "layout")
        with pytest.raises(OSError, match="No space left") as caught:
            pull(reference, layout, platform=AMD64, jobs=3)
        _wait_for_the_threads()
        assert caught.value.filename == layout.partial_path(big.digest)
        assert layout.has_blob(small)
        there = layout.partial_bytes(big)
        assert there > 4 * MIB
        run("mount", "-o", "remount,size=100M", disk)
        assert pull(reference, layout, platform=AMD64).fetched_bytes == big.size - there
        assert layout.has_blob(big)
