"""--list, --locked and `ociexport lock`: a list of images, of which one that fails does not end the others.

Source: issue 18, "Lists and locks".
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ociexport.spec.descriptor import Platform
from tests.support.command import command_environment, run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import build_image, build_index
from tests.support.memory_source import member

IMAGES = {tag: build_image([[member("base", b"x" * 3000)], [member(f"own {tag}")]]) for tag in ("1", "2", "3")}
ARM = build_image([[member("arm")]], platform=Platform("linux", "arm64"))
BOTH = build_index([IMAGES["1"], ARM])


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        for tag, image in IMAGES.items():
            image.serve(registry, "team/app", tag)
        yield registry


class User:
    """Runs commands in a directory of their own; HOST stands for the registry."""

    def __init__(self, home: Path, registry: FakeRegistry) -> None:
        self.home = home
        self.registry = registry

    def list(self, *lines: str) -> Path:
        (self.home / "list").write_text("".join(f"{line}\n" for line in lines).replace("HOST", self.registry.host))
        return self.home / "list"

    def __call__(
        self, *arguments: str | os.PathLike[str], stdin: str | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        options = ("--failed", self.home / "failed.txt", "--retry-times", "0")
        return self.run(*arguments, *options, stdin=stdin, **variables)

    def run(
        self, *arguments: str | os.PathLike[str], stdin: str | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command that takes no list."""
        variables = {"DOCKER_DEFAULT_PLATFORM": "linux/amd64", **variables}
        return run_command(*arguments, home=self.home, variables=variables, stdin=stdin)

    @property
    def failed(self) -> str:
        return (self.home / "failed.txt").read_text().replace(self.registry.host, "HOST")

    def listed(self, layout: str = "layout") -> dict[str, str]:
        entries = json.loads((self.home / layout / "index.json").read_bytes())["manifests"]
        return {
            entry["annotations"]["io.containerd.image.name"].replace(self.registry.host, "HOST"): entry["digest"]
            for entry in entries
        }


@pytest.fixture
def user(tmp_path: Path, registry: FakeRegistry) -> User:
    return User(tmp_path, registry)


def digests(*tags: str) -> dict[str, str]:
    return {f"HOST/team/app:{tag}": str(IMAGES[tag].digest) for tag in tags}


def test_an_image_that_fails_does_not_end_the_list(user: User) -> None:
    """The rest goes on, the exit code is that of the worst, and the list of failures is the next list."""
    broken = build_image([[member("broken")]])
    broken.serve(user.registry, "team/app", "broken")
    user.registry.blobs[str(broken.layers[0].digest)] = b"other bytes"
    listed = user.list(
        "HOST/team/app:none", "HOST/team/app:1  # one", "HOST/team/app:broken platform=linux/amd64", "HOST/team/app:2"
    )
    ended = user("pull", "--list", listed, "--out", user.home / "layout")
    assert ended.returncode == 7
    assert user.listed() == digests("1", "2")
    lines = [line for line in user.failed.splitlines() if not line.startswith("#")]
    assert sorted(lines) == ["HOST/team/app:broken platform=linux/amd64", "HOST/team/app:none"]
    assert any(
        line.startswith(f"# {listed}:1: exit code 3: image HOST/team/app:none: ") for line in user.failed.splitlines()
    )
    assert "2 of 4 images failed" in ended.stderr
    # Mended, the failures alone are the next run's list.
    broken.serve(user.registry, "team/app", "broken")
    user.registry.blobs[str(broken.layers[0].digest)] = broken.blobs[broken.layers[0].digest]
    IMAGES["3"].serve(user.registry, "team/app", "none")
    ended = user("pull", "--list", user.home / "failed.txt", "--out", user.home / "layout")
    assert (ended.returncode, len(user.listed())) == (0, 4)
    assert not (user.home / "failed.txt").exists()


def test_tags_are_chosen_when_the_list_is_read(user: User) -> None:
    listed = user.list(
        "HOST/team/app semver='>=1 <3'", "HOST/team/app newest=1", "HOST/team/app tags=re:^x", "HOST/none tags=all"
    )
    ended = user("pull", "--list", listed, "--out", user.home / "layout", "-q")
    assert (ended.returncode, user.listed()) == (3, digests("1", "2", "3"))
    assert [line for line in user.failed.splitlines() if line[0] != "#"] == [
        "HOST/team/app tags=re:^x",
        "HOST/none tags=all",
    ]


