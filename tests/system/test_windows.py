"""compression, memory: windows up to 2 GiB are read where there is memory; a larger one is a limit, not damage."""

from __future__ import annotations

import io
import lzma
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.errors import LimitExceededError
from ociexport.spec.digest import Digest
from ociexport.system import memory
from ociexport.system.compression import read_layer, read_tar_chunks
from ociexport.system.memory import MAX_WINDOW_BYTES, MEMORY_OPTION, available_memory_bytes
from ociexport.system.zstd_frames import window_bytes_of
from tests.support.command import command_environment, command_line
from tests.support.image_builder import Json, build_image, write_layout
from tests.support.memory_source import member, tar_of
from tests.support.zstd_frames import frame_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MIB = 1024 * 1024
TAR = tar_of([member("a", b"some content " * 1000)])


def skip_without_memory() -> None:
    if (available_memory_bytes() or MAX_WINDOW_BYTES) < MAX_WINDOW_BYTES:
        pytest.skip("this machine has less than 2 GiB")


@pytest.mark.parametrize("window_log", range(10, 32))
def test_window_is_read_from_the_header(window_log: int) -> None:
    assert window_bytes_of(frame_of(window_log, TAR)) == 1 << window_log


@given(
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 3),
    st.integers(0, 8 * 22 - 1),
    st.binary(min_size=11, max_size=11),
)
def test_header_is_read_as_zstd_reads_it(sizes: int, single: bool, dictionary: int, window: int, end: bytes) -> None:
    """RFC 8878 §3.1.1.1; zstd's own function returns the content's size."""
    rest = bytes([window]) + end + b"\0\0"
    header = b"\x28\xb5\x2f\xfd" + bytes([sizes << 6 | single << 5 | dictionary]) + rest
    content = zstd.get_frame_info(header[:18]).decompressed_size
    found = window_bytes_of(header[:18])
    if single:
        assert found == content
    else:
        declared = (1 << (10 + (rest[0] >> 3))) // 8 * (8 + (rest[0] & 7))
        assert found == (declared if content is None else min(declared, content))


@given(st.binary(max_size=17))
def test_cut_header_has_a_window_too(rest: bytes) -> None:
    assert window_bytes_of(b"\x28\xb5\x2f\xfd" + rest) >= 0
    assert window_bytes_of(rest) == 0


@pytest.mark.parametrize("window_log", [27, 28, 30, 31])
def test_frame_of_any_window_is_read(window_log: int) -> None:
    skip_without_memory()
    stored = frame_of(20, TAR) + frame_of(window_log, TAR)
    assert b"".join(read_layer(io.BytesIO(stored))) == 2 * TAR


@pytest.mark.parametrize("arguments", [["--long=31"], ["--ultra", "-22", "--long=31"], ["--long=28"]])
def test_what_zstd_itself_wrote_is_read(arguments: list[str]) -> None:
    """From a pipe, so the frame does not tell its content's size."""
    skip_without_memory()
    command = ["zstd", "-q", "-c", *arguments]
    try:
        stored = subprocess.run(command, input=TAR, capture_output=True, check=True, timeout=60).stdout
    except FileNotFoundError:
        pytest.skip("zstd is not installed")
    assert b"".join(read_layer(io.BytesIO(stored))) == TAR


@pytest.mark.parametrize("position", ["first", "later"])
def test_larger_window_than_allowed_is_a_limit(position: str) -> None:
    stored = frame_of(28, TAR) if position == "first" else frame_of(20, TAR) + frame_of(28, TAR)
    read = read_tar_chunks(io.BytesIO(stored), max_window_bytes=100 * MIB, option=MEMORY_OPTION)
    with pytest.raises(LimitExceededError) as caught:
        list(read)
    assert str(caught.value) == (
        "zstd data: window: expected at most 104857600 bytes of memory (--max-memory), got 268435456"
    )
    assert caught.value.hint == "if you trust the image, raise --max-memory"


def test_window_that_the_limit_just_allows_is_read() -> None:
    assert b"".join(read_tar_chunks(io.BytesIO(frame_of(28, TAR)), max_window_bytes=1 << 28)) == TAR


