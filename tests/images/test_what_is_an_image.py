"""The config and the content of its layers make an image; media types of layers neither make one nor prevent it.

Spec: image-spec 1.1 manifest.md, "layers", "config": implementations must not fail for an unknown media type.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import ociexport
from ociexport.errors import DiffIdMismatchError
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import AMD64, BuiltImage, Json, build_image, build_index, write_layout
from tests.support.memory_source import member, sloppy_gzip, tar_of
from tests.support.recording_progress import RecordingProgress
from tests.support.saved_archives import write_tar

LAYERS = [tar_of([member("a", b"1")]), tar_of([member("b", b"2")])]
UNKNOWN = [
    "application/octet-stream",
    "application/x-unknown",
    "application/vnd.example.layer.v1",
    "application/vnd.example.tree+squashfs",
    "strange",
    "",
]
# The type of a layer speaks of something else. `pull` believes it, and what reads the layers looks at them.
OTHER = ["application/json", "application/vnd.example.v1+json", "text/plain", "application/wasm"]
# A layer is encrypted, or so it says.
SAYS_TAR = [f"{mediatypes.OCI_LAYER_GZIP}+encrypted", "application/x-tar", "application/tar+gzip"]

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent.parent))

    def run(*words: str) -> CompletedProcess[str]:
        done = run_command(*words, home=tmp_path, variables={"DOCKER_DEFAULT_PLATFORM": "linux/amd64"})
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture(params=["registry", "layout", "archive"])
def put(request: pytest.FixtureRequest, registry: FakeRegistry, tmp_path: Path) -> Callable[[BuiltImage], str]:
    """Return a function that stores an image somewhere, and returns its name there."""

    def put(image: BuiltImage) -> str:
        if request.param == "registry":
            return image.serve(registry, "library/app", "1")
        write_layout(tmp_path / "from", {"1": image})
        if request.param == "layout":
            return "./from:1"
        files = [path for path in (tmp_path / "from").rglob("*") if path.is_file()]
        write_tar(tmp_path / "from.tar", {str(p.relative_to(tmp_path / "from")): p.read_bytes() for p in files})
        return "./from.tar"

    return put


def with_layer_types(*types: str) -> BuiltImage:
    def edit(manifest: Json) -> None:
        for layer, media_type in zip(manifest["layers"], types, strict=True):
            layer["mediaType"] = media_type

    return build_image(LAYERS, edit_manifest=edit)


def artifact_of(config: bytes, config_type: str, *layer_types: str, **members: object) -> BuiltImage:
    """Return a manifest of ``config`` and of layers that are tars, with ``members`` added."""

    def edit(manifest: Json) -> None:
        manifest["config"] = {"mediaType": config_type, "digest": str(Digest.of(config)), "size": len(config)}
        for layer, media_type in zip(manifest["layers"], layer_types, strict=True):
            layer["mediaType"] = media_type
        manifest.update(members)

    image = build_image(LAYERS[: len(layer_types)], edit_manifest=edit)
    image.blobs[Digest.of(config)] = config
    return image


def assert_is_image(run: Run, name: str) -> None:
    """Unpack the image, list its files and prove its layers."""
    done = run("unpack", name, "rootfs", "--replace")
    assert (done.returncode, Path("rootfs/a").read_bytes(), Path("rootfs/b").read_bytes()) == (0, b"1", b"2")
    done = run("ls", name)
    assert (done.returncode, done.stdout.split()) == (0, ["/a", "/b"]), done.stderr
    done = run("verify", "--deep", name)
    wrong = [line for line in done.stdout.splitlines() if line.startswith("wrong") and "a media type" not in line]
    assert (wrong, "2 layers" in done.stderr) == ([], True), done.stderr


@pytest.mark.parametrize("media_type", ["application/octet-stream", "text/plain"])
def test_image_is_one_wherever_it_is(run: Run, put: Callable[[BuiltImage], str], media_type: str) -> None:
    image = with_layer_types(media_type, media_type)
    name = put(image)
    for out in ("layout", "a.tar"):
        done = run("pull", name, "--out", out, "--json")
        assert (done.returncode, "warning" in done.stderr) == (0, False), done.stderr
        [pulled] = json.loads(done.stdout)["images"]
        assert (pulled["digest"], pulled["manifests"][0]["isImage"]) == (str(image.digest), media_type not in OTHER)
        assert_is_image(run, f"./{out}")
    assert_is_image(run, name)


@pytest.mark.parametrize("media_type", [*UNKNOWN, *OTHER, *SAYS_TAR])
def test_image_is_one_whatever_the_types_of_its_layers(tmp_path: Path, media_type: str) -> None:
    image = with_layer_types(media_type, media_type)
    result = ociexport.pull(image.source(), tmp_path / "layout", platform=AMD64)
    assert (result.digest, result.is_image) == (image.digest, media_type not in OTHER)
    name = str(tmp_path / "layout")
    unpacked = ociexport.unpack(name, tmp_path / "rootfs", platform=AMD64)
    assert (unpacked.entries, (tmp_path / "rootfs" / "b").read_bytes()) == (2, b"2")
    found = ociexport.verify(name, deep=True)
    wrong = [finding for finding in found.findings if finding.is_wrong and "a media type" not in finding.message]
    assert (wrong, found.layers) == ([], 2)


@pytest.mark.parametrize("types", [("application/octet-stream", mediatypes.OCI_LAYER_GZIP), ("text/plain", "x/y")])
def test_types_of_layers_may_differ(run: Run, tmp_path: Path, types: tuple[str, str]) -> None:
    write_layout(tmp_path / "from", {"1": with_layer_types(*types)})
    assert_is_image(run, "./from")
    assert (run("cat", "./from", "b").stdout, run("diff", "rootfs", "./from").returncode) == ("2", 0)


def test_artifact_type_beside_an_images_config_is_no_obstacle(run: Run, tmp_path: Path) -> None:
    image = build_image(
        LAYERS,
        edit_manifest=lambda manifest: (
            manifest.update(artifactType="application/vnd.example"),
            [layer.update(mediaType="application/vnd.example.part") for layer in manifest["layers"]],
        ),
    )
    write_layout(tmp_path / "from", {"1": image})
    assert_is_image(run, "./from")


@pytest.mark.parametrize("media_type", [*UNKNOWN, *OTHER, *SAYS_TAR])
def test_diff_id_proves_a_layer_of_any_type(tmp_path: Path, media_type: str) -> None:
    def edit(config: Json) -> None:
        config["rootfs"]["diff_ids"].reverse()

    image = build_image(
        LAYERS,
        edit_config=edit,
        edit_manifest=lambda manifest: [layer.update(mediaType=media_type) for layer in manifest["layers"]],
    )
    mismatch = f"diff_id mismatch: expected {image.diff_ids[1]}, got {image.diff_ids[0]}"
    with pytest.raises(DiffIdMismatchError, match=mismatch):
        ociexport.unpack(image.source(), tmp_path / "rootfs", platform=AMD64)
    assert list(tmp_path.iterdir()) == []
    assert mismatch in [finding.message for finding in ociexport.verify(image.source(), deep=True).findings]


# What is copied although it is no image.


@pytest.mark.parametrize("layer_type", [mediatypes.OCI_LAYER_GZIP, *UNKNOWN, *OTHER])
def test_empty_config_of_an_images_type_gives_one_warning(tmp_path: Path, layer_type: str) -> None:
    """oras wrote such artifacts for registries that take nothing else."""
    files, progress = artifact_of(b"{}", mediatypes.OCI_CONFIG, layer_type), RecordingProgress()
    assert not ociexport.pull(files.source(), tmp_path / "layout", platform=AMD64, progress=progress).is_image
    assert len(progress.warnings) == 1


@pytest.mark.parametrize("config", [b"{}", b'{"architecture":"amd64","os":"linux"}', b'{"rootfs":null}'])
@pytest.mark.parametrize("config_type", [mediatypes.OCI_CONFIG, mediatypes.DOCKER_CONFIG, mediatypes.LEGACY_CONFIG, ""])
def test_config_without_root_filesystem_is_pulled_with_a_warning(
    tmp_path: Path, config: bytes, config_type: str
) -> None:
    """An OPA bundle has an image's types, and ``{}`` as its config."""
    bundle, progress = artifact_of(config, config_type, mediatypes.OCI_LAYER_GZIP), RecordingProgress()
    result = ociexport.pull(bundle.source(), tmp_path / "layout", platform=AMD64, progress=progress)
    assert (result.digest, result.is_image) == (bundle.digest, False)
    assert progress.warnings == [
        "memory: copied as an artifact: its config describes no root filesystem, so unpack refuses it"
    ]


