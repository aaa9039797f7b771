"""--verify-key holds on every path: whatever names a manifest, the source that checks signatures sees it.

image-spec 1.1 descriptor.md, "data": a descriptor may hold the document that it names. A reader that takes it from
there must not bypass the source that checks signatures.
"""

from __future__ import annotations

import base64
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ociexport import verify
from ociexport.cli.main import main
from ociexport.errors import SignatureError
from ociexport.images.choose import PlatformChoice, choose_documents
from ociexport.images.keys import VerificationKey
from ociexport.images.resolve import DocumentReader
from ociexport.images.signatures import SignaturePolicy, SignedSource, require_signature
from ociexport.images.source import ImageName, ImageSource, ReceivedManifest
from ociexport.inspection.inspect import inspect
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.progress.protocol import SILENT
from ociexport.transfer.companions import Companion
from ociexport.transfer.pull import pull
from ociexport.transfer.sources.convert import ConvertingSource
from ociexport.transfer.sources.open import open_source
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import (
    AMD64,
    ARM64,
    BuiltImage,
    build_attestation,
    build_image,
    build_index,
    descriptor_of,
    to_json,
    write_layout,
)
from tests.support.memory_source import member
from tests.support.schema1_images import build_schema1
from tests.support.signing import pem_of, signature_of, tag_of

KEY = ec.generate_private_key(ec.SECP256R1())
IMAGE = build_image([[member("file", b"content")]])
ARM = build_image([[member("file", b"arm")]], platform=ARM64)
NESTED = build_index([IMAGE])
POLICY = SignaturePolicy((VerificationKey.parse(pem_of(KEY), "cosign.pub"),))


def embedding(*numbers: int, **members: Any) -> Callable[[dict[str, Any]], None]:
    """Return a function that embeds documents into the index entries with these numbers."""
    known = {str(one.digest): one.raw for one in (IMAGE, ARM, NESTED, NESTED_EMBEDDED)}

    def edit(index: dict[str, Any]) -> None:
        for number in numbers:
            entry = index["manifests"][number]
            entry["data"] = base64.b64encode(known[entry["digest"]]).decode()
            entry.update(members)

    return edit


NESTED_EMBEDDED = IMAGE  # until it is made of IMAGE
NESTED_EMBEDDED = build_index([IMAGE], edit_index=embedding(0))

FORMS = {
    "alone": IMAGE,
    "index": build_index([IMAGE, ARM]),
    "embedded": build_index([IMAGE, ARM], edit_index=embedding(0, 1)),
    "embedded, of no type": build_index([IMAGE], edit_index=embedding(0, mediaType="")),
    "Docker's list, embedded": build_index([IMAGE], media_types="docker", edit_index=embedding(0)),
    "nested": build_index([NESTED]),
    "nested, index embedded": build_index([NESTED], edit_index=embedding(0)),
    "nested, manifest embedded": build_index([NESTED_EMBEDDED]),
    "nested, both embedded": build_index([NESTED_EMBEDDED], edit_index=embedding(0)),
}


def without_embedded(image: BuiltImage) -> BuiltImage:
    """Return the image with the embedded documents stored nowhere else."""
    embedded = set()
    for raw, _ in image.documents.values():
        embedded |= {entry["digest"] for entry in json.loads(raw).get("manifests", ()) if "data" in entry}
    kept = {digest: known for digest, known in image.documents.items() if str(digest) not in embedded}
    return replace(image, documents=kept)


def by_tag(image: BuiltImage, others: dict[str, BuiltImage], registry: FakeRegistry, place: Path) -> str:
    for tag, other in others.items():
        other.serve(registry, "app", tag)
    return image.serve(registry, "app", "1")


def by_digest(image: BuiltImage, others: dict[str, BuiltImage], registry: FakeRegistry, place: Path) -> str:
    return by_tag(image, others, registry, place).replace(":1", f"@{image.digest}")


def in_layout(image: BuiltImage, others: dict[str, BuiltImage], registry: FakeRegistry, place: Path) -> str:
    write_layout(place / "stored", {"1": image, **others})
    return f"{place}/stored:1"


