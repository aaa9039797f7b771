"""`ociexport push --list`: one list, one client, each blob once, and one image that fails does not end the others.

Source: issue 18, "Push" and "Lists and locks".
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ociexport.cli.main import main
from tests.support.command import clear_foreign_variables
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import AMD64, ARM64, BuiltImage, build_image, build_index, write_layout
from tests.support.memory_source import member

BASE = [member("base", os.urandom(100_000))]
APP = build_image([BASE, [member("app")]], platform=AMD64)
WEB = build_image([BASE, [member("web")]], platform=AMD64)
ARM = build_image([[member("arm")]], platform=ARM64)
BOTH = build_index([APP, ARM])


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        return next(line for line in self.err.splitlines() if line.startswith("ociexport: error: "))


class User:
    """Runs commands in a directory of their own; FROM and TO stand for two registries."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str], origin: FakeRegistry, to: FakeRegistry) -> None:
        self.home, self._capsys, self.origin, self.to = home, capsys, origin, to

    def _named(self, text: str) -> str:
        return text.replace("FROM", self.origin.host).replace("TO", self.to.host)

    def write_list(self, *lines: str, name: str = "list") -> str:
        (self.home / name).write_text(self._named("".join(f"{line}\n" for line in lines)))
        return name

    def __call__(self, *words: str) -> Ended:
        code = main([*map(self._named, words), "--retry-times", "0"])
        out, err = self._capsys.readouterr()
        return Ended(code, out.replace(self.origin.host, "FROM").replace(self.to.host, "TO"), err)

    @property
    def failed(self) -> list[str]:
        lines = (self.home / "failed.txt").read_text().replace(self.origin.host, "FROM").splitlines()
        return [line for line in lines if not line.startswith("#")]

    def tags(self) -> dict[str, BuiltImage]:
        """Return the image of each tag at the destination."""
        images = {image.raw: image for image in (APP, WEB, ARM, BOTH)}
        return {
            f"{repository}:{selector}": images[raw]
            for (repository, selector), (raw, _) in self.to.manifests.items()
            if ":" not in selector
        }