def test_a_list_on_standard_input_has_platforms_of_its_own(user: User) -> None:
    BOTH.serve(user.registry, "team/app", "both")
    text = f"{user.registry.host}/team/app:both platform=linux/arm64\n{user.registry.host}/team/app:2\n"
    ended = user("pull", "--list", "-", "--out", user.home / "layout", stdin=text)
    assert (ended.returncode, user.listed()) == (0, {**digests("2"), "HOST/team/app:both": str(ARM.digest)})


def test_maybes_are_pulled_on_request(user: User) -> None:
    document = user.home / "thing.yaml"
    document.write_text(
        f"apiVersion: example.com/v1\nkind: Thing\nspec: {{image: '{user.registry.host}/team/app:1'}}\n"
    )
    ended = user("pull", "--list", document, "--out", user.home / "layout")
    assert "1 maybe left out; ociexport images --why shows them, --maybes takes them" in ended.stderr
    assert (ended.returncode, (user.home / "layout").exists()) == (0, False)
    assert user("pull", "--list", document, "--maybes", "--out", user.home / "layout").returncode == 0
    assert user.listed() == digests("1")


def lock(user: User, *options: str, **variables: str) -> Path:
    ended = user("lock", user.home / "list", "-q", *options, **variables)
    assert (ended.returncode, ended.stderr) == (0, "")
    (user.home / "images.lock").write_text(ended.stdout)
    return user.home / "images.lock"


def test_a_lock_is_the_same_bytes_twice(user: User) -> None:
    BOTH.serve(user.registry, "team/app", "both")
    user.list("HOST/team/app:both platform=all", "HOST/team/app:2")
    first = lock(user, SOURCE_DATE_EPOCH="1700000000").read_bytes()
    assert first == lock(user, SOURCE_DATE_EPOCH="1700000000").read_bytes()
    assert lock(user).read_bytes() == lock(user).read_bytes()
    both, two = map(json.loads, first.decode().splitlines())
    assert (both["name"], both["digest"], both["listed"]) == (
        f"{user.registry.host}/team/app:both", str(BOTH.digest), str(BOTH.digest),
    )  # fmt: skip
    assert [(one["platform"], one["digest"], one["configDigest"]) for one in both["platforms"]] == [
        ("linux/amd64", str(IMAGES["1"].digest), str(IMAGES["1"].config.digest)),
        ("linux/arm64", str(ARM.digest), str(ARM.config.digest)),
    ]
    image = IMAGES["2"]
    assert two["size"] == len(image.raw) + image.config.size + sum(layer.size for layer in image.layers)
    assert two["time"] == "2023-11-14T22:13:20Z"
    assert two["source"] == f"{user.registry.host}/team/app:2"


@pytest.mark.parametrize("option", ["--locked", "--list"])
def test_a_locked_pull_asks_for_no_tag(user: User, option: str) -> None:
    BOTH.serve(user.registry, "team/app", "both")
    user.list("HOST/team/app:both platform=linux/arm64", "HOST/team/app:2")
    locked = lock(user)
    IMAGES["3"].serve(user.registry, "team/app", "2")  # the tag moves
    user.registry.requests.clear()
    ended = user("pull", option, locked, "--out", user.home / "layout")
    assert ended.returncode == 0, ended.stderr
    assert user.listed() == {**digests("2"), "HOST/team/app:both": str(ARM.digest)}
    assert [path for path in user.registry.paths() if "/manifests/" in path and "sha256:" not in path] == []


@pytest.mark.parametrize("options", [(), ("--all",), ("--platform", "linux/amd64,linux/arm64")], ids=str)
def test_a_locked_pull_with_nothing_to_do_does_nothing(user: User, options: tuple[str, ...]) -> None:
    """No request, and index.json stays as it is; a blob that is missing is fetched again."""
    BOTH.serve(user.registry, "team/app", "both")
    is_one = not options
    user.list("HOST/team/app:both", *(["HOST/team/app:2 platform=linux/amd64"] if is_one else []))
    locked = lock(user, *options)
    assert user("pull", "--locked", locked, "--out", user.home / "layout").returncode == 0
    before = os.stat(user.home / "layout/index.json")
    user.registry.requests.clear()
    ended = user("pull", "--locked", locked, "--out", user.home / "layout")
    after = os.stat(user.home / "layout/index.json")
    assert (ended.returncode, user.registry.requests) == (0, [])
    assert "already there, as locked" in ended.stderr
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert sorted(line.partition("@")[0].rpartition(":")[2] for line in ended.stdout.splitlines()) == sorted(
        {"both", "2"} if is_one else {"both"}
    )
    lost = user.home / "layout/blobs/sha256" / IMAGES["1"].layers[0].digest.encoded
    lost.unlink()
    assert user("pull", "--locked", locked, "--out", user.home / "layout").returncode == 0
    assert lost.exists()