def listed_embedded(image: BuiltImage, others: dict[str, BuiltImage], registry: FakeRegistry, place: Path) -> str:
    """Put the outermost document into index.json itself."""
    in_layout(image, others, registry, place)
    index = json.loads((place / "stored" / "index.json").read_bytes())
    index["manifests"][0]["data"] = base64.b64encode(image.raw).decode()
    (place / "stored" / "index.json").write_bytes(to_json(index))
    (place / "stored" / "blobs" / "sha256" / image.digest.encoded).unlink()
    return f"{place}/stored:1"


def in_archive(image: BuiltImage, others: dict[str, BuiltImage], registry: FakeRegistry, place: Path) -> str:
    in_layout(image, others, registry, place)
    with tarfile.open(place / "stored.tar", "w") as tar:
        tar.add(place / "stored", arcname=".")
    return f"{place}/stored.tar:1"


def in_directory(image: BuiltImage, others: dict[str, BuiltImage], registry: FakeRegistry, place: Path) -> str:
    """As skopeo writes it; it can't hold signatures."""
    path = place / "stored"
    path.mkdir()
    (path / "version").write_text("Directory Transport Version: 1.1\n")
    (path / "manifest.json").write_bytes(image.raw)
    for digest, (raw, _) in image.documents.items():
        (path / f"{digest.encoded}.manifest.json").write_bytes(raw)
    for digest, raw in image.blobs.items():
        (path / digest.encoded).write_bytes(raw)
    return f"dir:{path}"


PLACES = [by_tag, by_digest, in_layout, listed_embedded, in_archive, in_directory]

COMMANDS = {
    "unpack": ["unpack", "SRC", "OUT"],
    "unpack --to-tar": ["unpack", "SRC", "--to-tar", "OUT.tar"],
    "pull": ["pull", "SRC", "-o", "OUT"],
    "pull -a": ["pull", "SRC", "-o", "OUT", "-a"],
    "pull --sparse": ["pull", "SRC", "-o", "OUT", "--platform", "linux/amd64", "--sparse"],
    "pull --dry-run": ["pull", "SRC", "-o", "OUT", "--dry-run"],
    "pull, archive": ["pull", "SRC", "-o", "OUT.tar"],
    "pull -a, archive": ["pull", "SRC", "-o", "OUT.tar", "-a"],
    "pull, legacy": ["pull", "SRC", "-o", "OUT.tar", "--legacy"],
    "pull --decompress": ["pull", "SRC", "-o", "OUT", "--decompress"],
    "pull --referrers": ["pull", "SRC", "-o", "OUT", "--referrers"],
    "ls": ["ls", "SRC"],
    "cat": ["cat", "SRC", "file"],
    "which-layer": ["which-layer", "SRC", "file"],
    "diff": ["diff", "TREE", "SRC", "--no-owners"],
}


def run(command: list[str], source: str, place: Path) -> int:
    """Run a command in this process, since there are a few hundred; returns its exit code."""
    (place / "tree").mkdir(parents=True, exist_ok=True)
    (place / "cosign.pub").write_bytes(pem_of(KEY))
    names = {"SRC": source, "OUT": f"{place}/out", "OUT.tar": f"{place}/out.tar", "TREE": f"{place}/tree"}
    return main([*(names.get(word, word) for word in command), "--verify-key", f"{place}/cosign.pub"])


@pytest.fixture(autouse=True)
def _this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/amd64")


@pytest.mark.parametrize("put", PLACES)
@pytest.mark.parametrize("form", FORMS)
def test_no_command_takes_what_is_not_signed(
    registry: FakeRegistry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    form: str,
    put: Callable[..., str],
) -> None:
    source = put(without_embedded(FORMS[form]), {}, registry, tmp_path)
    for name, command in COMMANDS.items():
        assert (name, run(command, source, tmp_path)) == (name, 7)
        told = capsys.readouterr()
        assert (name, told.out, "expected a signature by the key in" in told.err) == (name, "", True)
        assert (name, list(tmp_path.glob("out*"))) == (name, [])