def test_bundle_is_copied_everywhere_and_only_unpack_refuses_it(run: Run, put: Callable[[BuiltImage], str]) -> None:
    bundle = artifact_of(b"{}", mediatypes.OCI_CONFIG, mediatypes.OCI_LAYER_GZIP)
    name = put(bundle)
    for out in ("layout", "a.tar"):
        done = run("pull", name, "--out", out, "--json")
        assert (done.returncode, done.stderr.count("warning")) == (0, 1), done.stderr
        [pulled] = json.loads(done.stdout)["images"]
        assert (pulled["digest"], pulled["manifests"][0]["isImage"]) == (str(bundle.digest), False)
        again = run("pull", f"./{out}", "--out", f"again-{out}")
        assert (again.returncode, str(bundle.digest) in again.stdout) == (0, True)
        for words in ((), ("--deep",)):
            done = run("verify", *words, f"./{out}")
            assert (done.returncode, "wrong" in done.stdout) == (0, False), done.stdout
        assert run("inspect", f"./{out}").returncode == 0
        done = run("unpack", f"./{out}", "rootfs")
        assert (done.returncode, done.stderr.splitlines()[-2:]) == (
            8,
            [
                f"ociexport: error: config {Digest.of(b'{}')}: rootfs: expected an object, got nothing",
                "hint: an artifact has such a config, and no root filesystem; pull copies it as it is",
            ],
        )
        assert not Path("rootfs").exists()


