"""Interrupted and concurrent runs of `ociexport pull`: nothing is lost, and no partial results are left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time

import pytest

from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout
from tests.support.command import command_environment, command_line
from tests.support.fake_registry import Fault
from tests.support.image_builder import build_image
from tests.support.memory_source import member
from tests.support.puller import Puller
from tests.support.read_bytes import own_files
from tests.support.system_parts import require
from tests.support.waiting import wait_for

LAYERS = [[member("a", b"1" * 3000)], [member("b", b"2" * 5000)], [member("c", b"3")]]
IMAGE = build_image(LAYERS)


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signal_ends_it_at_once_and_the_next_run_goes_on(
    puller: Puller, number: signal.Signals, code: int, word: str
) -> None:
    image = build_image([[member("big", os.urandom(4_000_000))], [member("b", b"2")]])
    reference = puller.serve(image)
    puller.registry.misbehave(image.layers[0].digest.encoded, Fault(stall_after=2_000_000, delay_seconds=60))
    partial = puller.layout / ".ociexport" / "partial" / f"sha256-{image.layers[0].digest.encoded}"
    with subprocess.Popen(
        command_line("pull", reference, "--out", puller.layout, "--platform", "linux/amd64"),
        env=command_environment(puller.home),
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        try:
            # The config and the other layer arrive beside it. With a whole blob, what was made stays a layout.
            wait_for(lambda: all(puller.blob(one).exists() for one in (image.config, image.layers[1])))
            wait_for(lambda: partial.exists() and partial.stat().st_size >= 1_000_000)
            command.send_signal(number)
            # The registry stays silent for twice as long.
            said = command.communicate(timeout=30)[1]
        finally:
            command.kill()
    assert command.returncode == code
    assert said.splitlines()[-1] == f"ociexport: error: {word}"
    assert json.loads((puller.layout / "index.json").read_bytes())["manifests"] == []

    puller.registry.behave()
    pulled = puller(reference)
    assert pulled.code == 0
    assert any(
        line.startswith(f"ociexport: layer 1/2 {image.layers[0].digest.short}: resumed at ") for line in pulled.lines
    )
    assert own_files(puller.layout) <= {"verified"}


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_at_once_while_the_name_service_is_silent(puller: Puller, number: signal.Signals) -> None:
    """The system's resolver goes on for ten seconds, even if signals arrive."""
    require("unshare", "mount", root=True)
    configuration = puller.home / "resolv.conf"
    configuration.write_text("nameserver 127.0.0.57\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind(("127.0.0.57", 53))
        service.settimeout(30)
        script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        words = command_line("pull", "registry.example.test/app:1", "--out", puller.layout, "-q")
        with subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script, configuration, *words],
            env=command_environment(puller.home),
            stderr=subprocess.PIPE,
            text=True,
        ) as command:
            service.recv(4096)
            command.send_signal(number)
            said = command.communicate(timeout=8)[1]
    assert said == f"ociexport: error: {'interrupted' if number == signal.SIGINT else 'terminated'}\n"


def test_killed_amid_parallel_parts_the_next_run_goes_on(puller: Puller) -> None:
    """Parts that arrived early are already in the file: it is as long as the blob, and has gaps."""
    image = build_image([[member("big", os.urandom(28 << 20))]], compression="plain")
    (layer,) = image.layers
    reference = puller.serve(image)
    puller.registry.bytes_per_second = 4 << 20
    layout, partial = ImageLayout(puller.layout), puller.partial(layer)
    command = subprocess.Popen(
        command_line("pull", reference, "--out", puller.layout, "-q"), env=command_environment(puller.home)
    )
    try:
        wait_for(lambda: layout.partial_bytes(layer) > 5 << 20 and partial.stat().st_size > layer.size)
    finally:
        command.kill()
    assert command.wait() == -signal.SIGKILL
    there = layout.partial_bytes(layer)
    assert 5 << 20 < there < layer.size

    puller.registry.bytes_per_second = None
    pulled = puller(reference)
    assert pulled.code == 0
    assert f"ociexport: layer 1/1 {layer.digest.short}: resumed at {there} of {layer.size} bytes" in pulled.lines
    assert Digest.of(puller.blob(layer).read_bytes()) == layer.digest
    assert own_files(puller.layout) <= {"verified"}


def test_blob_that_lacks_only_its_name_is_not_fetched_again(puller: Puller) -> None:
    """kill -9 after the last byte, before the rename."""
    reference = puller.serve(IMAGE)
    for layer in IMAGE.layers[:2]:
        puller.partial(layer).parent.mkdir(parents=True, exist_ok=True)
        puller.partial(layer).write_bytes(IMAGE.blobs[layer.digest])
    damaged = IMAGE.layers[1]
    puller.partial(damaged).write_bytes(bytes(damaged.size))
    assert puller(reference).code == 0
    fetched = [path.rpartition("/")[2] for path in puller.registry.paths() if "/blobs/" in path]
    assert sorted(fetched) == sorted(map(str, [IMAGE.config.digest, damaged.digest, IMAGE.layers[2].digest]))


