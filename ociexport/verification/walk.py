"""Follows all references of an image's documents, and reports the documents' problems.

A document with one invalid member is still followed through its other members, so that all problems are found at once.
The walk is one class, and so one long file, since each kind of document may reference any other.

Spec: image-spec 1.1 image-index.md, manifest.md, config.md; image-layout.md for blobs that may be absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from ociexport.errors import (
    InvalidImageError,
    NoMatchingPlatformError,
    NotFoundError,
    UnsupportedMediaTypeError,
    counted,
    quoted,
)
from ociexport.images.resolve import MAX_INDEX_DEPTH, artifact_kind, read_small_blob
from ociexport.images.source import ImageName, ImageSource, told_size_of_blob
from ociexport.spec import mediatypes
from ociexport.spec.config import MAX_CONFIG_BYTES, ImageConfig, parse_config
from ociexport.spec.descriptor import MAX_MANIFEST_BYTES, Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.digested_bytes import is_schema1
from ociexport.spec.json_fields import JsonObject, parse_json_object
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.spec.manifest import Index, Manifest, parse_document
from ociexport.spec.platforms import normalize_platform
from ociexport.verification.documents import digests_in, is_foreign, readable_descriptors
from ociexport.verification.findings import Findings, Kind
from ociexport.verification.schemas import Flaw, config_flaws, index_flaws, manifest_flaws
from ociexport.verification.selection import Selection


@dataclass(frozen=True, slots=True)
class NamedBlob:
    """A reference to a blob.

    Args:
        place: of the reference, for messages.
        source: opens the blob.
        image: the image it belongs to.
        may_be_absent: whether an image is complete without it: a foreign layer, or a reference in an unknown document.
        has_size: whether the document declares the size; if not, the descriptor's size is meaningless.
        is_listed: whether an index references it, so that a registry serves it as a manifest whatever its type.
    """

    descriptor: Descriptor
    place: str
    source: ImageSource
    image: ImageName
    may_be_absent: bool = False
    has_size: bool = True
    is_listed: bool = False


@dataclass(frozen=True, slots=True)
class WalkedImage:
    """A manifest and its matching config."""

    place: str
    source: ImageSource
    manifest: Manifest
    config: ImageConfig


@dataclass(frozen=True, slots=True)
class Root:
    """The start of a walk.

    Args:
        place: the image's name in messages.
        raw: the document's verified bytes, if they were read before.
    """

    source: ImageSource
    descriptor: Descriptor
    place: str
    raw: bytes | None = None


class Walk:
    """Follows documents to everything they reference, and collects their problems.

    Args:
        findings: receives the problems.
        is_strict: whether every manifest that an index references must be stored. The specification allows absent ones.
        selection: the platforms to follow; None for all.

    Attributes:
        documents: manifests, indexes and configs that match their digests, with their sizes.
        blobs: all other referenced blobs, with the references.
        broken: stored documents that cannot be read or do not match their digests: their references are unknown.
        doubtful: stored manifests and indexes that may have more references than could be read.
        images: those with complete, valid documents.
        artifacts: manifests of artifacts that are not images, with their places.
        left_out: an error for each image that is for another platform than the selected ones, which no index declares.
        names: by digest, the names of the images that reach it.
    """

    def __init__(
        self,
        findings: Findings,
        *,
        is_strict: bool = False,
        selection: Selection | None = None,
    ) -> None:
        self._findings = findings
        self._is_strict = is_strict
        self._selection = selection
        self.documents: dict[Digest, int] = {}
        self.blobs: dict[Digest, list[NamedBlob]] = {}
        self.missing: dict[Digest, NamedBlob] = {}
        self.broken: dict[Digest, NamedBlob] = {}
        self.doubtful: set[Digest] = set()
        self.images: list[WalkedImage] = []
        self.artifacts: list[tuple[str, Manifest]] = []
        self.left_out: list[NoMatchingPlatformError] = []
        self.names: dict[Digest, dict[ImageName, None]] = {}
        self._configs: dict[Digest, ImageConfig | None] = {}
        self._top: Root | None = None

    @property
    def reached(self) -> set[Digest]:
        """All referenced digests."""
        return {*self.documents, *self.blobs, *self.missing, *self.broken}

    def follow(self, root: Root) -> None:
        """Follow an image to everything it references."""
        named = NamedBlob(root.descriptor, root.place, root.source, root.source.image_name)
        self._top = root
        self._visit(named, ())

    # One document.

    def _visit(self, named: NamedBlob, indexes: tuple[Digest, ...], *, label: str = "") -> bool:
        """Visit a document unless it was visited before; returns whether it is stored."""
        descriptor = named.descriptor
        self._note_name(named)
        if descriptor.media_type and descriptor.media_type not in mediatypes.DOCUMENTS:
            self._visit_unknown(named)
            return True
        if descriptor.digest in self.documents:
            self._verify_same_size(named)
            return True
        if descriptor.digest in self.missing:
            return False
        if descriptor.digest in self.broken:
            return True
        place = f"{named.place}: {label}manifest {descriptor.digest}"
        raw = self._read(named, place, lambda: self._fetch(named), is_entry=bool(indexes))
        if raw is not None:
            self.documents[descriptor.digest] = len(raw)
            self._look_at(raw, named, indexes)
        elif descriptor.digest in self.broken:
            self.doubtful.add(descriptor.digest)
        return descriptor.digest not in self.missing

    def _fetch(self, named: NamedBlob) -> bytes:
        if self._top is not None and self._top.raw is not None and named.descriptor == self._top.descriptor:
            return self._top.raw
        # The stored blob is checked, even if an index embeds the document.
        stored = replace(named.descriptor, data=None)
        try:
            return named.source.fetch_manifest(stored).raw
        except NotFoundError:
            if self._is_strict or stored == named.descriptor:
                raise
        raw = named.source.fetch_manifest(named.descriptor).raw
        place = f"{named.place}: manifest {stored.digest}"
        message = "not stored as a blob, but embedded in the index that references it"
        self._findings.add(Kind.ABSENT, place, message, is_wrong=False, digest=stored.digest)
        return raw

    def _read(self, named: NamedBlob, place: str, read: Callable[[], bytes], *, is_entry: bool = False) -> bytes | None:
        """Return a document's bytes; None if they cannot be read, which is reported."""
        digest = named.descriptor.digest
        try:
            return read()
        except NotFoundError as error:
            self.missing[digest] = named
            if is_entry and not self._is_strict:
                self._findings.add(
                    Kind.ABSENT, place, "absent, as the specification allows", is_wrong=False, digest=digest
                )
            else:
                self._findings.add_error(error, place, digest=digest)
        except (InvalidImageError, OSError) as error:
            self.broken[digest] = named
            self._findings.add_error(error, place, digest=digest)
        return None

    def _look_at(self, raw: bytes, named: NamedBlob, indexes: tuple[Digest, ...]) -> None:
        digest = named.descriptor.digest
        place = f"{named.place}: manifest {digest}"
        try:
            item = parse_json_object(raw, where="")
        except InvalidImageError as error:
            self.doubtful.add(digest)
            self._findings.add_error(error, place, otherwise=Kind.DOCUMENT, digest=digest)
            return
        if is_schema1(raw, named.descriptor.media_type):
            self._follow_schema1(raw, item, named)
            return
        try:
            document = parse_document(raw, named.descriptor.media_type, digest)
        except UnsupportedMediaTypeError as error:
            self._findings.add(Kind.MEDIA_TYPE, place, error.message, is_wrong=False, digest=digest)
            self._follow_unknown(item, named)
            return
        except InvalidImageError as error:
            flaws = index_flaws(item.members) if "manifests" in item else manifest_flaws(item.members)
            self.doubtful.add(digest)
            self._add_flaws(place, digest, flaws, otherwise=error)
            self._follow_readable(item, named, indexes, place)
            return
        if isinstance(document, Index):
            self._add_flaws(place, digest, index_flaws(item.members))
            self._follow_index(document, named, indexes)
        else:
            self._add_flaws(place, digest, manifest_flaws(item.members))
            is_declared = bool(indexes) and named.descriptor.platform is not None
            self._follow_manifest(document, named, is_declared=is_declared)
        self._follow_subject(document.subject, named)

    def _follow_schema1(self, raw: bytes, item: JsonObject, named: NamedBlob) -> None:
        """Follow a manifest of Docker's schema 1, which declares neither sizes nor diff_ids."""
        from ociexport.spec.docker_schema1 import parse_schema1  # noqa: PLC0415 - start-up: few images are of schema 1

        digest = named.descriptor.digest
        place = f"{named.place}: manifest {digest}"
        try:
            manifest = parse_schema1(raw, named.descriptor.media_type, digest)
        except InvalidImageError as error:
            self._add_flaws(place, digest, iter(()), otherwise=error)
            self._follow_unknown(item, named)
            return
        message = "a Docker schema 1 manifest: no sizes and diff_ids to compare with; its signature is not checked"
        self._findings.add(Kind.MEDIA_TYPE, place, message, is_wrong=False, digest=digest)
        for number, layer in enumerate(manifest.layers, start=1):
            size = None
            with suppress(NotFoundError):  # reported when the blob is read
                size = told_size_of_blob(named.source, layer)
            descriptor = Descriptor(mediatypes.OCI_LAYER_GZIP, layer, size or 0)
            label = f"{place}: layer {number} of {len(manifest.layers)} ({layer})"
            self._name_blob(descriptor, label, named, has_size=size is not None)
        # Placeholders of empty layers; an image is complete without them.
        for layer in dict.fromkeys(step.digest for step in manifest.steps if step.document.is_empty):
            label = f"{place}: blob {layer}"
            descriptor = Descriptor(mediatypes.OCI_LAYER_GZIP, layer, 0)
            self._name_blob(descriptor, label, named, may_be_absent=True, has_size=False)

    def _follow_index(self, index: Index, named: NamedBlob, indexes: tuple[Digest, ...]) -> None:
        place = f"{named.place}: index {index.digest}"
        if len(indexes) == MAX_INDEX_DEPTH:
            self._findings.add(
                Kind.LIMIT, place, f"indexes within indexes: expected at most {MAX_INDEX_DEPTH}", digest=index.digest
            )
            self.broken[index.digest] = named
            self.doubtful.add(index.digest)
            return
        entries = index.manifests if self._selection is None else self._selection.entries_of(named.source, index)
        there = 0
        for entry in entries:
            shown = f" ({entry.platform})" if entry.platform is not None else ""
            child = NamedBlob(entry, f"{named.place}{shown}", named.source, named.image)
            there += self._visit(child, (*indexes, index.digest), label=f"index {index.digest}: ")
            self._compare_platforms(entry, child.place)
        if entries and not there:
            self._findings.add(Kind.MISSING, place, f"none of its {counted(len(entries), 'manifest')} is stored")

    def _follow_manifest(self, manifest: Manifest, named: NamedBlob, *, is_declared: bool) -> None:
        place = f"{named.place}: manifest {manifest.digest}"
        is_judged = self._selection is not None and not is_declared
        config = self._follow_config(manifest, named, place) if is_judged else None
        if config is not None and self._is_left_out(manifest, config, place):
            return
        count = len(manifest.layers)
        for number, layer in enumerate(manifest.layers, start=1):
            label = f"{place}: layer {number} of {count} ({layer.digest})"
            self._name_blob(layer, label, named, may_be_absent=is_foreign(layer))
        if not is_judged:
            config = self._follow_config(manifest, named, place)
        if config is not None and self._fits(manifest, config, place):
            self.images.append(WalkedImage(place, named.source, manifest, config))

    def _is_left_out(self, manifest: Manifest, config: ImageConfig, place: str) -> bool:
        """Whether an image is for another platform than the selected ones, and no index declares it; this is noted."""
        if self._selection is None or artifact_kind(manifest) is not None:
            return False
        try:
            self._selection.verify_takes(config.declared_platform, f"manifest {manifest.digest}")
        except NoMatchingPlatformError as error:
            self.left_out.append(error)
            self._findings.add(Kind.PLATFORM, place, "left out: for another platform", is_wrong=False)
            return True
        return False

    def _follow_subject(self, subject: Descriptor | None, named: NamedBlob) -> None:
        """Follow the subject of a signature or SBOM if it is stored: a listed referrer keeps its subject."""
        if subject is None or subject.digest in self.missing:
            return
        try:
            named.source.open_blob(subject).close()
        except (NotFoundError, InvalidImageError):
            return  # distribution-spec, "Pushing Manifests with Subject": it need not exist
        except OSError:
            pass  # the visit reports it
        self._visit(NamedBlob(subject, f"{named.place}: subject", named.source, named.image), ())

    def _follow_readable(self, item: JsonObject, named: NamedBlob, indexes: tuple[Digest, ...], place: str) -> None:
        """Follow the readable descriptors of a flawed document."""
        for descriptor in readable_descriptors(item, "manifests"):
            self._visit(NamedBlob(descriptor, named.place, named.source, named.image), indexes or (descriptor.digest,))
        for descriptor in (*readable_descriptors(item, "layers"), *readable_descriptors(item, "config")):
            self._name_blob(descriptor, f"{place}: blob {descriptor.digest}", named, is_foreign(descriptor))

    # Blobs that are neither manifests nor indexes.

    def _visit_unknown(self, named: NamedBlob) -> None:
        """Note a blob of unknown type, and its references if it is JSON.

        Spec: image-index.md, "manifests": an unknown type is not an error.
        """
        descriptor = named.descriptor
        if descriptor.digest in self.blobs:
            return
        place = f"{named.place}: blob {descriptor.digest}"
        blob = NamedBlob(descriptor, place, named.source, named.image, is_listed=True)
        self.blobs[descriptor.digest] = [blob]
        if descriptor.size > MAX_MANIFEST_BYTES or not descriptor.media_type.endswith("json"):
            return
        try:
            raw = read_small_blob(named.source, descriptor, MAX_MANIFEST_BYTES, "")
        except NotFoundError:
            return
        except (InvalidImageError, OSError):
            self.doubtful.add(descriptor.digest)
            return  # it is checked as a blob anyway
        with suppress(InvalidImageError):  # it may have any content
            self._follow_unknown(parse_json_object(raw, where=""), named)

    def _follow_unknown(self, item: JsonObject, named: NamedBlob) -> None:
        """Note every possible reference in a document of unknown type, or in a damaged schema 1 manifest."""
        for digest, size in digests_in(item.members):
            descriptor = Descriptor("application/octet-stream", digest, size or 0)
            place = f"{named.place}: manifest {named.descriptor.digest}: blob {digest}"
            self._name_blob(descriptor, place, named, may_be_absent=True, has_size=size is not None)

    # Configs.

    def _follow_config(self, manifest: Manifest, named: NamedBlob, place: str) -> ImageConfig | None:
        """Return the image config of ``manifest``; None if it has none, or an invalid one."""
        descriptor = manifest.config
        label = f"{place}: config {descriptor.digest}"
        kind = descriptor.media_type or mediatypes.LEGACY_CONFIG
        if kind not in mediatypes.IMAGE_CONFIGS:
            if _says_image(manifest) and not manifest.artifact_type:
                self._findings.add(
                    Kind.MEDIA_TYPE, label, f"not an image config, but of type {quoted(kind)}", is_wrong=False
                )
            self._name_blob(descriptor, label, named, may_be_absent=descriptor.data is not None)
            self.artifacts.append((place, manifest))
            return None
        if descriptor.digest in self._configs:
            self._verify_same_size(NamedBlob(descriptor, label, named.source, named.image))
            return self._configs[descriptor.digest]
        reference = NamedBlob(descriptor, label, named.source, named.image)
        config = self._read_config(descriptor, reference, _says_image(manifest))
        self._configs[descriptor.digest] = config
        return config

    def _read_config(self, descriptor: Descriptor, named: NamedBlob, says_image: bool) -> ImageConfig | None:
        self._note_name(named)
        data = descriptor.data
        raw = self._read(
            named, named.place, lambda: data or read_small_blob(named.source, descriptor, MAX_CONFIG_BYTES, "")
        )
        if raw is None:
            return None
        self.documents[descriptor.digest] = len(raw)
        flaws: Iterator[Flaw] = iter(())
        config, error = None, None
        try:
            flaws = config_flaws(parse_json_object(raw, where="").members)
            config = parse_config(raw, descriptor.digest)
        except UnsupportedMediaTypeError:
            if says_image:
                message = "not an image's, since it describes no root filesystem; the layers are those of an artifact"
                self._findings.add(Kind.MEDIA_TYPE, named.place, message, is_wrong=False, digest=descriptor.digest)
            return None
        except InvalidImageError as raised:
            error = raised
        if says_image:
            self._add_flaws(named.place, descriptor.digest, flaws, otherwise=error)
        return config

    def _fits(self, manifest: Manifest, config: ImageConfig, place: str) -> bool:
        """Whether each layer has a diff_id. A history with another number of layers is noted.

        Spec: config.md, "rootfs", "history".
        """
        count = len(manifest.layers)
        made = sum(not entry.empty_layer for entry in config.history)
        if config.history and made != count:
            self._findings.add(
                Kind.LAYERS,
                f"{place}: config {config.digest}: history",
                f"{counted(made, 'step')} with a layer, but {counted(count, 'layer')}",
                is_wrong=False,
            )
        if count != len(config.diff_ids):
            self._findings.add(
                Kind.LAYERS,
                f"{place}: config {config.digest}",
                f"expected as many diff_ids as layers, got {counted(count, 'layer')} "
                f"but {counted(len(config.diff_ids), 'diff_id')}",
                is_wrong=_says_image(manifest),
            )
        return count == len(config.diff_ids)

    def _compare_platforms(self, entry: Descriptor, place: str) -> None:
        """Note images whose platform in the index differs from the one in their config."""
        image = next((one for one in self.images if one.manifest.digest == entry.digest), None)
        if image is None or entry.platform is None:
            return
        listed, own = normalize_platform(entry.platform), normalize_platform(image.config.platform)
        if (listed.os, listed.architecture) != (own.os, own.architecture):
            self._findings.add(
                Kind.PLATFORM,
                f"{place}: manifest {entry.digest}",
                f"listed for {entry.platform}, but its config declares {image.config.declared_platform or 'none'}",
                is_wrong=False,
            )

    # Shared by all kinds.

    def _name_blob(
        self, descriptor: Descriptor, place: str, named: NamedBlob, may_be_absent: bool = False, has_size: bool = True
    ) -> None:
        blob = NamedBlob(descriptor, place, named.source, named.image, may_be_absent, has_size)
        self.blobs.setdefault(descriptor.digest, []).append(blob)
        self._note_name(blob)

    def _note_name(self, named: NamedBlob) -> None:
        self.names.setdefault(named.descriptor.digest, {})[named.image] = None

    def _verify_same_size(self, named: NamedBlob) -> None:
        descriptor = named.descriptor
        there = self.documents.get(descriptor.digest)
        if there is not None and there != descriptor.size:
            self._findings.add(
                Kind.SIZE,
                f"{named.place}: {descriptor.digest}",
                f"size mismatch: expected {counted(descriptor.size, 'byte')}, got {there}",
                digest=descriptor.digest,
            )

    def _add_flaws(
        self, place: str, digest: Digest, flaws: Iterator[Flaw], *, otherwise: InvalidImageError | None = None
    ) -> None:
        """Report the flaws of a document; if there are none, the parser's error ``otherwise``."""
        found = list(flaws)
        if not found and otherwise is not None:
            where = otherwise.where.partition(str(digest))[2].removeprefix(": ") or otherwise.where
            found = [("" if str(digest) in where else where, otherwise.message)]
        for where, message in found:
            self._findings.add(Kind.DOCUMENT, f"{place}: {where}" if where else place, message, digest=digest)


def _says_image(manifest: Manifest) -> bool:
    """Whether the media types are those of an image's layers. If none is, the config may be anything."""
    return not manifest.layers or any(mediatypes.is_layer(layer.media_type) for layer in manifest.layers)
