"""No document, archive index or list of tags takes more than 256 MiB above its own size limit, whatever it contains."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ociexport.errors import LimitExceededError, RegistryError
from ociexport.images.budget import DocumentBudget
from ociexport.registry.options import RegistryOptions
from ociexport.spec import json_fields as jsonfields
from ociexport.spec.json_fields import MAX_JSON_VALUES, parse_json
from ociexport.storage.archive.members import ArchiveMembers
from ociexport.transfer.sources.list_names import list_names
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.peak_memory import peak_of
from tests.support.saved_archives import write_tar
from tests.support.worst_documents import FILLERS, ITEMS, filler, too_many_values, worst_lists

MIB = 1024 * 1024
ALLOWED_BYTES = 256 * MIB
# The size limits of documents.
MANIFEST_BYTES, INDEX_BYTES, TAGS_BYTES = 4 * MIB, 32 * MIB, 16 * MIB
TOO_MANY = "JSON: expected at most 500000 values, got more"
WORST = dict(worst_lists())


def assert_bounded(*arguments: str | Path, limit: int, home: Path) -> str:
    """Return the command's output; it must end with an `OciexportError`, within the promised memory."""
    measured = peak_of(*arguments, home=home)
    assert measured.peak_bytes <= limit + ALLOWED_BYTES
    assert "Traceback" not in measured.stderr
    assert measured.status in (0, 1, 3, 7, 8)
    return measured.stderr


def write_layout(path: Path, index: bytes, *blobs: bytes) -> Path:
    blobs_path = path / "blobs" / "sha256"
    blobs_path.mkdir(parents=True)
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (path / "index.json").write_bytes(index)
    for blob in blobs:
        (blobs_path / hashlib.sha256(blob).hexdigest()).write_bytes(blob)
    return path


def index_of(entries: bytes, text: bytes = b"0") -> bytes:
    return b'{"schemaVersion":2,"manifests":%b,"x":%b}' % (entries, text)


@pytest.mark.parametrize("content", ITEMS)
def test_index_of_an_archive_is_bounded(tmp_path: Path, content: str) -> None:
    entries = WORST[content]
    room = INDEX_BYTES // (4 if content in ("wide texts", "escaped texts", "half surrogates") else 1)
    text = filler("plain", max(room - len(entries) - 100, 8))
    archive = write_tar(tmp_path / "a.tar", {"index.json": index_of(entries, text)})
    said = assert_bounded("inspect", archive, limit=INDEX_BYTES, home=tmp_path)
    assert "JSON: expected at most" not in said, "it is to be read, or nothing is measured"


@pytest.mark.parametrize("name", FILLERS)
@pytest.mark.parametrize("size", [INDEX_BYTES, 25 * MIB, 16 * MIB])
def test_long_text_is_bounded(tmp_path: Path, name: str, size: int) -> None:
    archive = write_tar(tmp_path / "a.tar", {"index.json": index_of(b"[]", filler(name, size - 100))})
    assert_bounded("inspect", archive, limit=INDEX_BYTES, home=tmp_path)


@pytest.mark.parametrize("content", ["saved images", "repositories", "objects of one", "wide texts"])
def test_list_of_a_docker_archive_is_bounded(tmp_path: Path, content: str) -> None:
    archive = write_tar(tmp_path / "a.tar", {"manifest.json": WORST[content]})
    assert_bounded("inspect", archive, limit=INDEX_BYTES, home=tmp_path)