def test_two_at_once_lose_nothing(puller: Puller) -> None:
    """containers/image issue 513: parallel copies into one layout lose entries of index.json."""
    references = [puller.serve(build_image([*LAYERS, [member("n", b"%d" % n)]]), str(n)) for n in range(4)]
    commands = [
        subprocess.Popen(
            command_line("pull", reference, "--out", puller.layout, "-q"),
            env=command_environment(puller.home),
            stdout=subprocess.DEVNULL,
        )
        for reference in references
    ]
    assert [command.wait(60) for command in commands] == [0, 0, 0, 0]
    names = {entry["annotations"]["org.opencontainers.image.ref.name"] for entry in puller.index}
    assert names == {"0", "1", "2", "3"}
    assert own_files(puller.layout) <= {"verified"}


def test_while_another_has_the_turn_no_layer_is_requested_before_its_file_is_there(puller: Puller) -> None:
    image = build_image([[member("big", os.urandom(4_000_000))]])
    (layer,) = image.layers
    reference = puller.serve(image)
    turn = ImageLayout(puller.layout).take_asking_turn()
    assert turn is not None
    assert ImageLayout(puller.layout).take_asking_turn() is None
    puller.registry.misbehave(str(image.config.digest), Fault(stall_after=0, delay_seconds=60), times=1)
    words = command_line("pull", reference, "--out", puller.layout, "-q")
    with subprocess.Popen(words, env=command_environment(puller.home)) as command:
        wait_for(lambda: any(path.endswith(str(image.config.digest)) for path in puller.registry.paths()))
        time.sleep(0.3)  # a request ahead would be under way
        turn.close()
        command.kill()
    assert not any(path.endswith(str(layer.digest)) for path in puller.registry.paths())
    assert not puller.layout.exists()
    subprocess.run(words, env=command_environment(puller.home), check=True, timeout=60)
    assert len([path for path in puller.registry.paths() if path.endswith(str(layer.digest))]) == 1
    turn = ImageLayout(puller.layout).take_asking_turn()
    assert turn is not None
    turn.close()


def test_two_processes_fetch_a_blob_once(puller: Puller) -> None:
    image = build_image([[member("big", os.urandom(4_000_000))]])
    reference = puller.serve(image)
    puller.registry.bytes_per_second = 4_000_000
    commands = [
        subprocess.Popen(
            command_line("pull", reference, "--out", puller.layout, "-q"),
            env=command_environment(puller.home),
            stdout=subprocess.DEVNULL,
        )
        for _ in range(3)
    ]
    assert [command.wait(60) for command in commands] == [0, 0, 0]
    assert len([path for path in puller.registry.paths() if path.endswith(str(image.layers[0].digest))]) == 1


def test_who_waits_for_a_blob_goes_on_where_the_other_was_killed(puller: Puller) -> None:
    image = build_image([[member("big", os.urandom(4_000_000))]])
    (layer,) = image.layers
    reference = puller.serve(image)
    puller.registry.misbehave(str(layer.digest), Fault(stall_after=2_000_000, delay_seconds=60), times=1)
    words = command_line("pull", reference, "--out", puller.layout, "-q")
    with subprocess.Popen(words, env=command_environment(puller.home)) as first:
        wait_for(lambda: puller.partial(layer).exists() and puller.partial(layer).stat().st_size >= 1_000_000)
        with subprocess.Popen(words, env=command_environment(puller.home)) as second:
            wait_for(lambda: len([path for path in puller.registry.paths() if "/manifests/" in path]) == 2)
            first.kill()
            assert second.wait(60) == 0
    asked = [request for request in puller.registry.requests if request.path.endswith(str(layer.digest))]
    assert len(asked) == 2
    assert int(asked[1].headers["range"].removeprefix("bytes=").removesuffix("-")) >= 1_000_000
    assert Digest.of(puller.blob(layer).read_bytes()) == layer.digest


def test_output_that_nobody_reads_is_no_error_of_ours(puller: Puller) -> None:
    """`ociexport pull … | true`."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            command_line("pull", puller.serve(IMAGE), "--out", puller.layout, "-q"),
            env=command_environment(puller.home),
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signal_ends_a_list_at_once_and_complete_images_keep_their_names(
    puller: Puller, number: signal.Signals, code: int, word: str
) -> None:
    image = build_image([[member("big", os.urandom(4_000_000))], [member("b", b"2")]])
    references = [puller.serve(image, "stalled"), puller.serve(IMAGE, "whole")]
    puller.registry.misbehave(image.layers[0].digest.encoded, Fault(stall_after=2_000_000, delay_seconds=60))
    (puller.home / "list").write_text("\n".join(references))
    words: list[str | os.PathLike[str]] = [
        "--list",
        puller.home / "list",
        "--out",
        puller.layout,
        "--platform",
        "linux/amd64",
    ]
    with subprocess.Popen(
        command_line("pull", *words),
        env=command_environment(puller.home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        try:
            assert command.stdout is not None
            assert command.stdout.readline().endswith(f"whole@{IMAGE.digest}\n")
            command.send_signal(number)
            began = time.monotonic()
            said = command.communicate(timeout=30)[1]
        finally:
            command.kill()
    assert (command.returncode, said.splitlines()[-1]) == (code, f"ociexport: error: {word}")
    assert time.monotonic() - began < 20
    assert [entry["digest"] for entry in puller.index] == [str(IMAGE.digest)]
    puller.registry.behave()
    assert puller("--list", puller.home / "list").code == 0
    assert len(puller.index) == 2
