"""`ociexport report`: what a layout or an archive holds, and sums that are what the files are."""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ociexport.errors import InvalidImageError, NotFoundError, UsageError
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from ociexport.verification.changes import Change, Changes, compare, read_snapshot
from ociexport.verification.parts import AboutKind
from ociexport.verification.report import Report, ReportedImage, make_report
from tests.support.damaged_layout import DamagedLayout
from tests.support.image_builder import (
    AMD64,
    ARM64,
    BuiltImage,
    build_artifact,
    build_attestation,
    build_image,
    build_index,
    to_json,
    write_layout,
)
from tests.support.memory_source import member
from tests.support.saved_archives import (
    of_crane,
    of_docker_1_9,
    of_docker_1_10,
    of_docker_25,
    of_skopeo,
    with_hard_links,
    write_tar,
)


def image_of(*layers: str, platform: object = AMD64, created: str | None = "2024-05-01T10:00:00Z") -> BuiltImage:
    return build_image(
        [[member(name)] for name in layers],
        platform=platform,  # type: ignore[arg-type]
        edit_config=lambda config: config.update(created=created),
    )


ONE, TWO = image_of("base", "one"), image_of("base", "two")
ARM = image_of("arm", platform=ARM64, created="2024-06-01T10:00:00Z")
INDEX = build_index([ONE, ARM, build_attestation(ONE)])
HUB = "docker.io/library/"


def report_on(path: object) -> Report:
    return make_report(str(path))


def the_image(report: Report, name: str) -> ReportedImage:
    (found,) = (image for image in report.images if name in image.names)
    return found


def add_about(layout: DamagedLayout, subject: Digest | None, tag: str, **manifest: object) -> Digest:
    """Add a document about ``subject``; its blobs are stored."""
    raw = json.loads(build_artifact(tag.encode()).raw)
    layers = manifest.pop("layer", {})
    raw["layers"][0].update(layers)
    for content in (b"{}", tag.encode()):
        layout.blob(Digest.of(content)).write_bytes(content)
    about = {"subject": {"mediaType": mediatypes.OCI_MANIFEST, "digest": str(subject), "size": 1}} if subject else {}
    return layout.add(to_json({**raw, **about, **manifest}), mediatypes.OCI_MANIFEST, tag=tag)


def test_images_with_their_platforms_digests_and_times(layout: DamagedLayout) -> None:
    layout.write(**{f"{HUB}app:1": INDEX, f"{HUB}app:2": TWO, "chart": build_artifact(b"chart")})
    report = report_on(layout.path)
    app, other, chart = report.images
    assert (app.names, app.digest, app.kind, app.platforms) == (
        (f"{HUB}app:1",),
        INDEX.digest,
        "index",
        ("linux/amd64", "linux/arm64"),
    )
    assert [(part.digest, part.config, part.layers) for part in app.parts] == [
        (ONE.digest, ONE.config.digest, 2),
        (ARM.digest, ARM.config.digest, 1),
    ]
    assert (app.created, other.created) == (datetime(2024, 6, 1, 10, tzinfo=UTC), datetime(2024, 5, 1, 10, tzinfo=UTC))
    assert [(one.kind, one.subject) for one in app.about] == [(AboutKind.PROVENANCE, ONE.digest)]
    assert (other.kind, other.platforms) == ("image", ("linux/amd64",))
    assert (chart.kind, chart.platforms, chart.created) == ("artifact", (), None)
    assert report.findings == ()


def test_names_of_one_image_are_one_image(layout: DamagedLayout) -> None:
    layout.write(**{f"{HUB}app:1": ONE, f"{HUB}app:latest": ONE})
    (image,) = report_on(layout.path).images
    assert image.names == (f"{HUB}app:1", f"{HUB}app:latest")
    assert (image.shared, image.unique) == (0, sum(layout.blob(digest).stat().st_size for digest in ONE.all_digests))


def test_unique_and_shared(layout: DamagedLayout) -> None:
    layout.write(one=ONE, two=TWO)
    layout.blob(Digest.of(b"left")).write_bytes(b"left")
    report = report_on(layout.path)
    shared = ONE.layers[0]
    assert (report.shared, report.unreferenced, report.unreferenced_blobs) == (shared.size, 4, 1)
    assert all(image.shared == shared.size for image in report.images)
    assert report.unique == sum(image.unique for image in report.images)
    assert report.size == sum(path.stat().st_size for path in (layout.path / "blobs").glob("*/*"))


IMAGES = {
    "docker.io/library/one:1": ONE,
    "docker.io/library/two:1": TWO,
    "quay.example/all:1": INDEX,
    "chart": build_artifact(b"chart"),
    "both": build_index([INDEX, build_index([TWO])]),
}
NAMES = st.lists(st.sampled_from(sorted(IMAGES)), unique=True)


