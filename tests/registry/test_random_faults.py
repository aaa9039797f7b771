"""Several random faults at once: the pulled bytes are right nevertheless."""

from __future__ import annotations

import gzip
import math
import random

import pytest

from ociexport.registry.download import ranges
from ociexport.registry.options import RegistryOptions
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.reference import ImageReference
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.registry_image import open_registry_source

MIB = 1 << 20


def _random_fault(chance: random.Random, size: int) -> Fault:
    position = chance.randrange(size)
    return chance.choice(
        [
            Fault(cut_after=position),
            Fault(reset_after=position),
            Fault(reset_after=-1),
            Fault(status=chance.choice([408, 429, 500, 502, 503, 504]), headers={"Retry-After": "0"}),
            Fault(headers={"Content-Length": None, "Connection": "close"}, cut_after=position),
            Fault(stall_after=position, delay_seconds=0.05),
            Fault(headers={"Content-Encoding": "gzip"}, change=lambda raw: gzip.compress(raw, 1)),
        ]
    )


@pytest.mark.parametrize("seed", range(25))
def test_blob_survives_random_faults(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """PAINS 6 to 8. The seed is in the test's name, so that the same faults can be repeated."""
    chance = random.Random(seed)
    monkeypatch.setattr(ranges, "_WORTHWHILE_SECONDS", chance.choice([0.0, 1.0]))
    monkeypatch.setattr(ranges, "_FAST_BYTES_PER_SECOND", math.inf)
    monkeypatch.setattr(ranges, "_BUSY_SHARE", math.inf)
    content = chance.randbytes(chance.choice([1, 70_000, 3 * MIB, 40 * MIB]))
    with (
        FakeRegistry(address="127.0.0.2") as storage,
        FakeRegistry(
            auth=chance.choice([None, "bearer"]),
            ranges=chance.random() < 0.8,
            chunked=chance.random() < 0.2,
            redirect_to=chance.choice([None, storage]),
        ) as registry,
    ):
        storage.ranges = registry.ranges
        descriptor = Descriptor(mediatypes.OCI_LAYER, registry.add_blob(content), len(content))
        for number in range(chance.randrange(1, 6)):
            for each in (registry, storage):
                each.misbehave(
                    "/blobs/|/storage/",
                    _random_fault(chance, len(content)),
                    times=1,
                    when=lambda request, after=number: len(registry.requests) > after,  # type: ignore[misc]
                )
        options = RegistryOptions(retry_delay_seconds=0, retry_times=12, read_timeout_seconds=10)
        source = open_registry_source(ImageReference.parse(f"{registry.host}/a:1"), options=options)
        try:
            stream = source.open_blob(descriptor)
            received = b"".join(iter(lambda: stream.read(MIB), b""))
            stream.close()
        finally:
            source.close()
        assert received == content
