"""What the far side has, from a document or from lines: the output of other tools, and files that ociexport wrote.

=====================================  ==========================================================================
``bundle.json``                        everything that the bundle contains and expects
a receipt of `unpack`                  the layers of the image
a manifest                             its config and its layers, by digest
a config                               its layers, by diff_id
``docker image inspect``               the layers of each image, by diff_id; podman and nerdctl print the same
a list of diff_ids                     ``docker image inspect -f '{{json .RootFS.Layers}}'``
lines                                  digests or diff_ids, such as ``ctr content ls -q`` prints
=====================================  ==========================================================================

A further kind of document is one more reader in `_READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ociexport.errors import InvalidDigestError, UsageError, describe_content, locating, quoted
from ociexport.images.holdings import HeldLayer, Holdings
from ociexport.spec.config import parse_config
from ociexport.spec.descriptor import parse_digest_of
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import JsonObject, parse_json
from ociexport.spec.manifest import Manifest, parse_document
from ociexport.spec.named_tuple import NamedTuple
from ociexport.storage.bundle import Bundle, diff_ids_in, parse_bundle
from ociexport.storage.index import MAX_INDEX_BYTES

# 300,000 lines of digests fit.
MAX_HAVE_BYTES = MAX_INDEX_BYTES
_KINDS = "expected lines of digests, a bundle.json, a receipt, a manifest or the output of docker image inspect"


class _Found(NamedTuple):
    """A JSON document: parsed, and its bytes."""

    item: JsonObject
    raw: bytes
    where: str


def read_document(raw: bytes, where: str, name: str) -> Holdings:
    """Return what a document or lines tell of the far side.

    Args:
        raw: the bytes, or the first of them if there are more than `MAX_HAVE_BYTES`.
        where: the HAVE, as messages name it.
        name: of the holdings.

    Raises:
        UsageError: it is of no known kind; the message names the line.
        InvalidImageError: it is of a known kind, and breaks its format.
    """
    if len(raw) > MAX_HAVE_BYTES:
        raise UsageError(f"{where}: expected an archive, or at most {MAX_HAVE_BYTES} bytes of a document, got more")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: {_KINDS}, got {describe_content(raw)}") from error
    if text.lstrip()[:1] in ("{", "["):
        return _read_json(text.encode(), where, name)
    return Holdings(name, loose=_digests_in_lines(text, where))


def _digests_in_lines(text: str, where: str) -> frozenset[Digest]:
    found = set()
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found.add(Digest.parse(line.strip()))
        except InvalidDigestError as error:
            raise UsageError(
                f"{where}: line {number}: expected a digest or a diff_id, got {quoted(line.strip())}",
                hint="ctr content ls -q prints such lines; docker image inspect prints a document, which is read too",
            ) from error
    return frozenset(found)


def _read_json(raw: bytes, where: str, name: str) -> Holdings:
    value = parse_json(raw, where=where)
    if not isinstance(value, list):
        return _read_object(_Found(JsonObject(value, where), raw, where), name)
    if all(isinstance(item, str) for item in value):
        listed = JsonObject({"layers": value}, where)
        return Holdings(name, chains=_chain(_digests(listed, "layers")))
    found: list[Holdings] = []
    for number, item in enumerate(value):
        place = f"{where}: [{number}]"
        if not isinstance(item, dict) or "RootFS" not in item:
            raise UsageError(f"{place}: expected an image, as docker image inspect prints it, got something else")
        found.append(_of_inspected(_Found(JsonObject(item, place), b"", place), name))
    return Holdings(name, chains=tuple(chain for one in found for chain in one.chains))


def _read_object(found: _Found, name: str) -> Holdings:
    for member, read in _READERS.items():
        if member in found.item:
            return read(found, name)
    raise UsageError(f"{found.where}: {_KINDS}, got a JSON document of another kind")


def _of_bundle(found: _Found, name: str) -> Holdings:
    return holdings_of_bundle(parse_bundle(found.raw, where=found.where), name)


def holdings_of_bundle(bundle: Bundle, name: str) -> Holdings:
    """Return what a far side has after it got a bundle: all that the bundle contains, and all that it expects."""
    diff_ids = diff_ids_in(bundle)
    there = {blob.digest for blob in (*bundle.blobs, *bundle.expected)} | bundle.made_digests
    chains: dict[tuple[HeldLayer, ...], None] = {}
    for image in bundle.images:
        for manifest in image.manifests:
            layers = [HeldLayer(digest, diff_ids.get(digest)) for digest in manifest.layers]
            if layers and there.issuperset(manifest.layers):
                chains[tuple(layers)] = None
    documents = frozenset(blob.digest for blob in bundle.documents)
    return Holdings(name, documents | there, tuple(chains), names=names_in(bundle))


def names_in(bundle: Bundle) -> Mapping[str, tuple[Digest, ...]]:
    """Return, by image name, the digests that the name has or had on a far side that got the bundle."""
    return {image.name: (image.digest, *image.replaces) for image in bundle.images if image.name is not None}


def _of_receipt(found: _Found, name: str) -> Holdings:
    layers = tuple(
        HeldLayer(
            parse_digest_of(layer, "digest", layer.text("digest")),
            parse_digest_of(layer, "diffId", layer.text("diffId")),
        )
        for layer in found.item.objects("layers")
    )
    blobs = frozenset(layer.digest for layer in layers if layer.digest is not None)
    return Holdings(name, blobs, (layers,) if layers else ())


def _of_manifest(found: _Found, name: str) -> Holdings:
    with locating(found.where):
        manifest = parse_document(found.raw, None)
    if not isinstance(manifest, Manifest):
        raise UsageError(
            f"{found.where}: expected a manifest, got an index, which names no layers",
            hint="give the manifest of one platform, or the image reference",
        )
    layers = tuple(HeldLayer(layer.digest, None) for layer in manifest.layers)
    blobs = frozenset({manifest.digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)})
    return Holdings(name, blobs, (layers,) if layers else ())


def _of_config(found: _Found, name: str) -> Holdings:
    with locating(found.where):
        return Holdings(name, chains=_chain(parse_config(found.raw).diff_ids))


def _of_inspected(found: _Found, name: str) -> Holdings:
    """Spec: Docker Engine API, ``ImageInspect``, ``RootFS``."""
    return Holdings(name, chains=_chain(_digests(found.item.object("RootFS"), "Layers")))


def _digests(item: JsonObject, key: str) -> tuple[Digest, ...]:
    return tuple(parse_digest_of(item, f"{key}[{number}]", text) for number, text in enumerate(item.texts(key)))


def _chain(diff_ids: tuple[Digest, ...]) -> tuple[tuple[HeldLayer, ...], ...]:
    return (tuple(HeldLayer(None, diff_id) for diff_id in diff_ids),) if diff_ids else ()


# Which reader takes a document, by a member that only its kind has; the first one counts.
_READERS: Mapping[str, Callable[[_Found, str], Holdings]] = {
    "bundleVersion": _of_bundle,
    "receiptVersion": _of_receipt,
    "RootFS": _of_inspected,
    "rootfs": _of_config,
    "layers": _of_manifest,
    "manifests": _of_manifest,
}
