"""A layout in S3: a source and a destination, whose blobs are verified before they have a key and whose names are safe
from other writers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest

from ociexport.cli.main import main
from ociexport.errors import DigestMismatchError, UsageError
from ociexport.images.source import ImageName
from ociexport.storage.layout.layout import ImageLayout
from ociexport.storage.s3.layout import S3Layout
from ociexport.transfer.copy_names import FilePlace, parse_copy_target
from ociexport.transfer.pull import pull
from ociexport.transfer.pull_many import pull_many
from ociexport.transfer.sources.names import RemoteLayoutName, parse_source_name
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import AMD64, ARM64, build_image, build_index, write_layout
from tests.support.memory_source import member
from tests.support.peak_memory import peak_of
from tests.support.s3_server import S3Server

ONE = build_image([[member("a", b"1")], [member("big", bytes(range(251)) * 50_000)]], compression="plain")
TWO = build_image([[member("a", b"2")]])
INDEX = build_index([build_image([[member("c", b"3")]], platform=platform) for platform in (AMD64, ARM64)])
BIG = ONE.layers[1]
BIG_KEY = f"l/blobs/sha256/{BIG.digest.encoded}"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A new bucket, of a store that behaves."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.conditions, server.denies, server.before = "obeyed", frozenset(), lambda method, path: None
    name = f"b{abs(hash(request.node.name)):x}"
    server.make_bucket(name)
    server.requests.clear()
    return name


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("here")
    write_layout(directory / "layout", {"1": ONE, "2": TWO, "docker.io/library/app:3": INDEX})
    return str(directory / "layout")


def names_in(server: S3Server, bucket: str, prefix: str = "l") -> list[str]:
    """Return the names that ``index.json`` lists."""
    listed = json.loads(server.read(bucket, f"{prefix}/index.json"))["manifests"]
    return [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in listed]


@pytest.mark.parametrize(
    ("text", "path", "image"),
    [
        ("s3://b/l", "s3://b/l", None),
        ("s3://b/p/l/", "s3://b/p/l", None),
        ("S3://b/l:1", "s3://b/l", "1"),
        ("s3://b:1", "s3://b", "1"),
        ("s3://b", "s3://b", None),
        ("s3://b.example/l:docker.io/library/app:1", "s3://b.example/l", "docker.io/library/app:1"),
        ("s3://b/l:@0", "s3://b/l", "@0"),
    ],
)
def test_an_s3_url_ends_at_its_first_colon(text: str, path: str, image: str | None) -> None:
    assert parse_source_name(text) == RemoteLayoutName(path, image)


def test_a_copy_gets_the_name_after_the_url() -> None:
    assert parse_copy_target("s3://b/l") == FilePlace("s3://b/l", "oci", None)
    assert parse_copy_target("s3://b/l:1") == FilePlace("s3://b/l", "oci", ImageName("1", None))
    named = ImageName("1", "docker.io/library/app:1")
    assert parse_copy_target("s3://b/l:docker.io/library/app:1") == FilePlace("s3://b/l", "oci", named)


def test_each_command_takes_a_layout_in_s3(
    server: S3Server, bucket: str, here: str, registry: FakeRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = f"s3://{bucket}/l"
    (tmp_path / "list").write_text(f"{here}:1\n{here}:2\n")
    (tmp_path / "far-list").write_text(f"{far}:1\n{far}:2\n")
    table: list[tuple[list[str], str]] = [
        (["pull", here, "--out", far, "--platform", "linux/amd64"], str(TWO.digest)),
        (["copy", f"{here}:docker.io/library/app:3", f"{far}:app", "--all"], str(INDEX.digest)),
        (["tags", far], "1\n2\ndocker.io/library/app:3\napp\n"),
        (["ls", f"{far}:1"], "/a\n/big\n"),
        (["cat", f"{far}@{TWO.digest}", "a"], "2"),
        (["inspect", f"{far}:2"], str(TWO.digest)),
        (["verify", "--deep", f"{far}:1"], ""),
        (["unpack", f"{far}:1", f"{tmp_path}/rootfs"], ""),
        (["pull", "--list", f"{tmp_path}/list", "--out", f"s3://{bucket}/listed", "--deep"], str(ONE.digest)),
        (["pull", "--list", f"{tmp_path}/far-list", "--out", f"{tmp_path}/listed"], str(ONE.digest)),
        (["copy", f"{far}:2", f"{tmp_path}/two.tar"], str(TWO.digest)),
        (["push", f"{far}:2", f"{registry.host}/two:2"], str(TWO.digest)),
        (["lock", "--list", f"{tmp_path}/far-list"], f'"source":"{far}:1"'),
    ]
    for words, expected in table:
        status = main([*words, "-q"] if words[0] not in ("tags", "inspect") else words)
        out, err = capsys.readouterr()
        assert (status, err) == (0, ""), words
        assert expected in out, words
    assert main(["pull", f"{far}:2", "--out", f"{tmp_path}/planned", "--dry-run"]) == 0
    assert (
        f"from s3://{bucket}, asked as the holder of an access key (from the AWS configuration)"
        in capsys.readouterr().out
    )
    assert (tmp_path / "rootfs" / "a").read_bytes() == b"1"
    assert sorted(names_in(server, bucket, "listed")) == ["1", "2"]
    keys = server.keys(bucket)
    assert server.read(bucket, "l/oci-layout") == b'{"imageLayoutVersion":"1.0.0"}'
    assert keys[BIG_KEY] == BIG.size > 2 * 5 * 1024 * 1024
    assert server.read(bucket, BIG_KEY) == ONE.blobs[BIG.digest]
    assert server.uploads(bucket) == 0


def test_what_is_there_is_not_sent_again(server: S3Server, bucket: str, here: str) -> None:
    """A blob whose key has an object of its size is not sent, and index.json is left alone if it says the same."""
    far = f"s3://{bucket}/l"
    assert main(["pull", f"{here}:1", "-q", "--out", far]) == 0
    assert any(method == "PUT" for method, _ in server.requests)
    server.requests.clear()
    assert main(["pull", f"{here}:1", "-q", "--out", far]) == 0
    assert {method for method, _ in server.requests} <= {"GET", "HEAD"}
    server.client.put_object(Bucket=bucket, Key=BIG_KEY, Body=b"cut")
    assert main(["pull", f"{here}:1", "-q", "--out", far]) == 0
    assert server.keys(bucket)[BIG_KEY] == BIG.size


@pytest.mark.parametrize("which", ["one part", "several parts"])
def test_a_blob_has_no_key_unless_it_is_right(server: S3Server, bucket: str, tmp_path: Path, which: str) -> None:
    """The upload of wrong bytes is aborted; what others see is never more than whole blobs."""
    write_layout(tmp_path / "l", {"1": ONE, "2": TWO})
    image, layer = (ONE, BIG) if which == "several parts" else (TWO, TWO.layers[0])
    blob = tmp_path / "l" / "blobs" / "sha256" / layer.digest.encoded
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with pytest.raises(DigestMismatchError):
        pull(f"{tmp_path}/l:{'1' if image is ONE else '2'}", f"s3://{bucket}/l")
    assert not any(layer.digest.encoded in key for key in server.keys(bucket))
    assert "l/index.json" not in server.keys(bucket)
    assert server.uploads(bucket) == 0
    assert any(method == "POST" for method, _ in server.requests) == (image is ONE)


@pytest.mark.parametrize("conditions", ["obeyed", "ignored", "refused"])
def test_names_of_another_writer_are_kept(
    server: S3Server,
    bucket: str,
    here: str,
    capsys: pytest.CaptureFixture[str],
    conditions: Literal["obeyed", "ignored", "refused"],
) -> None:
    """Another writer changes index.json after we have read it, the moment before we write or ask once more."""
    far = f"s3://{bucket}/l"
    assert main(["pull", f"{here}:2", "-q", "--out", far]) == 0
    server.conditions = conditions
    theirs = json.loads(server.read(bucket, "l/index.json"))
    theirs["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] = "theirs"
    moment = ("PUT" if conditions == "obeyed" else "HEAD", f"/{bucket}/l/index.json")
    left = [json.dumps(theirs).encode()]

    def before(method: str, path: str) -> None:
        if (method, path) == moment and left:
            server.client.put_object(Bucket=bucket, Key="l/index.json", Body=left.pop())

    server.before = before
    capsys.readouterr()
    assert main(["pull", f"{here}:docker.io/library/app:3", "-q", "--out", far]) == 0
    assert left == []
    assert names_in(server, bucket) == ["theirs", "3"]
    told = capsys.readouterr().err
    alone = "so two writers can't be kept apart: let only one run at a time write to this layout"
    said = {"obeyed": "", "ignored": "ignores", "refused": "refuses"}[conditions]
    warning = f"ociexport: warning: {far}: the store {said} conditions of writes, {alone}\n"
    assert told == (warning if said else "")


def test_many_writers_at_once_lose_no_name(server: S3Server, bucket: str) -> None:
    def write(number: int) -> None:
        with closing(S3Layout(f"s3://{bucket}/l")) as layout, layout.begin():
            layout.write_name(TWO.descriptor, ImageName(f"n{number}", None))

    with ThreadPoolExecutor(6) as workers:
        list(workers.map(write, range(6)))
    assert sorted(names_in(server, bucket)) == [f"n{number}" for number in range(6)]


def test_names_of_a_list_are_written_together(server: S3Server, bucket: str, here: str) -> None:
    outcomes = list(pull_many([f"{here}:docker.io/library/app:3", f"{here}:2", f"{here}:9"], f"s3://{bucket}/l"))
    assert sorted(outcome.error is None for outcome in outcomes) == [False, True, True]
    assert sorted(names_in(server, bucket)) == ["2", "3"]
    assert [path for method, path in server.requests if method == "PUT"].count(f"/{bucket}/l/index.json") <= 2


def test_unknown_members_of_the_index_are_kept(server: S3Server, bucket: str, here: str) -> None:
    assert main(["pull", f"{here}:2", "-q", "--out", f"s3://{bucket}/l"]) == 0
    index = json.loads(server.read(bucket, "l/index.json"))
    index["annotations"] = {"x": "y"}
    server.client.put_object(Bucket=bucket, Key="l/index.json", Body=json.dumps(index).encode())
    assert main(["pull", f"{here}:docker.io/library/app:3", "-q", "--out", f"s3://{bucket}/l"]) == 0
    assert json.loads(server.read(bucket, "l/index.json"))["annotations"] == {"x": "y"}


ERRORS: list[tuple[str, list[str], int, str, str]] = [
    (
        "no bucket",
        ["tags", "s3://nowhere/l"],
        3,
        "s3://nowhere: there is no such bucket",
        "",
    ),
    (
        "no bucket to write to",
        ["pull", "HERE:1", "--out", "s3://nowhere/l", "-q"],
        3,
        "s3://nowhere: there is no such bucket",
        "",
    ),
    ("no layout", ["tags", "s3://BUCKET/l"], 3, "s3://BUCKET/l: expected an OCI layout, got no index.json there", ""),
    (
        "denied",
        ["tags", "s3://BUCKET/l"],
        4,
        "get_object s3://BUCKET/l/index.json: AccessDenied: Access Denied",
        "these credentials may not do this there; without the right to list, a missing object is refused too",
    ),
    (
        "denied to write",
        ["pull", "HERE:2", "--out", "s3://BUCKET/l", "-q"],
        4,
        f"put_object s3://BUCKET/l/blobs/sha256/{TWO.config.digest.encoded}: AccessDenied: Access Denied",
        "these credentials may not do this there; without the right to list, a missing object is refused too",
    ),
    (
        "no credentials",
        ["tags", "s3://BUCKET/l"],
        4,
        "get_object s3://BUCKET/l/index.json: Unable to locate credentials",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    ),
    (
        "unreachable",
        ["tags", "s3://BUCKET/l", "--retry-times", "0"],
        5,
        "get_object s3://BUCKET/l/index.json: Could not connect to the endpoint URL: "
        '"http://127.0.0.1:9/BUCKET/l/index.json"',
        "check the network, the region (AWS_REGION) and the endpoint (AWS_ENDPOINT_URL)",
    ),
    (
        "other objects",
        ["pull", "HERE:2", "--out", "s3://BUCKET/other", "-q"],
        2,
        "s3://BUCKET/other: expected an OCI layout or an empty prefix, got other objects",
        "choose another prefix for the layout",
    ),
    (
        "an archive",
        ["pull", "HERE:2", "--out", "s3://BUCKET/x.tar"],
        2,
        "--out 's3://BUCKET/x.tar': expected a layout, got an archive, which can't be written to S3",
        "",
    ),
    (
        "a name",
        ["pull", "HERE:2", "--out", "s3://BUCKET/l:1"],
        2,
        "--out 's3://BUCKET/l:1': expected a layout without a name, got '1' after it",
        "to name one copy: ociexport copy IMAGE s3://BUCKET/l:1",
    ),
    (
        "a web server",
        ["pull", "HERE:2", "--out", "https://files.example/l"],
        2,
        "--out 'https://files.example/l': expected a place that can be written to: a path or s3://BUCKET/PATH, got a "
        "web server",
        "",
    ),
    (
        "a dry run",
        ["pull", "HERE:2", "--out", "s3://BUCKET/l", "--dry-run"],
        2,
        "--dry-run: expected a place on this machine, got 's3://BUCKET/l'",
        "",
    ),
    (
        "no s3fs",
        ["tags", "s3://BUCKET/l"],
        2,
        "s3://BUCKET: expected s3fs for a layout in S3, it is not installed",
        "pip install 'ociexport[s3]'",
    ),
    (
        "the same layout",
        ["copy", "s3://BUCKET/l:2", "s3://BUCKET/l:3"],
        2,
        "'s3://BUCKET/l': expected an image from elsewhere, got the layout that --out names",
        "docker:// before a name makes it an image reference",
    ),
]


@pytest.mark.parametrize(("case", "words", "code", "message", "hint"), ERRORS, ids=[case[0] for case in ERRORS])
def test_what_is_wrong_is_said_in_one_line(
    server: S3Server,
    bucket: str,
    here: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: str,
    words: list[str],
    code: int,
    message: str,
    hint: str,
) -> None:
    server.client.put_object(Bucket=bucket, Key="other/file", Body=b"x")
    if case == "denied":
        server.denies = frozenset({"GET"})
    elif case == "denied to write":
        server.denies = frozenset({"PUT"})
        words = [*words, "--jobs", "1"]
    elif case == "no credentials":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    elif case == "unreachable":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    elif case == "no s3fs":
        monkeypatch.setitem(sys.modules, "s3fs", None)
    assert main([word.replace("BUCKET", bucket).replace("HERE", here) for word in words]) == code
    told = capsys.readouterr().err.replace(bucket, "BUCKET")
    assert told == f"ociexport: error: {message}\n" + (f"hint: {hint}\n" if hint else "")
    assert "not-so-secret" not in told


def test_a_cut_body_goes_on_where_it_broke(server: S3Server, bucket: str, here: str, tmp_path: Path) -> None:
    """A body shorter than the object: the rest is asked for by range."""
    assert main(["pull", f"{here}:1", "-q", "--out", f"s3://{bucket}/l"]) == 0
    server.cuts = [1_000_000]
    server.cut_path = f"/{bucket}/{BIG_KEY}"
    assert main(["pull", f"s3://{bucket}/l:1", "-q", "--out", str(tmp_path / "o")]) == 0
    assert ImageLayout(tmp_path / "o").size_of_valid_blob(BIG.digest) == BIG.size
    assert server.cuts == []


def test_cache_and_names_are_for_other_places(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected no cache for a layout in S3, got one"):
        list(pull_many(["./x"], f"s3://{bucket}/l", cache=tmp_path))


def test_the_real_command_needs_little_memory(server: S3Server, bucket: str, here: str, tmp_path: Path) -> None:
    """Issue 18: at most 64 MiB more than a copy of a tiny image takes, which is what the libraries take."""
    layers = [[member(f"f{number}", bytes([number]) * 12_000_000)] for number in range(4)]
    write_layout(tmp_path / "large", {"1": build_image(layers, compression="plain")})
    tiny = peak_of("copy", f"{here}:2", f"s3://{bucket}/tiny", home=tmp_path)
    large = peak_of("copy", f"{tmp_path}/large:1", f"s3://{bucket}/large", home=tmp_path)
    assert (tiny.status, large.status) == (0, 0), large.stderr
    assert large.peak_bytes - tiny.peak_bytes <= 64 * 1024 * 1024
    ended = run_command("tags", f"s3://{bucket}/large", home=tmp_path, variables=server.environment)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "1\n", "")