@pytest.mark.parametrize("config_type", ["application/vnd.unknown.config.v1+json", "strange", "image/png"])
@pytest.mark.parametrize("layer_type", ["application/vnd.unknown", "strange", "", mediatypes.OCI_LAYER])
@pytest.mark.parametrize("config", [b"{}", b"", b"no JSON", b'["list"]'])
@pytest.mark.parametrize("out", ["layout", "a.tar"])
def test_unknown_types_never_end_a_pull(
    tmp_path: Path, config: bytes, config_type: str, layer_type: str, out: str
) -> None:
    artifact = artifact_of(config, config_type, layer_type)
    assert ociexport.pull(artifact.source(), tmp_path / out, platform=AMD64).digest == artifact.digest


@pytest.mark.parametrize("layer_type", [*UNKNOWN[:-1], *OTHER])
@pytest.mark.parametrize(
    "config", [b"no JSON", b"[]", b'{"rootfs":{}}', b'{"rootfs":{"type":"layers","diff_ids":[]}}'], ids=bytes.decode
)
def test_config_of_an_images_type_may_be_anything_beside_unknown_layers(
    tmp_path: Path, config: bytes, layer_type: str
) -> None:
    artifact = artifact_of(config, mediatypes.OCI_CONFIG, layer_type)
    assert not ociexport.pull(artifact.source(), tmp_path / "layout", platform=AMD64).is_image
    wrong = [
        finding.message
        for finding in ociexport.verify(str(tmp_path / "layout"), deep=True).findings
        if finding.is_wrong
    ]
    assert wrong == ([] if "/" in layer_type else ["expected a media type, got 'strange'"])


def test_config_that_is_broken_beside_an_images_layers_is_an_error(run: Run, registry: FakeRegistry) -> None:
    """It is an image's, and such an image can't be run."""
    for number, config in enumerate((b"no JSON", b'{"rootfs":{"type":"layers","diff_ids":[]}}')):
        broken = artifact_of(config, mediatypes.OCI_CONFIG, mediatypes.OCI_LAYER_GZIP)
        done = run("pull", broken.serve(registry, "library/broken", str(number)), "--out", "layout")
        assert (done.returncode, done.stdout) == (8, "")


def test_bundle_in_an_index_does_not_keep_the_images_beside_it(run: Run, registry: FakeRegistry) -> None:
    index = build_index([build_image(LAYERS), artifact_of(b"{}", mediatypes.OCI_CONFIG, mediatypes.OCI_LAYER)])
    done = run("pull", "--all", index.serve(registry, "library/both", "1"), "--out", "layout")
    assert (done.returncode, str(index.digest) in done.stdout) == (0, True), done.stderr


def test_content_of_a_layer_is_no_proof_without_its_digest(run: Run, registry: FakeRegistry) -> None:
    """The look at a doubtful layer believes nothing: the layer is verified when it is read."""
    image = with_layer_types("application/json", "application/json")
    image.blobs[image.layers[0].digest] = sloppy_gzip(tar_of([member("evil")]))
    done = run("unpack", image.serve(registry, "library/app", "1"), "rootfs")
    assert (done.returncode, "mismatch" in done.stderr, Path("rootfs").exists()) == (7, True, False)