@pytest.fixture
def user(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    clear_foreign_variables(monkeypatch, tmp_path)
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/amd64")
    monkeypatch.chdir(tmp_path)
    with FakeRegistry() as origin, FakeRegistry() as to:
        for name, tag, image in (("team/app", "1", BOTH), ("team/web", "2", WEB)):
            image.serve(origin, name, tag)
        yield User(tmp_path, capsys, origin, to)


def at(user: User, path: str) -> str:
    """Return the path that an image of the first registry gets below a prefix."""
    return f"{user.origin.host.replace(':', '-')}/{path}"


def sent(registry: FakeRegistry) -> list[str]:
    return [f"{one.method} {one.path}" for one in registry.requests if one.method not in ("GET", "HEAD")]


def test_a_list_is_pushed_from_where_its_names_lead(user: User) -> None:
    """A line's platform is kept; the blob that both have is sent once and mounted."""
    user.write_list("FROM/team/app:1 platform=linux/amd64  # one of two", "FROM/team/web:2")
    ended = user("push", "--list", "list", "TO/far", "--json")
    assert ended.code == 0, ended.err
    assert user.tags() == {f"far/{at(user, 'team/app:1')}": APP, f"far/{at(user, 'team/web:2')}": WEB}
    assert [image["mountedBlobs"] for image in json.loads(ended.out)["images"]] == [0, 1]
    assert user.to.uploads.received_bytes == sum(map(len, user.to.blobs.values()))
    assert str(ARM.layers[0].digest) not in user.to.blobs
    user.to.requests.clear()
    ended = user("push", "--list", "list", "TO/far", "--json")
    assert [(image["sentBlobs"], image["mountedBlobs"]) for image in json.loads(ended.out)["images"]] == [(0, 0)] * 2
    assert sent(user.to) == []


@pytest.mark.parametrize("lines", [("", "platform=linux/amd64"), ("platform=linux/arm64", "platform=linux/amd64")])
def test_one_image_has_the_platforms_of_all_its_lines(user: User, lines: tuple[str, ...]) -> None:
    """A line without a platform takes all, as push does; two services of a compose file may differ in that."""
    user.write_list(*(f"FROM/team/app:1 {line}" for line in lines))
    ended = user("push", "--list", "list", "TO/far", "-q")
    assert ended.code == 0, ended.err
    assert len(ended.out.splitlines()) == 1
    assert str(BOTH.digest) in ended.out


def test_an_image_that_fails_does_not_end_the_list(user: User) -> None:
    """Its line is in failed.txt, which is the next list; a tag in the way is such a failure too."""
    ARM.serve(user.to, at(user, "team/web"), "2")
    user.write_list("FROM/team/none:1 platform=all", "FROM/team/web:2", "./gone", "FROM/team/app:1")
    ended = user("push", "--list", "list", "TO", "--json", "--map", "*/none=nowhere")
    assert ended.code == 3
    assert sorted(user.failed) == ["./gone", "FROM/team/none:1 platform=all", "FROM/team/web:2"]
    assert user.tags() == {at(user, "team/app:1"): BOTH, at(user, "team/web:2"): ARM}
    told = json.loads(ended.out)
    assert ([image["name"] for image in told["images"]], [one["exitCode"] for one in told["failures"]]) == (
        ["FROM/team/app:1"], [3, 3, 2],
    )  # fmt: skip
    # The rule fits no line of the next list, which is no mistake.
    WEB.serve(user.origin, "team/none", "1")
    write_layout(user.home / "gone", {"docker.io/library/late:1": WEB})
    ended = user("push", "--list", "failed.txt", "TO", "--move-tags", "--map", "*/app=x")
    assert ended.code == 0, ended.err
    assert "--map */app=x: expected a pattern that an image matches, there is none" in ended.err
    assert user.tags()[at(user, "team/web:2")] is WEB
    assert user.tags()["docker.io/library/late:1"] is WEB
    assert not (user.home / "failed.txt").exists()


def test_the_images_of_a_list_are_taken_from_a_layout(user: User) -> None:
    """They are found by their names, whatever else the layout has; no request leads to the first registry."""
    user.write_list("FROM/team/app:1", "FROM/team/web:2", name="all")
    assert user("pull", "--list", "all", "-o", "layout").code == 0
    assert user("pull", "--list", "all", "-o", "saved.tar").code == 0
    user.origin.requests.clear()
    user.write_list("FROM/team/web:2", "FROM/team/none:1")
    for number, place in enumerate(("./layout", "./saved.tar", "oci:layout")):
        ended = user("push", place, "--list", "list", f"TO/{number}")
        assert (ended.code, user.failed) == (3, ["FROM/team/none:1"]), ended.err
        assert user.tags().pop(f"{number}/{at(user, 'team/web:2')}") is WEB
    assert not any("app" in name for name in user.tags())
    assert user.origin.requests == []


@pytest.mark.parametrize("place", [(), ("./layout",)], ids=["where it comes from", "in a layout"])
def test_a_lock_file_pins_the_digests(user: User, place: tuple[str, ...]) -> None:
    """Tags that moved since are not asked for; the name keeps its tag."""
    user.write_list("FROM/team/app:1", "FROM/team/web:2")
    ended = user("lock", "list")
    (user.home / "images.lock").write_text(user._named(ended.out))
    assert user("pull", "--locked", "images.lock", "-o", "layout").code == 0
    WEB.serve(user.origin, "team/app", "1")
    assert user("pull", "FROM/team/app:1", "-o", "layout").code == 0  # the name in the layout has moved too
    ended = user("push", *place, "--list", "images.lock", "TO", "--map", "FROM/team/*=hub/*")
    assert ended.code == 0, ended.err
    assert user.tags() == {"hub/app:1": APP, "hub/web:2": WEB}


def test_what_failed_of_a_lock_file_is_found_in_the_same_layout(user: User) -> None:
    """The layout has one platform of what is published, and lists that one's digest."""
    user.write_list("FROM/team/app:1", "FROM/team/web:2")
    (user.home / "images.lock").write_text(user._named(user("lock", "list").out))
    assert user("pull", "--locked", "images.lock", "-o", "layout").code == 0
    lost = user.home / "layout/blobs/sha256" / APP.layers[1].digest.encoded
    kept = lost.read_bytes()
    lost.unlink()
    for words in (("push", "./layout", "TO"), ("verify", "./layout"), ("unpack", "./layout", "trees", "--rootless")):
        assert user(*words, "--list", "images.lock").code in (3, 7)
        assert user.failed == [f"FROM/team/app:1@{APP.digest} platform=linux/amd64"]
        lost.write_bytes(kept)
        ended = user(*words, "--list", "failed.txt")
        assert ended.code == 0, ended.err
        lost.unlink()
    assert user.tags() == {at(user, "team/app:1"): APP, at(user, "team/web:2"): WEB}


def test_a_digest_in_a_line_is_looked_for_in_the_layout(user: User) -> None:
    """An index that pull did not keep is not replaced by the image of one platform, unasked."""
    user.write_list(f"FROM/team/app:1@{BOTH.digest}")
    assert user("pull", "--list", "list", "-o", "one").code == 0
    ended = user("push", "./one", "--list", "list", "TO")
    assert (ended.code, user.tags()) == (3, {})
    assert "hint: the list names an index, which pull keeps with --sparse or --all" in ended.err
    assert user("pull", "--list", "list", "-o", "all", "--all").code == 0
    assert user("push", "./all", "--list", "list", "TO").code == 0
    assert user.tags() == {at(user, "team/app:1"): BOTH}


def test_a_locked_image_of_a_layout_must_be_the_locked_one(user: User) -> None:
    write_layout(user.home / "layout", {"docker.io/library/app:1": APP})
    user.write_list("./layout:docker.io/library/app:1")
    (user.home / "images.lock").write_text(user("lock", "list").out)
    write_layout(user.home / "layout", {"docker.io/library/app:1": WEB})
    ended = user("push", "--list", "images.lock", "TO")
    assert (ended.code, user.tags()) == (7, {})
    assert f"digest mismatch: expected {APP.digest}, got {WEB.digest}" in ended.err


def test_a_mapping_is_written_of_what_was_pushed(user: User) -> None:
    user.write_list("FROM/team/app:1", "FROM/team/none:1", "FROM/team/web:2")
    words = ("--mapping", "out", "--config-for", "podman", "--map", "FROM/team/*=hub/*")
    assert user("push", "--list", "list", "TO", *words).code == 3
    mapping = (user.home / "out" / "mapping.txt").read_text().replace(user.origin.host, "FROM")
    assert mapping.replace(user.to.host, "TO").splitlines() == [
        f"FROM/team/app:1=TO/hub/app:1@{BOTH.digest}",
        f"FROM/team/web:2=TO/hub/web:2@{WEB.digest}",
    ]
    assert "hub/web" in (user.home / "out" / "registries.conf").read_text()


def test_a_dry_run_tells_all_and_changes_nothing(user: User) -> None:
    user.write_list("FROM/team/app:1 platform=linux/amd64", "FROM/team/none:1", "FROM/team/web:2")
    (user.home / "failed.txt").write_text("mine\n")
    ended = user("push", "--list", "list", "TO", "--dry-run", "--json")
    assert (ended.code, sent(user.to)) == (3, [])
    told = json.loads(ended.out)
    assert [image["name"] for image in told["images"]] == ["FROM/team/app:1", "FROM/team/web:2"]
    assert [one["image"] for one in told["failures"]] == ["FROM/team/none:1"]
    assert (told["mountBlobs"], told["thereBlobs"], told["sendBlobs"]) == (1, 0, 5)
    assert (user.home / "failed.txt").read_text() == "mine\n"
    assert "to send: 5 blobs" in user("push", "--list", "list", "TO", "--dry-run").out


@pytest.mark.parametrize(
    ("lines", "words", "said"),
    [
        (("FROM/team/app:1", "FROM/team/web:1"), ("--map", "*=x"), "expected one image with this name, got two"),
        (("FROM/team/app:1", "FROM/team/web:2"), ("NAME:TAG",), "expected one image for one name, got 2 images"),
        (("FROM/team/app:1",), ("./a", "./b", "TO"), "push: expected one SRC beside --list, got 2 sources"),
        (("FROM/team/app:1",), ("alpine", "TO"), "push: expected a layout or an archive beside --list, got 'alpine'"),
        (("FROM/team/app:1",), ("./a:tag", "TO"), "push: expected a layout or an archive beside --list, got './a:tag'"),
        (("FROM/team/app:1",), ("--config-for", "k3s"), "--config-for: expected --mapping DIR too, got none"),
    ],
)
def test_what_fits_no_list_is_an_error_before_any_request(
    user: User, lines: tuple[str, ...], words: tuple[str, ...], said: str
) -> None:
    user.write_list(*lines)
    words = tuple("TO/name:tag" if word == "NAME:TAG" else word for word in words)
    target = () if any(word.startswith("TO") for word in words) else ("TO",)
    ended = user("push", "--list", "list", *words, *target)
    assert ended.code == 2
    assert said in ended.error
    assert user.origin.requests == user.to.requests == []
    assert not (user.home / "failed.txt").exists()


def test_credentials_are_for_the_destination_alone(user: User) -> None:
    """Also where the list itself and the tags that it chooses are read."""
    user.write_list("FROM/team/web tags=all")
    assert user("push", "--list", "list", "TO", "--creds", "user:pass", "-H", "X-Secret: s").code == 0
    assert all({"authorization", "x-secret"}.isdisjoint(one.headers) for one in user.origin.requests)
    assert [*user.tags().values()] == [WEB]


def test_push_without_a_list_needs_a_source(user: User) -> None:
    assert user("push", "TO").error == "ociexport: error: push: expected SRC and REGISTRY[/PREFIX], got one of them"
