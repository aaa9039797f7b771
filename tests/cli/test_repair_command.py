"""`ociexport verify --repair` as a command: when it is killed, and while other commands run."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from ociexport import verify
from ociexport.images.choose import PlatformChoice
from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.pull import pull
from tests.support.command import command_environment, command_line, run_command
from tests.support.damaged_layout import DamagedLayout
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member
from tests.support.pulled_index import FIRST, IMAGE, SECOND, pull_all
from tests.support.real_tools import skopeo_copy
from tests.support.system_parts import docker_registry, require, run


@pytest.fixture
def layout(tmp_path: Path) -> DamagedLayout:
    return DamagedLayout(tmp_path / "layout")


@pytest.fixture
def pulled(layout: DamagedLayout, registry: FakeRegistry) -> DamagedLayout:
    return pull_all(registry, layout)


def start(*arguments: object, home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command_line(*map(str, arguments)),
        env=command_environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for_request(registry: FakeRegistry, digest: Digest) -> None:
    import time  # noqa: PLC0415

    deadline = time.monotonic() + 30
    while not any(str(digest) in path for path in registry.paths("GET")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_repair_leaves_what_was_there_and_the_next_goes_on(
    pulled: DamagedLayout, registry: FakeRegistry, tmp_path: Path
) -> None:
    pulled.spoil(FIRST.digest, "other")
    registry.misbehave(str(FIRST.digest), Fault(stall_after=200_000, delay_seconds=30), times=1)
    partial = Path(ImageLayout(pulled.path).partial_path(FIRST.digest))
    with start("verify", pulled.path, "--repair", "--from", f"{registry.host}/", home=tmp_path) as process:
        wait_for_request(registry, FIRST.digest)
        while not partial.exists() or not partial.stat().st_size:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert pulled.blob(FIRST.digest).read_bytes() == bytes(FIRST.size)
    ended = run_command("verify", pulled.path, "--repair", "--from", f"{registry.host}/", home=tmp_path)
    assert (ended.returncode, f"resumed at {partial_size(ended.stderr)} of" in ended.stderr) == (0, True), ended.stderr
    assert verify(pulled.path).findings == ()


def partial_size(said: str) -> str:
    return said.partition("resumed at ")[2].partition(" ")[0]


def test_two_repairs_at_once_fetch_each_blob_once(
    pulled: DamagedLayout, registry: FakeRegistry, tmp_path: Path
) -> None:
    for digest in (FIRST.digest, SECOND.digest, IMAGE.config.digest):
        pulled.spoil(digest, "other")
    registry.misbehave("/blobs/", Fault(stall_after=10, delay_seconds=1))
    both = [start("verify", pulled.path, "--repair", "--from", f"{registry.host}/", home=tmp_path) for _ in range(2)]
    told = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    counts = Counter(path for path in registry.paths("GET") if "/blobs/" in path)
    assert set(counts.values()) == {1}
    assert verify(pulled.path).findings == ()


def test_repair_works_beside_a_pull_and_gc_waits_for_neither(
    pulled: DamagedLayout, registry: FakeRegistry, tmp_path: Path
) -> None:
    more = build_image([[member("more", os.urandom(100_000))]])
    name = more.serve(registry, "library/more", "1")
    registry.misbehave(str(more.layers[0].digest), Fault(stall_after=50_000, delay_seconds=4), times=1)
    pulled.spoil(FIRST.digest, "other")
    with start("pull", name, "--out", pulled.path, "--platform", "linux/amd64", home=tmp_path) as puller:
        wait_for_request(registry, more.layers[0].digest)
        refused = run_command("gc", pulled.path, home=tmp_path)
        assert (refused.returncode, refused.stdout) == (2, "")
        ended = run_command("verify", pulled.path, "--repair", "--from", f"{registry.host}/", home=tmp_path)
        assert (ended.returncode, ended.stdout.partition(":")[0]) == (0, "repaired"), ended.stderr
        assert puller.poll() is None
        puller.communicate(timeout=60)
    assert puller.returncode == 0
    assert verify(pulled.path).findings == ()


# The command.


def test_command_tells_what_was_repaired_and_what_is_left(
    pulled: DamagedLayout, registry: FakeRegistry, tmp_path: Path
) -> None:
    pulled.spoil(SECOND.digest, "cut")
    place = f"{registry.host}/library/app:1 (linux/amd64): manifest {IMAGE.digest}"
    ended = run_command("verify", pulled.path, "--repair", "--from", f"{registry.host}/", home=tmp_path)
    line = f"repaired: {place}: layer 2 of 2 ({SECOND.digest}): {SECOND.size} bytes from {registry.host}/library/app:1"
    assert (ended.returncode, ended.stdout.splitlines()) == (0, [line])
    pulled.spoil(FIRST.digest, "cut")
    del registry.blobs[str(FIRST.digest)]
    ended = run_command("verify", pulled.path, "--repair", "--from", f"{registry.host}/", home=tmp_path)
    found = f"size mismatch: expected {FIRST.size} bytes, got {FIRST.size // 2}"
    assert (ended.returncode, ended.stdout.splitlines()) == (
        7,
        [f"wrong: {place}: layer 1 of 2 ({FIRST.digest}): {found}"],
    )
    assert f"{place}: layer 1 of 2 ({FIRST.digest}): not repaired: " in ended.stderr


def test_command_wants_repair_for_origins(layout: DamagedLayout, tmp_path: Path) -> None:
    layout.write(one=IMAGE)
    for option in (["--from", "x"], ["--cache", "x"], ["--dry-run"]):
        ended = run_command("verify", layout.path, *option, home=tmp_path)
        assert (ended.returncode, ended.stderr.splitlines()) == (
            2,
            [
                f"ociexport: error: {option[0]}: expected --repair with it",
                "hint: see ociexport verify --help",
            ],
        )


def test_result_is_one_json_object(pulled: DamagedLayout, registry: FakeRegistry, tmp_path: Path) -> None:
    import json  # noqa: PLC0415

    pulled.spoil(SECOND.digest, "cut")
    pulled.spoil(FIRST.digest, "cut")
    del registry.blobs[str(FIRST.digest)]
    told = json.loads(
        run_command("verify", pulled.path, "--repair", "--from", f"{registry.host}/", "--json", home=tmp_path).stdout
    )
    assert (told["command"], told["right"]) == ("verify", False)
    assert [(blob["digest"], blob["size"], blob["from"]) for blob in told["repaired"]] == [
        (str(SECOND.digest), SECOND.size, f"{registry.host}/library/app:1")
    ]
    assert [(blob["digest"], len(blob["reasons"])) for blob in told["unrepaired"]] == [(str(FIRST.digest), 1)]
    assert told["advice"] == []


@pytest.mark.system
def test_real_registry_gives_all_back_and_skopeo_reads_it(tmp_path: Path) -> None:
    """Debian's docker-registry, to which skopeo pushed the image."""
    require("docker-registry", "skopeo")
    write_layout(tmp_path / "pushed", {"1": IMAGE})
    with docker_registry(tmp_path / "registry") as host:
        run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{tmp_path}/pushed:1", f"docker://{host}/team/app:1")
        layout = DamagedLayout(tmp_path / "layout")
        pull(f"{host}/team/app:1", layout.path, platform=PlatformChoice())
        for digest in IMAGE.all_digests:
            layout.spoil(digest, "cut")
        ended = run_command("verify", layout.path, "--repair", "--deep", "--from", f"{host}/", home=tmp_path)
    assert (ended.returncode, len(ended.stdout.splitlines())) == (0, len(IMAGE.all_digests)), ended.stderr
    skopeo_copy(f"oci:{layout.path}:1", f"dir:{tmp_path / 'copied'}")
    assert (tmp_path / "copied" / FIRST.digest.encoded).read_bytes() == IMAGE.blobs[FIRST.digest]