def test_size_of_the_content_is_enough_memory_for_it() -> None:
    """zstd keeps no more than the whole content."""
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 31})
    compressor.set_pledged_input_size(len(TAR))
    stored = compressor.compress(TAR) + compressor.flush()
    assert b"".join(read_tar_chunks(io.BytesIO(stored), max_window_bytes=len(TAR))) == TAR


def test_window_beyond_what_zstd_supports_is_a_limit() -> None:
    stored = bytearray(frame_of(31, TAR))
    stored[5] += 1  # the window's mantissa
    with pytest.raises(LimitExceededError) as caught:
        list(read_tar_chunks(io.BytesIO(bytes(stored)), max_window_bytes=2 * MAX_WINDOW_BYTES))
    assert str(caught.value) == (
        "zstd data: window: expected at most 2147483648 bytes, which is all that is supported, got 2415919104"
    )


def test_dictionary_of_xz_is_limited_too() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 64 * MIB}]
    stored = lzma.compress(TAR, filters=filters)
    assert b"".join(read_tar_chunks(io.BytesIO(stored), max_window_bytes=70 * MIB)) == TAR
    with pytest.raises(LimitExceededError) as caught:
        list(read_tar_chunks(io.BytesIO(stored), max_window_bytes=60 * MIB))
    assert str(caught.value) == "xz data: window: expected at most 62914560 bytes of memory, got more"


# Where no limit is given, the machine's memory is it.


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory whose files take the place of the kernel's."""
    for name, file in (("_MEMINFO", "meminfo"), ("_OWN_CGROUPS", "own"), ("_CGROUPS", "cgroup")):
        monkeypatch.setattr(memory, name, str(tmp_path / file))
    return tmp_path


def test_available_memory_is_the_machines_or_the_containers(machine: Path) -> None:
    """proc(5), cgroups(7): the files of Linux; another system has none of them."""
    assert available_memory_bytes() is None
    (machine / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:    5000 kB\n")
    assert available_memory_bytes() == 5000 * 1024
    (machine / "own").write_text("5:cpu:/x\n4:memory:/a/b\n0::/pod/it\n")
    for path, content in (
        ("memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"),
        ("memory/a/memory.limit_in_bytes", "4000000\n"),
        ("pod/it/memory.max", "max\n"),
    ):
        (machine / "cgroup" / path).parent.mkdir(parents=True, exist_ok=True)
        (machine / "cgroup" / path).write_text(content)
    assert available_memory_bytes() == 4_000_000
    (machine / "cgroup" / "pod" / "memory.max").write_text("3000000\n")
    assert available_memory_bytes() == 3_000_000


def test_window_beyond_the_available_memory_is_a_limit(machine: Path) -> None:
    (machine / "meminfo").write_text("MemAvailable: 200000 kB\n")
    assert b"".join(read_tar_chunks(io.BytesIO(frame_of(27, TAR)))) == TAR
    with pytest.raises(LimitExceededError) as caught:
        list(read_tar_chunks(io.BytesIO(frame_of(28, TAR)), option=MEMORY_OPTION))
    assert str(caught.value) == (
        "zstd data: window: expected at most 204800000 bytes of memory (all that is available, --max-memory), "
        "got 268435456"
    )
    # A user who sets a limit means it.
    assert b"".join(read_tar_chunks(io.BytesIO(frame_of(28, TAR)), max_window_bytes=1 << 28)) == TAR


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on address space")
def test_memory_that_this_process_may_not_take_is_a_limit(tmp_path: Path) -> None:
    def edit(config: Json) -> None:
        config["rootfs"]["diff_ids"] = [str(Digest.of(TAR))]

    image = build_image([frame_of(31, TAR)], compression="plain", edit_config=edit)
    write_layout(tmp_path / "layout", {"1": image})
    limited = ["prlimit", f"--as={1500 * MIB}", *command_line("unpack", "./layout", "rootfs", "--platform=linux/amd64")]
    ended = subprocess.run(
        limited, cwd=tmp_path, env=_environment(tmp_path), capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr.splitlines()[-2:]) == (
        8,
        [
            f"ociexport: error: layer 1 of 1 ({image.layers[0].digest}): zstd data: window: "
            "expected 2147483648 bytes of memory, got none",
            "hint: this process may not take more memory: see ulimit -v",
        ],
    )


def _environment(home: Path) -> dict[str, str]:
    return command_environment(home, PYTHONPATH=str(Path(__file__).parent.parent.parent))