@settings(max_examples=60, deadline=None)
@given(there=NAMES, lost=st.sets(st.integers(0, 30), max_size=4), left=st.lists(st.binary(max_size=20), max_size=3))
def test_sums_are_what_the_files_are(there: Sequence[str], lost: set[int], left: Sequence[bytes]) -> None:
    """Unique, shared and unreferenced bytes add up to the blobs, also where blobs are missing or belong to nothing."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "layout")
        write_layout(path, {name: IMAGES[name] for name in there})
        files = sorted((path / "blobs" / "sha256").iterdir())
        for number in lost:
            if number < len(files):
                files[number].unlink()
        for content in left:
            (path / "blobs" / "sha256" / Digest.of(content).encoded).write_bytes(content)
        sizes = [file.stat().st_size for file in (path / "blobs" / "sha256").iterdir()]
        archive = Path(directory, "images.tar")
        with tarfile.open(archive, "w") as tar:
            tar.add(path, ".")
        for place in (path, archive):
            report = report_on(place)
            assert report.unique + report.shared + report.unreferenced == report.size == sum(sizes)
            assert len(report.stored) == len(sizes)
            assert sum(image.unique for image in report.images) == report.unique
            stored = {digest for image in report.images for digest in image.blobs}
            assert sum(report.stored[digest] for digest in stored) == report.unique + report.shared
            for image in report.images:
                assert image.size == sum(report.stored[digest] for digest in image.blobs)


def test_docker_archive(tmp_path: Path) -> None:
    """It has no manifests: its sums are those of its configs and layers."""
    layers = {f"{name}/layer.tar": ONE_TAR for name in ("a", "b")}
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-05-01T10:00:00Z",
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(ONE_TAR))] * 2},
        }
    ).encode()
    manifest = [{"Config": "config.json", "RepoTags": ["app:1"], "Layers": list(layers)}]
    files = {"config.json": config, "manifest.json": json.dumps(manifest).encode(), **layers}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with tarfile.open(tmp_path / "saved.tar", "w") as tar:
        for name in files:
            tar.add(tmp_path / name, name)
    report = report_on(tmp_path / "saved.tar")
    (image,) = report.images
    assert (image.names, image.platforms) == (("docker.io/library/app:1",), ("linux/amd64",))
    assert (report.size, report.unique) == (len(config) + len(ONE_TAR),) * 2


ONE_TAR = build_image([[member("x")]], compression="plain").blobs[
    build_image([[member("x")]], compression="plain").layers[0].digest
]


@pytest.mark.parametrize("save", [of_docker_1_9, of_docker_1_10, of_docker_25, of_crane, of_skopeo, with_hard_links])
def test_archives_of_all_programs(tmp_path: Path, save: Callable[[], Mapping[str, bytes | tarfile.TarInfo]]) -> None:
    report = report_on(write_tar(tmp_path / "saved.tar", save()))
    assert [image.platforms for image in report.images] == [("linux/amd64",)]
    assert [dict(image.missing) for image in report.images] == [{}]
    assert report.unique == report.size > 0


@pytest.mark.parametrize(
    ("manifest", "kind"),
    [
        ({"artifactType": "application/spdx+json"}, AboutKind.SBOM),
        ({"artifactType": "application/vnd.cyclonedx+json"}, AboutKind.SBOM),
        ({"artifactType": "application/vnd.cncf.notary.signature"}, AboutKind.SIGNATURE),
        ({"layer": {"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json"}}, AboutKind.SIGNATURE),
        ({"artifactType": "application/vnd.dev.cosign.artifact.sig.v1+json"}, AboutKind.SIGNATURE),
        (
            {
                "artifactType": "application/vnd.dev.sigstore.bundle.v0.3+json",
                "annotations": {"dev.sigstore.bundle.predicateType": "https://sigstore.dev/cosign/sign/v1"},
                "layer": {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"},
            },
            AboutKind.SIGNATURE,
        ),
        (
            {
                "artifactType": "application/vnd.dev.sigstore.bundle.v0.3+json",
                "annotations": {"dev.sigstore.bundle.content": "message-signature"},
                "layer": {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"},
            },
            AboutKind.SIGNATURE,
        ),
        (
            {
                "layer": {
                    "mediaType": "application/vnd.in-toto+json",
                    "annotations": {"in-toto.io/predicate-type": "https://spdx.dev/Document"},
                }
            },
            AboutKind.SBOM,
        ),
        (
            {
                "layer": {
                    "mediaType": "application/vnd.in-toto+json",
                    "annotations": {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"},
                }
            },
            AboutKind.PROVENANCE,
        ),
        ({"layer": {"mediaType": "application/vnd.dsse.envelope.v1+json"}}, AboutKind.ATTESTATION),
        ({"artifactType": "application/vnd.example.notes"}, AboutKind.OTHER),
    ],
)
def test_kinds_of_referrers(layout: DamagedLayout, manifest: dict[str, object], kind: AboutKind) -> None:
    layout.write(app=ONE)
    digest = add_about(layout, ONE.digest, "about", **manifest)
    (image,) = report_on(layout.path).images
    assert [(one.kind, one.digest, one.subject) for one in image.about] == [(kind, digest, ONE.digest)]
    assert {digest, Digest.of(b"about")} <= image.blobs


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".sig", AboutKind.SIGNATURE), (".sbom", AboutKind.SBOM), (".att", AboutKind.ATTESTATION)],
)
def test_kinds_of_cosigns_tags(layout: DamagedLayout, suffix: str, kind: AboutKind) -> None:
    layout.write(app=INDEX)
    digest = add_about(layout, None, f"sha256-{ARM.digest.encoded}{suffix}")
    (image,) = report_on(layout.path).images
    assert (kind, digest) in [(one.kind, one.digest) for one in image.about]


def test_signature_of_an_image_elsewhere_is_listed_itself(layout: DamagedLayout) -> None:
    layout.write(app=ONE)
    add_about(layout, TWO.digest, "signature")
    report = report_on(layout.path)
    assert [image.names for image in report.images] == [("app",), ("signature",)]
    assert [image.about for image in report.images] == [(), ()]


def test_what_is_not_here_is_said(layout: DamagedLayout) -> None:
    layout.write(app=INDEX)
    for digest in (ONE.layers[1].digest, *ARM.all_digests):
        layout.blob(digest).unlink()
    (image,) = report_on(layout.path).images
    assert dict(image.missing) == {ONE.layers[1].digest: ONE.layers[1].size}
    assert (image.absent, image.platforms, [part.layers for part in image.parts]) == (1, ("linux/amd64",), [2, None])


def test_damaged_documents_are_problems_and_end_nothing(layout: DamagedLayout) -> None:
    layout.write(one=ONE, two=TWO)
    layout.spoil(ONE.digest, "other")
    report = report_on(layout.path)
    assert the_image(report, "one").kind == "unknown"
    assert the_image(report, "two").kind == "image"
    assert [finding.digest for finding in report.findings] == [ONE.digest]
    assert report.size == sum(path.stat().st_size for path in (layout.path / "blobs").glob("*/*"))


def test_unfinished_blobs_are_counted_beside(layout: DamagedLayout) -> None:
    layout.write(one=ONE)
    partial = layout.path / ".ociexport" / "partial"
    partial.mkdir(parents=True)
    (partial / f"sha256-{'0' * 64}").write_bytes(b"part")
    report = report_on(layout.path)
    assert (report.unfinished, report.unreferenced) == ((1, 4), 0)


@pytest.mark.parametrize("source", ["debian:12", "dir:x"])
def test_only_whole_layouts_and_archives(source: str) -> None:
    with pytest.raises(UsageError, match="expected a whole layout or archive"):
        make_report(source)


def test_image_in_a_layout_is_refused(layout: DamagedLayout) -> None:
    layout.write(one=ONE)
    with pytest.raises(UsageError, match="expected a whole layout or archive"):
        report_on(f"{layout.path}:one")


def test_no_layout_and_no_index(layout: DamagedLayout, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        report_on(tmp_path / "none")
    layout.write(one=ONE)
    (layout.path / "index.json").write_text("[]")
    with pytest.raises(InvalidImageError):
        report_on(layout.path)


def changes_of(old: Path, new: Path) -> Changes:
    return compare(report_on(new), read_snapshot(str(old)))


def test_what_changed_since(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    other_arm = image_of("arm", "more", platform=ARM64)
    write_layout(old, {"same": ONE, "gone": TWO, "moved": build_index([ONE, ARM])})
    write_layout(new, {"same": ONE, "moved": build_index([ONE, other_arm]), "added": ONE})
    changes = changes_of(old, new)
    assert [(one.name, one.change) for one in changes.names] == [
        ("same", Change.UNCHANGED),
        ("added", Change.ADDED),
        ("moved", Change.CHANGED),
        ("gone", Change.REMOVED),
    ]
    moved = changes.names[2]
    assert dict(moved.platforms) == {"linux/arm64": Change.CHANGED}
    sizes = {path.name: path.stat().st_size for path in (new / "blobs" / "sha256").iterdir()}
    before = {path.name: path.stat().st_size for path in (old / "blobs" / "sha256").iterdir()}
    fresh = sum(size for name, size in sizes.items() if name not in before)
    assert (moved.new_bytes, changes.new_bytes) == (fresh, fresh)
    assert changes.gone_bytes == sum(size for name, size in before.items() if name not in sizes)
    assert [changes.of(image) for image in report_on(new).images] == [Change.ADDED, Change.CHANGED]


def test_new_signature_is_a_change(tmp_path: Path) -> None:
    old, new = DamagedLayout(tmp_path / "old").write(app=ONE), DamagedLayout(tmp_path / "new").write(app=ONE)
    add_about(new, ONE.digest, "signature")
    (app,) = changes_of(old.path, new.path).names
    assert (app.change, app.has_other_about, app.old, dict(app.platforms)) == (Change.CHANGED, True, app.new, {})
    assert app.new_bytes > 0
    assert changes_of(new.path, new.path).count(Change.UNCHANGED) == 1
