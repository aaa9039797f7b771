"""A layout that a web server serves as files is a source, and blobs come the way that a registry's do."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ociexport.cli.main import main
from ociexport.errors import InvalidReferenceError, UsageError
from ociexport.images.source import is_remote
from ociexport.registry.options import RegistryOptions
from ociexport.spec.digest import Digest
from ociexport.storage.index import ListedImage
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.pull import pull
from ociexport.transfer.sources.names import RemoteLayoutName, parse_source_name
from ociexport.transfer.sources.open import open_source
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.file_server import FileServer
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member
from tests.support.tls import Authority

ONE = build_image([[member("a", b"1")], [member("big", bytes(range(256)) * 16384)]], compression="plain")
TWO = build_image([[member("a", b"2")]])
BIG = ONE.layers[1].digest
BIG_PATH = f"/layout/blobs/sha256/{BIG.encoded}"
FAST = RegistryOptions(retry_delay_seconds=0.01)
EXPECTED = "the URL must be that of a directory with oci-layout, index.json and blobs/"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("www")
    write_layout(directory / "layout", {"1": ONE, "2": TWO})
    write_layout(directory / "only", {"docker.io/library/app:1": TWO})
    return directory


@pytest.fixture
def server(files: Path) -> Iterator[FileServer]:
    with FileServer(files) as server:
        yield server


@pytest.mark.parametrize(
    ("text", "path", "image"),
    [
        ("https://h/l", "https://h/l", None),
        ("https://h/l/", "https://h/l", None),
        ("HTTPS://h/l:1", "https://h/l", "1"),
        ("https://h:8443/a/b/l:1", "https://h:8443/a/b/l", "1"),
        ("https://h:8443", "https://h:8443", None),
        ("https://[::1]:5/l:1", "https://[::1]:5/l", "1"),
        ("http://h/l:docker.io/library/app:1", "http://h/l", "docker.io/library/app:1"),
        ("https://h/l:@2", "https://h/l", "@2"),
        (f"https://h/l@sha256:{'a' * 64}", "https://h/l", f"@sha256:{'a' * 64}"),
        ("https://h/a%3Ab/l:1", "https://h/a%3Ab/l", "1"),
        ("https://registry.example/layout/:1", "https://registry.example/layout", "1"),
        ("https://registry.example/layout/", "https://registry.example/layout", None),
        ("https://files.example", "https://files.example", None),
    ],
)
def test_a_url_ends_at_the_first_colon_of_its_path(text: str, path: str, image: str | None) -> None:
    assert parse_source_name(text) == RemoteLayoutName(path, image)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("https://registry.example/v2/library/app/manifests/1", "did you mean registry.example/library/app:1?"),
        (
            f"https://registry.example/v2/app/manifests/sha256:{'a' * 64}",
            f"did you mean registry.example/app@sha256:{'a' * 64}?",
        ),
        ("https://registry.example/v2/team/app/tags/list", "did you mean registry.example/team/app?"),
        ("https://hub.docker.com/_/alpine", "did you mean docker.io/library/alpine?"),
        ("https://hub.docker.com/r/grafana/grafana/tags", "did you mean docker.io/grafana/grafana?"),
        ("https://docker.io/library/alpine:3", "did you mean docker.io/library/alpine:3?"),
        ("https://quay.io/repository/prometheus/node-exporter", "did you mean quay.io/prometheus/node-exporter?"),
        ("https://registry.example/team/app:1", "did you mean registry.example/team/app:1?"),
        ("https://ghcr.io/a/b", "did you mean ghcr.io/a/b?"),
        ("https://eu.gcr.io/a/b:1", "did you mean eu.gcr.io/a/b:1?"),
        ("https://europe-docker.pkg.dev/p/r/a:1", "did you mean europe-docker.pkg.dev/p/r/a:1?"),
    ],
)
def test_a_pasted_url_of_a_registry_keeps_its_hint(text: str, hint: str) -> None:
    """Without a request: these can't be layouts."""
    with pytest.raises(InvalidReferenceError) as raised:
        parse_source_name(text)
    assert raised.value.hint == hint
    assert str(raised.value) == f"image reference '{text}': registry: expected host[:port], got 'https:'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://me:secret@h/l", "source 'https://h/l': expected a URL without user and password"),
        ("https://h/l?sig=secret", "source 'https://h/l?…': expected a URL without query and fragment"),
        ("https:///l", "source 'https:///l': expected a URL with a host"),
    ],
)
def test_a_url_with_a_secret_is_refused_and_the_secret_not_shown(text: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_source_name(text)
    assert str(raised.value) == message


def test_http_is_for_loopback_and_plain_http() -> None:
    with pytest.raises(UsageError) as raised:
        open_source("http://files.example/l:1")
    assert str(raised.value) == "layout http://files.example/l: expected https, got http"


def names_in(layout: Path) -> list[ListedImage]:
    return ImageLayout(layout).read_images()


def test_each_command_that_takes_a_layout_takes_its_url(
    server: FileServer, registry: FakeRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Issue 18: a layout served as files, with a name, or without one for all images or the only one."""
    far, only = f"{server.url}/layout", f"{server.url}/only"
    listed = f"# two\n{far}:1\n{only}\n"
    (tmp_path / "list").write_text(listed)
    table: list[tuple[list[str], str]] = [
        (["tags", far], "1\n2\n"),
        (["ls", f"{far}:1"], "/a\n/big\n"),
        (["cat", f"{far}@{TWO.digest}", "a"], "2"),
        (["which-layer", f"{far}:1", "a"], "1 of 2"),
        (["inspect", only], str(TWO.digest)),
        (["inspect", far], f"{ONE.digest}  "),
        (["verify", "--deep", f"{far}:1"], ""),
        (["unpack", f"{far}:1", f"{tmp_path}/rootfs"], ""),
        (["pull", far, "--out", f"{tmp_path}/all"], str(TWO.digest)),
        (["pull", "--list", f"{tmp_path}/list", "--out", f"{tmp_path}/listed"], str(ONE.digest)),
        (["copy", only, f"{tmp_path}/only.tar"], str(TWO.digest)),
        (["push", only, f"{registry.host}/mirror"], str(TWO.digest)),
        (["lock", "--list", f"{tmp_path}/list"], f'"source":"{far}:1"'),
    ]
    for words, expected in table:
        status = main([*words, "-q"] if words[0] not in ("tags", "inspect") else words)
        out, err = capsys.readouterr()
        assert (status, err) == (0, ""), words
        assert expected in out, words
    assert (tmp_path / "rootfs" / "a").read_bytes() == b"1"
    assert [name.tag for _, name in names_in(tmp_path / "all")] == ["1", "2"]
    assert {name.full or name.tag for _, name in names_in(tmp_path / "listed")} == {"1", "docker.io/library/app:1"}
    assert ("mirror/docker.io/library/app", "1") in registry.manifests


def test_all_images_of_one_layout_need_one_list(server: FileServer, tmp_path: Path) -> None:
    assert main(["pull", f"{server.url}/layout", f"{server.url}/layout:1", "-q", "--out", str(tmp_path / "o")]) == 0
    assert server.paths.count("/layout/index.json") == 1


def test_only_files_of_the_layout_are_requested(server: FileServer, tmp_path: Path) -> None:
    """The server has no API, so nothing is asked to find one."""
    assert main(["pull", f"{server.url}/layout:1", "-q", "--out", str(tmp_path / "o")]) == 0
    assert server.paths
    assert [path for path in server.paths if not path.startswith("/layout/")] == []


def test_a_cut_blob_goes_on_where_it_broke(server: FileServer, tmp_path: Path) -> None:
    size = ONE.layers[1].size
    server.cut = {BIG_PATH: [1_000_000, 2_000_000]}
    pull(f"{server.url}/layout:1", tmp_path / "o", registry=FAST)
    assert [part for path, part in server.requests if path == BIG_PATH] == [
        None,
        "bytes=1000000-",
        "bytes=3000000-",
    ]
    assert size > 3_000_000


def test_an_interrupted_pull_continues_in_the_next_run(server: FileServer, tmp_path: Path) -> None:
    server.cut = {BIG_PATH: [1_000_000, 0]}
    out = tmp_path / "o"
    command = ["pull", f"{server.url}/layout:1", "-q", "--out", str(out)]
    assert main([*command, "--retry-times", "0"]) == 5
    server.requests.clear()
    server.cut = {}
    assert main(command) == 0
    [part] = [part for path, part in server.requests if path == BIG_PATH]
    assert part is not None
    assert part != "bytes=0-"


def test_a_server_without_ranges_sends_the_whole_again(server: FileServer, tmp_path: Path) -> None:
    server.ranges = False
    server.cut = {BIG_PATH: [1_000_000]}
    pull(f"{server.url}/layout:1", tmp_path / "o", registry=FAST)
    assert ImageLayout(tmp_path / "o").size_of_valid_blob(BIG) is not None


def test_wrong_bytes_are_fetched_once_more_and_never_stored(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.changes[BIG_PATH] = bytes(ONE.layers[1].size)
    assert main(["pull", f"{server.url}/layout:1", "--out", str(tmp_path / "o"), "-q"]) == 7
    assert "digest mismatch" in capsys.readouterr().err
    assert server.paths.count(BIG_PATH) == 2
    assert not (tmp_path / "o").exists()


def test_credentials_are_sent_where_they_are_asked_for(
    server: FileServer, tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not to the server that the first one redirects to. An auth file may have them for a part of a server."""
    server.user = "me:secret"
    encoded = base64.b64encode(b"me:secret").decode()
    auths = {f"{server.host}/layout": {"auth": encoded}, server.host: {"auth": base64.b64encode(b"a:b").decode()}}
    (tmp_path / "auth.json").write_text(json.dumps({"auths": auths}))
    with FileServer(files) as other:
        server.away = other.url
        command = ["pull", f"{server.url}/layout:2", "-q"]
        assert main([*command, "--out", str(tmp_path / "a"), "--creds", "me:secret"]) == 0
        assert main([*command, "--out", str(tmp_path / "b"), "--authfile", str(tmp_path / "auth.json")]) == 0
        assert set(other.authorizations) == {None}
    assert server.authorizations[0] is None


def test_tls_options_are_those_of_registries(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority = Authority.new(tmp_path)
    with FileServer(files, context=authority.server_context()) as server:
        command = ["tags", f"{server.url}/layout"]
        assert main([*command, "--ca-file", str(authority.ca_file)]) == 0
        assert main([*command, "--insecure"]) == 0
        assert main([*command, "--retry-times", "0"]) == 5
    assert "certificate" in capsys.readouterr().err


ERRORS: list[tuple[str, str, int, str, str]] = [
    (
        "no index.json",
        "/nothing:1",
        3,
        "URL/nothing: expected an OCI layout, got no index.json there: GET URL/nothing/index.json: 404 Not Found",
        f"{EXPECTED}; did you mean HOST/nothing:1?",
    ),
    (
        "a page with status 200",
        "/nothing:1",
        8,
        "layout URL/nothing: GET URL/nothing/index.json: expected the index.json of an OCI layout, got HTML document, "
        "ASCII text, with no line terminators",
        "the server shows a page in place of the file, for example to log in; "
        f"{EXPECTED}; did you mean HOST/nothing:1?",
    ),
    ("no such image", "/layout:3", 3, "URL/layout: expected image '3', there are: 1, 2", ""),
    (
        "several images",
        "/layout",
        2,
        "URL/layout: expected one image, there are: 1, 2",
        "name one of them, for example URL/layout:1",
    ),
    (
        "wants credentials",
        "/layout:1",
        4,
        "layout URL/layout: GET URL/layout/index.json: 401 Unauthorized",
        "the server requires credentials, or hides that a file is missing: --creds, or an entry for HOST in the file "
        "of --authfile; did you mean HOST/layout:1?",
    ),
    (
        "a list that is always cut",
        "/layout:1",
        5,
        "layout URL/layout: GET URL/layout/index.json: the connection was closed too early",
        "check whether the server can be reached from here: curl -I URL/layout/index.json; did you mean HOST/layout:1?",
    ),
    (
        "a missing blob",
        "/layout:2",
        3,
        f"URL/layout: blob {TWO.layers[0].digest}: not in the layout",
        "the layout is not complete: copy all its blobs there again",
    ),
]


@pytest.mark.parametrize(("case", "path", "code", "message", "hint"), ERRORS, ids=[case[0] for case in ERRORS])
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str, path: str, code: int, message: str, hint: str
) -> None:
    write_layout(tmp_path / "www" / "layout", {"1": ONE, "2": TWO})
    with FileServer(tmp_path / "www") as server:
        if case == "a page with status 200":
            server.page = b"<!DOCTYPE html><html><body>log in</body></html>"
        elif case == "wants credentials":
            server.user = "me:secret"
        elif case == "a list that is always cut":
            server.cut = {"/layout/index.json": [5] * 9}
        elif case == "a missing blob":
            (tmp_path / "www" / "layout" / "blobs" / "sha256" / TWO.layers[0].digest.encoded).unlink()
        assert main(["unpack", f"{server.url}{path}", str(tmp_path / "r"), "--retry-times", "0", "-q"]) == code
        told = capsys.readouterr().err.replace(server.url, "URL").replace(server.host, "HOST")
    assert told == f"ociexport: error: {message}\n" + (f"hint: {hint}\n" if hint else "")


def test_a_thin_layout_says_where_the_blob_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_layout(tmp_path / "old", {"1": ONE})
    write_layout(tmp_path / "www" / "new", {"1": ONE, "2": TWO})
    new = str(tmp_path / "www" / "thin")
    assert main(["pull", str(tmp_path / "www" / "new"), "--since", str(tmp_path / "old"), "-o", new, "-q"]) == 0
    with FileServer(tmp_path / "www") as server:
        assert main(["unpack", f"{server.url}/thin:1", str(tmp_path / "r"), "-q"]) == 3
    assert "ociexport merge FAR BUNDLE" in capsys.readouterr().err


def test_blobs_are_called_remote(server: FileServer) -> None:
    """The digest that no entry lists is looked for among the blobs, by a request for one byte."""
    with closing(open_source(f"{server.url}/layout:@{Digest.parse(str(TWO.digest))}")) as source:
        assert is_remote(source)
        assert source.fetch_manifest().raw == TWO.raw


def test_https_where_the_server_speaks_http(server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tags", f"https://{server.host}/layout", "--retry-times", "0"]) == 5
    hint = "if the server speaks plain http, begin the URL with http://, and use --plain-http"
    assert capsys.readouterr().err.splitlines()[1].startswith(f"hint: {hint}; did you mean ")


def test_the_real_command(server: FileServer, tmp_path: Path) -> None:
    ended = run_command("pull", f"{server.url}/only", "--out", str(tmp_path / "o.tar"), "--json", home=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["images"][0]["digest"] == str(TWO.digest)