SIGNED_COMMANDS = [
    "unpack",
    "unpack --to-tar",
    "pull -a",
    "pull --sparse",
    "pull -a, archive",
    "ls",
    "cat",
    "which-layer",
]


@pytest.mark.parametrize("put", [put for put in PLACES if put is not in_directory])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("signed", ["outermost", "each manifest", "nested index"])
def test_commands_take_what_is_signed(
    registry: FakeRegistry, tmp_path: Path, form: str, put: Callable[..., str], signed: str
) -> None:
    """cosign: a signature of an index covers what the index names; without it each manifest needs one."""
    image = FORMS[form]
    subjects = {"outermost": [image], "each manifest": [IMAGE, ARM], "nested index": [NESTED, NESTED_EMBEDDED]}[signed]
    if signed == "nested index" and not form.startswith("nested"):
        subjects = [image]
    others = {tag_of(subject): signature_of(subject, KEY) for subject in subjects}
    source = put(without_embedded(image), others, registry, tmp_path)
    for name in SIGNED_COMMANDS:
        place = tmp_path / name
        place.mkdir()
        assert (name, run(COMMANDS[name], source, place)) == (name, 0)


@pytest.mark.parametrize("form", ["index", "embedded"])
def test_each_manifest_that_is_taken_must_be_covered(registry: FakeRegistry, tmp_path: Path, form: str) -> None:
    """The signature of one platform's manifest does not cover another's."""
    signature = {tag_of(IMAGE): signature_of(IMAGE, KEY)}
    source = by_tag(without_embedded(FORMS[form]), signature, registry, tmp_path)
    both = ["--platform", "linux/amd64", "--platform", "linux/arm64"]
    arm = ["--platform", "linux/arm64"]
    codes = {
        "one": run(COMMANDS["pull"], source, tmp_path / "one"),
        "other": run([*COMMANDS["pull"], *arm], source, tmp_path / "other"),
        "both": run([*COMMANDS["pull"], *both], source, tmp_path / "both"),
        "both, archive": run([*COMMANDS["pull, archive"], *both], source, tmp_path / "archive"),
        "all": run(COMMANDS["pull -a"], source, tmp_path / "all"),
        "sparse": run([*COMMANDS["pull"], *both, "--sparse"], source, tmp_path / "sparse"),
    }
    assert codes == {"one": 0, "other": 7, "both": 7, "both, archive": 7, "all": 7, "sparse": 7}


def test_attestation_must_be_covered_too(registry: FakeRegistry, tmp_path: Path) -> None:
    attestation = build_attestation(IMAGE)
    index = build_index([IMAGE, attestation])
    source = by_tag(index, {tag_of(IMAGE): signature_of(IMAGE, KEY)}, registry, tmp_path)
    assert run(COMMANDS["pull -a"], source, tmp_path / "without") == 7
    signature_of(attestation, KEY).serve(registry, "app", tag_of(attestation))
    assert run(COMMANDS["pull -a"], source, tmp_path / "with") == 0


def append_entry(index: dict[str, Any], entry: dict[str, Any]) -> None:
    index["manifests"].append(entry)


def test_document_of_unknown_type_must_be_covered_too(registry: FakeRegistry, tmp_path: Path) -> None:
    """image-index.md: an unknown type is no error; -a copies the document, so it must be signed."""
    raw = b'{"schemaVersion": 2, "mediaType": "application/vnd.example+json"}'
    entry = descriptor_of(raw, "application/vnd.example+json")
    data = {"data": base64.b64encode(raw).decode()}
    for number, members in enumerate(({}, data)):
        listed = {**entry.to_json(), **members}
        index = build_index([IMAGE], edit_index=partial(append_entry, entry=listed))
        if not members:
            registry.add_manifest("app", None, raw, entry.media_type)
        source = by_tag(index, {tag_of(IMAGE): signature_of(IMAGE, KEY)}, registry, tmp_path)
        assert run(COMMANDS["pull -a"], source, tmp_path / f"without {number}") == 7
        signature_of(index, KEY).serve(registry, "app", tag_of(index))
        assert run(COMMANDS["pull -a"], source, tmp_path / f"with {number}") == 0


