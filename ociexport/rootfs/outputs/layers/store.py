"""A directory of layers in overlayfs's form, which images share.

======================================  ================================================================================
``sha256/HEX``                          the layer with this diff_id, see `directories`
``sha256/HEX.erofs``                    the same as an erofs file, see `erofs_files`
``sha256/HEX-CHAIN``                    the layer above other layers than the first one, where it then has another form
``empty``                               an empty directory, since overlayfs takes no single layer
``l/NAME``                              short names of layers, for images with many
``.ociexport/``                         for each layer, a stamp and an index of its names; locks
======================================  ================================================================================

A layer's form can depend on the layers below it: on the metadata of directories that it writes into without describing
them, on links in its paths, on the files that it links to, on what its whiteouts hide. Such a layer is used only above
the same layers, which their chain ID tells. The first one has the plain name; others have the start of their chain ID
too.

A layer that has a stamp is complete: it gets its name in one step, after its stamp was written. It is not read again.

Spec: image-spec 1.1 config.md, "Layer ChainID".
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ociexport.errors import UsageError, quoted
from ociexport.layers.tar.reader import Entry
from ociexport.rootfs.outputs.layers.index import LayerIndex, decode_entry, encode_entry
from ociexport.spec.config import Layer
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.system.files import new_file
from ociexport.system.host_paths import real_target
from ociexport.system.locks import open_locked

_STATE = ".ociexport"
_STAMP_VERSION = 1
# Of the chain ID; the whole of it is compared.
_CHAIN_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class ChainedLayer:
    """A layer and the layers below it.

    Args:
        layer: with its diff_id.
        chain: the chain ID.
        is_lowest: whether no layer is below.
    """

    layer: Layer
    chain: Digest
    is_lowest: bool

    @property
    def diff_id(self) -> Digest:
        """The layer's diff_id."""
        return self.layer.diff_id


def chained(layers: Sequence[Layer]) -> Iterator[ChainedLayer]:
    """Yield the layers of an image, lowest first, with their chain IDs."""
    chain: Digest | None = None
    for layer in layers:
        is_lowest = chain is None
        chain = layer.diff_id if chain is None else Digest.of(f"{chain} {layer.diff_id}".encode())
        yield ChainedLayer(layer, chain, is_lowest)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What is known of a complete layer.

    Args:
        diff_id: of the layer.
        chain: of the layers for which it was made.
        form: how it was made; layers of another form can't be used together with it.
        looks_below: whether its form depends on the layers below.
        describes_root: whether it has an entry for the root itself.
        root: metadata of its root; None if no layer has an entry for the root.
        entries: number in the tar.
        tar_bytes: of the tar.
        losses: one line for each kind of loss.
        has_marked_whiteouts: whether whiteouts are files with an attribute.
        lacks_user_marks: whether opaque directories are not so for overlayfs's option ``userxattr``.
    """

    diff_id: str
    chain: str
    form: str
    looks_below: bool
    describes_root: bool
    root: Entry | None
    entries: int
    tar_bytes: int
    losses: tuple[str, ...]
    has_marked_whiteouts: bool
    lacks_user_marks: bool

    def fits(self, wanted: ChainedLayer, root_below: Entry | None) -> bool:
        """Whether the layer is what ``wanted`` would be; ``root_below`` describes the root of the layers below it."""
        if self.diff_id != str(wanted.diff_id):
            return False
        if self.chain == str(wanted.chain):
            return True
        return not self.looks_below and (self.describes_root or _same_root(self.root, root_below))


class LayerStore:
    """The layers in a directory.

    Args:
        directory: made if it is missing; its parent exists.
        suffix: of their names.

    Attributes:
        state: path of the directory for stamps and temporary files.

    Raises:
        OSError: it can't be made.
    """

    def __init__(self, directory: str, suffix: str) -> None:
        self.directory = os.path.abspath(directory)
        self._suffix = suffix
        # An image may have programs that are setuid: other users have no business in its layers.
        for name in ("", _STATE, f"{_STATE}/locks"):
            with suppress(FileExistsError):
                os.mkdir(os.path.join(self.directory, name), 0o700)
        self.directory = real_target(self.directory)
        self.state = os.path.join(self.directory, _STATE)

    def find(self, wanted: ChainedLayer, root_below: Entry | None, form: str) -> tuple[str, Stamp] | None:
        """Return the path of a layer relative to the directory, and its stamp; None if it is not there.

        Args:
            root_below: describes the root of the layers below.
            form: in words, how layers are to be made.

        Raises:
            UsageError: the directory has layers of another form.
        """
        for name in self._names(wanted):
            stamp = self._stamp_of(name)
            if stamp is not None and stamp.fits(wanted, root_below):
                if stamp.form != form:
                    raise UsageError(
                        f"{quoted(self.directory)}: expected layers made {form}, got some made {stamp.form}",
                        hint="use another directory for these layers",
                    )
                return name, stamp
        return None

    def new_name(self, wanted: ChainedLayer) -> str:
        """Return the path, relative to the directory, for a layer that `find` did not find."""
        plain, other = self._names(wanted)
        return plain if self._stamp_of(plain) is None else other

    def index_of(self, name: str) -> LayerIndex | None:
        """Return the index of a layer; None if it is missing or damaged."""
        try:
            with open(self._file_of(name, "index"), "rb") as file:
                return LayerIndex.from_json(json.load(file))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @contextmanager
    def locked(self, wanted: ChainedLayer) -> Iterator[None]:
        """Keep other processes from making the same layer; the block begins when they have made theirs."""
        os.makedirs(os.path.join(self.directory, wanted.diff_id.algorithm), mode=0o755, exist_ok=True)
        fd = open_locked(os.path.join(self.state, "locks", f"{wanted.diff_id.algorithm}-{wanted.diff_id.encoded}"))
        try:
            yield
        finally:
            os.close(fd)

    def write_stamp(self, name: str, stamp: Stamp, index: LayerIndex) -> None:
        """Write a layer's stamp and index; the layer gets its name right after."""
        members = {field: getattr(stamp, field) for field in Stamp.__slots__}
        members["root"] = None if stamp.root is None else encode_entry(stamp.root)
        with new_file(self._file_of(name, "index")) as file:
            for part in index.json_parts():
                file.write(part.encode())
        with new_file(self._file_of(name, "stamp")) as file:
            file.write(json.dumps({"stampVersion": _STAMP_VERSION, **members}).encode())

    def _names(self, wanted: ChainedLayer) -> tuple[str, str]:
        plain = f"{wanted.diff_id.algorithm}/{wanted.diff_id.encoded}"
        return plain + self._suffix, f"{plain}-{wanted.chain.encoded[:_CHAIN_CHARACTERS]}{self._suffix}"

    def _file_of(self, name: str, kind: str) -> str:
        return os.path.join(self.state, f"{name.replace('/', '-')}.{kind}.json")

    def _stamp_of(self, name: str) -> Stamp | None:
        """Return the stamp of a layer that is there; None for one that is missing, or whose stamp is damaged."""
        if not os.path.lexists(os.path.join(self.directory, name)):
            return None
        try:
            with open(self._file_of(name, "stamp"), "rb") as file:
                value: dict[str, Any] = json.load(file)
            if value.pop("stampVersion") != _STAMP_VERSION:
                return None
            value["root"] = None if value["root"] is None else decode_entry(value["root"])
            return Stamp(**{**value, "losses": tuple(value["losses"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _same_root(one: Entry | None, other: Entry | None) -> bool:
    return (one and encode_entry(one)) == (other and encode_entry(other))