def test_repositories_of_an_old_archive_are_bounded(tmp_path: Path) -> None:
    tags = b",".join(b'"%06x":"%06x"' % (number, number) for number in range(MAX_JSON_VALUES // 2 - 5))
    archive = write_tar(tmp_path / "a.tar", {"repositories": b'{"a":{%b}}' % tags})
    assert_bounded("inspect", archive, limit=INDEX_BYTES, home=tmp_path)


def test_small_archive_of_many_values_is_refused(tmp_path: Path) -> None:
    """58 kB of archive took 1.5 GB."""
    archive = write_tar(tmp_path / "a.tar", {"index.json": index_of(too_many_values(INDEX_BYTES - 100))})
    archive.write_bytes(gzip.compress(archive.read_bytes()))
    said = assert_bounded("inspect", archive, limit=INDEX_BYTES, home=tmp_path)
    assert f"a.tar: index.json: {TOO_MANY}\n" in said


def with_index(worst: bytes) -> tuple[bytes, list[bytes]]:
    return index_of(worst), []


def with_nested_index(worst: bytes) -> tuple[bytes, list[bytes]]:
    document = index_of(worst)
    return index_of(b"[%b]" % entry_of(document, "index")), [document]


def with_layers(worst: bytes) -> tuple[bytes, list[bytes]]:
    document = b'{"schemaVersion":2,"config":%b,"layers":%b}' % (entry_of(b"{}", "config"), worst)
    return index_of(b"[%b]" % entry_of(document, "manifest")), [document, b"{}"]


def with_history(worst: bytes) -> tuple[bytes, list[bytes]]:
    config = (
        b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"created":"2020-01-01T00:00:00Z",'
        b'"history":%b}' % worst
    )
    document = b'{"schemaVersion":2,"config":%b,"layers":[]}' % entry_of(config, "config")
    return index_of(b"[%b]" % entry_of(document, "manifest")), [document, config]


def entry_of(document: bytes, kind: str) -> bytes:
    digest, media_type = hashlib.sha256(document).hexdigest(), f"application/vnd.oci.image.{kind}.v1+json"
    return json.dumps({"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(document)}).encode()


@pytest.mark.parametrize("command", ["inspect", "verify"])
@pytest.mark.parametrize("content", ["empty objects", "fractions", "descriptors", "history", "deep objects"])
@pytest.mark.parametrize("place", [with_index, with_nested_index, with_layers, with_history])
def test_documents_of_a_layout_are_bounded(
    tmp_path: Path, place: Callable[[bytes], tuple[bytes, list[bytes]]], content: str, command: str
) -> None:
    worst = WORST[content]
    if place is not with_index and len(worst) > MANIFEST_BYTES - 1000:
        count = (MANIFEST_BYTES - 1000) // (len(ITEMS[content](10**6)) + 1)
        worst = b"[" + b",".join(map(ITEMS[content], range(count))) + b"]"
    index, blobs = place(worst)
    layout = write_layout(tmp_path / "layout", index, *blobs)
    limit = INDEX_BYTES if place is with_index else MANIFEST_BYTES
    assert_bounded(command, layout, limit=limit, home=tmp_path)


# Names in archives.


def headers(count: int, make: Callable[[int], tarfile.TarInfo]) -> Iterator[bytes]:
    for number in range(count):
        yield make(number).tobuf(tarfile.PAX_FORMAT)
    yield bytes(1024)


def empty_file(number: int) -> tarfile.TarInfo:
    return tarfile.TarInfo(f"{number:x}")


def long_name(number: int) -> tarfile.TarInfo:
    return tarfile.TarInfo(f"{number}{'x' * 900_000}")


def wide_name(number: int) -> tarfile.TarInfo:
    return tarfile.TarInfo("\U0001f600" * 200_000 + str(number))


def long_link(number: int) -> tarfile.TarInfo:
    item = tarfile.TarInfo(f"{number}")
    item.type, item.linkname = tarfile.SYMTYPE, f"{number}{'y' * 900_000}"
    return item


@pytest.mark.parametrize(
    ("make", "count"), [(empty_file, 1_000_000), (long_name, 300), (wide_name, 300), (long_link, 300)]
)
def test_names_in_an_archive_are_bounded(tmp_path: Path, make: Callable[[int], tarfile.TarInfo], count: int) -> None:
    with gzip.open(tmp_path / "a.tar", "wb", 1) as file:
        file.writelines(headers(count, make))
    said = assert_bounded("inspect", tmp_path / "a.tar", limit=0, home=tmp_path)
    assert "names of files: expected at most 167772160 bytes of memory for them, got more" in said


def header(kind: bytes, size: int) -> bytes:
    item = tarfile.TarInfo("x")
    item.type, item.size = kind, size
    return item.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [b"L", b"K", b"x"])
def test_chain_of_extended_headers_is_refused(tmp_path: Path, kind: bytes) -> None:
    """They describe one entry, which never comes."""
    record = b"%d path=%b\n" % (1_000_000, b"y" * (1_000_000 - 14))
    one = header(kind, 1_000_000) + (record if kind == b"x" else b"y" * 1_000_000) + bytes(-1_000_000 % 512)
    with (tmp_path / "a.tar").open("wb") as file:
        file.writelines([one] * 300)
    said = assert_bounded("inspect", tmp_path / "a.tar", limit=0, home=tmp_path)
    assert "tar: expected at most 16 extended headers for one entry" in said


def test_global_headers_do_not_add_up(tmp_path: Path) -> None:
    """Records that mean nothing here are not kept."""
    with (tmp_path / "a.tar").open("wb") as file:
        for part in range(500):
            file.write(tarfile.TarInfo.create_pax_global_header({f"a{part}": "x" * 1_000_000}))
            file.write(tarfile.TarInfo(f"{part}").tobuf(tarfile.USTAR_FORMAT))
    said = assert_bounded("inspect", tmp_path / "a.tar", limit=0, home=tmp_path)
    assert "a tar without index.json and manifest.json" in said


def test_global_attributes_that_add_up_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for part in range(40):
            records = {f"SCHILY.xattr.{part}.{number}": "x" for number in range(50)}
            tar.fileobj.write(tarfile.TarInfo.create_pax_global_header(records))
            tar.addfile(tarfile.TarInfo(f"{part}"))
    with pytest.raises(LimitExceededError, match="global headers: expected at most 64 attributes, got 100"):
        ArchiveMembers.open(str(tmp_path / "a.tar"))


def test_map_of_a_sparse_file_is_refused(tmp_path: Path) -> None:
    """GNU's old format has a chain of blocks with 21 segments each."""
    block = b"00000000000\0" * 42 + b"\1" + bytes(7)
    first = bytearray(header(b"S", 0))
    first[482:483] = b"\1"
    first[148:156] = b" " * 8
    first[148:156] = b"%06o\0 " % sum(first)
    (tmp_path / "a.tar").write_bytes(bytes(first) + block * 100_000)
    said = assert_bounded("inspect", tmp_path / "a.tar", limit=0, home=tmp_path)
    assert "tar: sparse map: expected at most 1000000 segments" in said


def test_honest_archive_has_names_of_any_kind(tmp_path: Path) -> None:
    """A git archive's global header, and long names that PAX headers have."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "0" * 40}) as tar:
        for name, content in {"index.json": b"{}", "é" * 300: b"x"}.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            tar.addfile(item, io.BytesIO(content))
    members = ArchiveMembers.open(str(path))
    assert members.read("é" * 300, 10) == b"x"
    members.close()


# Tags.


@pytest.mark.parametrize("content", ["empty lists", "objects of one", "texts", "wide texts", "half surrogates"])
def test_page_of_tags_is_bounded(registry: FakeRegistry, tmp_path: Path, content: str) -> None:
    """A page of tags took 860 MB."""
    body = b'{"name":"app","tags":%b}' % WORST[content]
    registry.misbehave("/tags/list", Fault(status=200, body=body), times=1)
    assert_bounded("tags", f"{registry.host}/app", limit=TAGS_BYTES, home=tmp_path)


def test_page_of_too_many_values_is_refused(registry: FakeRegistry) -> None:
    body = b'{"name":"app","tags":%b}' % too_many_values(TAGS_BYTES - 100)
    registry.misbehave("/tags/list", Fault(status=200, body=body), times=1)
    with pytest.raises(RegistryError, match=TOO_MANY):
        list_names(f"{registry.host}/app", options=RegistryOptions(retry_times=0))


# Legitimate input.


@pytest.mark.parametrize("mark", [",", ":", "[", "{", '\\",', "\\\\,", '\\\\\\",'])
def test_marks_within_texts_are_no_values(mark: str) -> None:
    """A script in a history may have any number of commas."""
    text = json.dumps(mark * (MAX_JSON_VALUES + 1))
    assert parse_json(b'{"a":[%b,%b]}' % (text.encode(), text.encode()), where="") == {"a": [json.loads(text)] * 2}


def test_as_many_values_as_may_be_are_read_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonfields, "MAX_JSON_VALUES", 10)
    assert len(parse_json(b"[" + b"0," * 9 + b"0]", where="")) == 10
    for raw in (b"[" + b"0," * 10 + b"0]", b'{"a,b":' * 6, b'["x"' + b',"x"' * 10, b'"" ' * 12 + b"," * 11):
        with pytest.raises(LimitExceededError, match=r"^doc: JSON: expected at most 10 values, got more$"):
            parse_json(raw, where="doc")


def test_long_list_of_tags_is_read(registry: FakeRegistry) -> None:
    names = [f"v{number:07}-alpine" for number in range(150_000)]
    registry.misbehave("/tags/list", Fault(status=200, body=json.dumps({"tags": names}).encode()), times=1)
    assert list_names(f"{registry.host}/app", options=RegistryOptions(retry_times=0)) == tuple(names)


def test_documents_of_one_image_have_so_many_values_together() -> None:
    budget = DocumentBudget("app")
    for _ in range(2):
        budget.take(b"," * 500_000)
    with pytest.raises(LimitExceededError, match=r"^app: documents: expected at most 1000000 values in total"):
        budget.take(b",")