def test_tag_that_leads_elsewhere_the_next_time_is_checked_again(registry: FakeRegistry, tmp_path: Path) -> None:
    reference = by_tag(IMAGE, {tag_of(IMAGE): signature_of(IMAGE, KEY)}, registry, tmp_path)
    source = require_signature(open_source(reference), POLICY)
    assert source.fetch_manifest().digest == IMAGE.digest
    ARM.serve(registry, "app", "1")
    with pytest.raises(SignatureError):
        source.fetch_manifest()
    source.close()


def test_schema_1_manifest_in_data_is_no_index(registry: FakeRegistry, tmp_path: Path) -> None:
    """A document that one reader converts to an image is not returned as an index, which another reader sees in it."""
    old = build_schema1([[member("file", b"1")]])
    both = json.loads(old.payload) | {"manifests": []}
    raw = json.dumps(both).encode()
    for blob, content in old.blobs.items():
        registry.add_blob(content, blob)
    for number, entry_type in enumerate((mediatypes.OCI_INDEX, mediatypes.OCI_MANIFEST, "")):
        entry = replace(descriptor_of(raw, entry_type), platform=AMD64).to_json()
        for members in ({}, {"data": base64.b64encode(raw).decode()}):
            index = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": [{**entry, **members}]}
            registry.add_manifest("app", "1", to_json(index), mediatypes.OCI_INDEX)
            registry.add_manifest("app", None, raw, mediatypes.DOCKER_SCHEMA1)
            place = tmp_path / f"{number} {len(members)}"
            for name in ("unpack", "pull", "ls"):
                assert (name, run(COMMANDS[name], f"{registry.host}/app:1", place / name)) == (name, 7)


# Each reader requests every document from the source.


class Recorder:
    """An `ImageSource` around another, like the one that checks signatures; it records every request."""

    def __init__(self, source: ImageSource) -> None:
        self.wrapped = source
        self.display_name = source.display_name
        self.image_name = source.image_name
        self.seen: set[str] = set()

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        received = self.wrapped.fetch_manifest(descriptor)
        self.seen.add(str(received.digest))
        return received

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> Any:
        return self.wrapped.open_blob(descriptor, offset)

    def fetch_tagged(self, tag: str) -> Any:
        return self.wrapped.fetch_tagged(tag)  # type: ignore[attr-defined]

    def fetch_referrers(self, *arguments: Any) -> Any:
        return self.wrapped.fetch_referrers(*arguments)  # type: ignore[attr-defined]

    def close(self) -> None:
        self.wrapped.close()


WRAPPERS: dict[str, Callable[[Any], ImageSource]] = {
    "none": lambda source: source,
    "conversion": lambda source: ConvertingSource(source, SILENT),
    "signatures": lambda source: SignedSource(source, POLICY),
    "companion": lambda source: Companion(source, source.fetch_manifest(), ImageName(None, None), None),
}
READERS: dict[str, Callable[[ImageSource, Path], object]] = {
    "choose": lambda source, _: choose_documents(DocumentReader(source), PlatformChoice()),
    "pull": lambda source, place: pull(source, place / "out", platform=PlatformChoice()),
    "inspect": lambda source, _: inspect(source, platform=AMD64),
    "verify": lambda source, _: verify(source),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("form", FORMS)
def test_every_document_passes_the_sources_around_it(
    registry: FakeRegistry, tmp_path: Path, form: str, wrapper: str, reader: str
) -> None:
    image = FORMS[form]
    signature = {tag_of(image): signature_of(image, KEY)}
    in_layout(without_embedded(image), signature, registry, tmp_path)
    recorder = Recorder(ImageLayout(tmp_path / "stored").open_image("1"))
    READERS[reader](WRAPPERS[wrapper](recorder), tmp_path)
    # inspect reads one of several platforms.
    expected = {*image.documents} - ({ARM.digest} if reader == "inspect" else set())
    assert {str(digest) for digest in expected} <= recorder.seen