def test_locked_takes_a_lock_only(user: User) -> None:
    listed = user.list("HOST/team/app:1")
    ended = user("pull", "--locked", listed, "--out", user.home / "layout")
    assert ended.returncode == 2
    assert (
        ended.stderr.splitlines()[0] == f"ociexport: error: --locked '{listed}': expected a lock file, got another list"
    )
    (user.home / "images.lock").write_text('{"lockVersion":9,"name":"a"}\n')
    ended = user("pull", "--locked", user.home / "images.lock", "--out", user.home / "layout")
    message = "expected a line of a lock file: lockVersion: expected 1, got 9"
    assert (ended.returncode, ended.stderr) == (2, f"ociexport: error: {user.home}/images.lock:1: {message}\n")


def test_a_locked_image_of_a_layout_is_pulled_as_it_was_locked(user: User) -> None:
    assert user("pull", "--list", user.list("HOST/team/app:1"), "--out", user.home / "from").returncode == 0
    user.list(f"{user.home}/from:1")
    locked = lock(user)
    assert user("pull", "--locked", locked, "--out", user.home / "layout").returncode == 0
    assert user.listed() == digests("1")
    IMAGES["2"].serve(user.registry, "team/app", "1")
    assert user("pull", "--list", user.list("HOST/team/app:1"), "--out", user.home / "from").returncode == 0
    ended = user("pull", "--locked", locked, "--out", user.home / "other")
    assert ended.returncode == 7
    assert f"expected {IMAGES['1'].digest}, got {IMAGES['2'].digest}" in ended.stderr


def test_unpack_and_verify_take_lists(user: User) -> None:
    listed = user.list("HOST/team/app:1", "HOST/team/app:none", "HOST/team/app:2")
    ended = user("unpack", "--list", listed, user.home / "trees", "--rootless")
    assert ended.returncode == 3
    host = user.registry.host.replace(":", "+")
    assert sorted(path.name for path in (user.home / "trees").iterdir()) == [f"{host}+team+app+1", f"{host}+team+app+2"]
    assert (user.home / "trees" / f"{host}+team+app+2" / "own 2").exists()
    assert user("pull", "--list", listed, "--out", user.home / "layout").returncode == 3
    assert user("verify", "--list", listed).returncode == 3
    assert "HOST/team/app:none" in user.failed
    good = user.list("HOST/team/app:1", "HOST/team/app:2")
    user.registry.requests.clear()
    assert user("verify", user.home / "layout", "--list", good).returncode == 0
    assert user("unpack", user.home / "layout", user.home / "others", "--list", good, "--rootless").returncode == 0
    assert user.registry.requests == []
    damaged = user.home / "layout/blobs/sha256" / IMAGES["2"].layers[1].digest.encoded
    damaged.write_bytes(b"x")
    assert user("verify", user.home / "layout", "--list", good).returncode == 7
    assert [line for line in user.failed.splitlines() if line[0] != "#"] == ["HOST/team/app:2"]


def test_a_list_for_an_archive(user: User) -> None:
    listed = user.list("HOST/team/app:1", "HOST/team/app:2")
    assert user("pull", "--list", listed, "--out", user.home / "a.tar").returncode == 0
    assert (user.home / "a.tar").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pull", "--out", "x"), "pull: expected IMAGE, got none"),
        (("pull", "alpine", "--list", "LIST", "--out", "x"), "pull: expected no IMAGE beside a list, got 'alpine'"),
        (("lock",), "lock: expected LIST, got none"),
        (("verify",), "verify: expected SRC, got none"),
        (("unpack",), "unpack: expected SRC and ROOTFS, got none"),
        (("unpack", "--list", "LIST"), "unpack: expected a directory for the trees of a list, got none"),
    ],
)
def test_what_is_missing_is_named(user: User, words: tuple[str, ...], message: str) -> None:
    listed = user.list("HOST/team/app:1")
    ended = user(*(str(listed) if word == "LIST" else word for word in words))
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (2, f"ociexport: error: {message}")


