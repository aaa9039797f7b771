"""layout.layout: several users at once, or after one that was killed: none loses its blobs or removes another's."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from pathlib import Path

import pytest

from ociexport.images.source import ImageName
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.locks import open_locked
from ociexport.transfer.pull import pull
from tests.support.image_builder import build_image
from tests.support.memory_source import member
from tests.support.stored_blobs import BLOB, CONTENT, store, store_a_part


@pytest.fixture
def layout(tmp_path: Path) -> ImageLayout:
    return ImageLayout(tmp_path / "layout")


@pytest.mark.parametrize(("number", "is_fatal"), [(errno.ENOLCK, False), (errno.EIO, True)])
def test_file_system_without_locks_will_do_and_a_broken_disk_will_not(
    number: int, is_fatal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with nullcontext() if not is_fatal else pytest.raises(OSError, match="/lock"):
        os.close(open_locked(str(tmp_path / "lock")))


def test_partial_blob_stays_for_the_next_try(layout: ImageLayout) -> None:
    with layout.begin():
        store_a_part(layout, CONTENT[:100])
    with layout.begin(), layout.new_blob(BLOB) as blob:
        assert blob.offset == 100
        blob.write(CONTENT[100:])
    assert layout.has_blob(BLOB)


def test_what_others_may_be_using_is_not_discarded(layout: ImageLayout) -> None:
    other = ImageLayout(layout.path)
    with layout.begin() as use:
        store(layout)
        use.discard([BLOB.digest])
        with other.begin():
            assert other.has_blob(BLOB)
            other.write_name(BLOB, ImageName("1", None))
        assert other.has_blob(BLOB)
    with other.begin(), layout.begin() as use:
        use.discard([BLOB.digest])
    assert layout.has_blob(BLOB)


def test_failing_process_takes_nothing_from_the_others(layout: ImageLayout) -> None:
    """Some users write and discard the same blob repeatedly; the images of the others keep all their blobs."""
    script = textwrap.dedent(
        """
        import sys
        from ociexport.spec.digest import Digest
        from ociexport.spec.descriptor import Descriptor
        from ociexport.storage.layout.layout import ImageLayout
        from ociexport.images.source import ImageName
        content = b"shared"
        descriptor = Descriptor("m", Digest.of(content), len(content))
        for number in range(60):
            layout = ImageLayout(sys.argv[1])
            with layout.begin() as use:
                if not layout.has_blob(descriptor):
                    with layout.new_blob(descriptor) as blob:
                        if not blob.is_complete:
                            blob.write(content[blob.offset:])
                    if sys.argv[2] == "vain":
                        use.discard([descriptor.digest])
                elif number > 40 and sys.argv[2] != "vain":
                    layout.write_name(descriptor, ImageName(sys.argv[2], None))
                    assert layout.has_blob(descriptor)
        """
    )
    names = ["vain", "vain", "a", "b"]
    processes = [subprocess.Popen([sys.executable, "-c", script, layout.path, name]) for name in names]
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]
    if os.path.exists(layout.path):
        assert all(layout.has_blob(descriptor) for descriptor, _ in layout.read_images())


def test_two_processes_lose_no_name(layout: ImageLayout) -> None:
    """skopeo, umoci and oras do (containers/image issue 1028, umoci issue 146)."""
    script = textwrap.dedent(
        """
        import sys
        from ociexport.spec.digest import Digest
        from ociexport.spec.descriptor import Descriptor
        from ociexport.storage.layout.layout import ImageLayout
        from ociexport.images.source import ImageName
        layout = ImageLayout(sys.argv[1])
        for number in range(15):
            content = b"shared %d" % number
            descriptor = Descriptor("m", Digest.of(content), len(content))
            with layout.new_blob(descriptor) as blob:
                if not blob.is_complete:
                    blob.write(content[blob.offset:])
            tag = f"{sys.argv[2]}-{number}"
            layout.write_name(descriptor, ImageName(tag, f"docker.io/library/a:{tag}"))
        """
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, layout.path, str(number)]) for number in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    images = layout.read_images()
    assert len({name.full for _, name in images}) == len(images) == 45
    assert all(layout.has_blob(descriptor) for descriptor, _ in images)
    assert os.listdir(os.path.join(layout.path, ".ociexport", "partial")) == []


@pytest.mark.parametrize("target", ["/proc/self/mem", "loop"])
def test_blob_that_the_disk_does_not_give_is_as_good_as_not_there(tmp_path: Path, target: str) -> None:
    """So a pull replaces it by a good one; /proc/self/mem gives EIO, as a bad sector does."""
    image = build_image([[member("a", b"1")]])
    pull(image.source("1", None), tmp_path / "layout")
    layout = ImageLayout(tmp_path / "layout")
    blob = Path(layout.blob_path(image.layers[0].digest))
    blob.unlink()
    blob.symlink_to(blob.name if target == "loop" else target)
    assert not layout.has_blob(image.layers[0])
    pull(image.source("1", None), tmp_path / "layout")
    assert (blob.is_symlink(), layout.has_blob(image.layers[0])) == (False, True)