def test_a_list_is_pulled_on_processes(user: User) -> None:
    listed = user.list("HOST/team/app:1", "HOST/team/app:none", "HOST/team/app:2", "HOST/team/app:3")
    ended = user("pull", "--list", listed, "--out", user.home / "layout", "--executor", "processes:2")
    assert (ended.returncode, user.listed()) == (3, digests("1", "2", "3"))
    assert [line for line in user.failed.splitlines() if line[0] != "#"] == ["HOST/team/app:none"]


@pytest.mark.filterwarnings("default")  # what the cluster's own parts warn of is not ours
def test_a_list_is_pulled_on_a_dask_cluster(user: User) -> None:
    distributed: Any = pytest.importorskip("distributed")
    listed = user.list("HOST/team/app:1", "HOST/team/app:none", "HOST/team/app:2")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        words: list[str | Path] = [
            "pull",
            "--list",
            listed,
            "--out",
            user.home / "layout",
            "--failed",
            user.home / "failed.txt",
        ]
        ended = subprocess.run(
            [sys.executable, "-m", "ociexport", *words, "--executor", f"dask:{cluster.scheduler_address}"],
            env=command_environment(user.home, DOCKER_DEFAULT_PLATFORM="linux/amd64"),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert (ended.returncode, user.listed()) == (3, digests("1", "2")), ended.stderr
    assert [line for line in user.failed.splitlines() if line[0] != "#"] == ["HOST/team/app:none"]


@pytest.mark.parametrize("text", ["threads", "dask:", "processes:0", "processes:x"])
def test_other_executors_are_refused(user: User, text: str) -> None:
    listed = user.list("HOST/team/app:1")
    ended = user("pull", "--list", listed, "--out", user.home / "layout", "--executor", text)
    assert ended.returncode == 2
    assert ended.stderr.startswith("ociexport: error: --executor")
    assert user.registry.requests == []


@pytest.mark.parametrize("out", ["update", "update.tar"])
def test_a_list_is_pulled_as_an_update(user: User, out: str) -> None:
    """Issue 17's ``--since`` beside a list: what the far side has is left out, and `merge` makes all of it whole."""
    assert user("pull", "--list", user.list("HOST/team/app:1"), "--out", user.home / "layout").returncode == 0
    listed = user.list("HOST/team/app:2", "HOST/team/app:3")
    words = ("--since", user.home / "layout", "--out", user.home / out, "--json")
    ended = user("pull", "--list", listed, *words)
    assert ended.returncode == 0, ended.stderr
    assert [(image["newBlobs"], image["expectedBlobs"]) for image in json.loads(ended.stdout)["images"]] == [(1, 1)] * 2
    assert "expects 1 blob" in ended.stderr
    assert user.run("merge", user.home / "layout", user.home / out).returncode == 0
    assert user.listed() == digests("1", "2", "3")
    assert user("verify", user.home / "layout", "--list", listed).returncode == 0


def test_a_list_is_pulled_into_volumes(user: User) -> None:
    words = ("--volume-size", "20K", "--out", user.home / "all.tar")
    assert user("pull", "--list", user.list("HOST/team/app:1", "HOST/team/app:2"), *words).returncode == 0
    volumes = sorted(user.home.glob("all.*-of-*.tar"))
    assert volumes
    assert user.run("merge", user.home / "layout", *volumes).returncode == 0
    assert user.listed() == digests("1", "2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("pull", "--all-images", "--out", "x"),
            "--all-images: expected no list beside it, which names each image, got one",
        ),
        (
            ("pull", "--since", "have", "--executor", "processes:1", "--out", "x"),
            "--executor: expected no --since beside it, what it names is read on this machine",
        ),
        (("verify", "a", "b"), "verify: expected one SRC beside --list, got 2 sources"),
        (
            ("verify", "--against", "-"),
            "-: expected a file beside --list, which reads it for each image, got standard input",
        ),
        (("verify", "--repair"), "--repair: expected no --list beside it, got one"),
    ],
)
def test_what_fits_no_list_is_refused(user: User, words: tuple[str, ...], message: str) -> None:
    (user.home / "have").write_text(f"{IMAGES['1'].layers[0].digest}\n")
    words = tuple(str(user.home / word) if word in ("have", "x") else word for word in words)
    ended = user(*words, "--list", user.list("HOST/team/app:1"))
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (2, f"ociexport: error: {message}")
    assert user.registry.requests == []
