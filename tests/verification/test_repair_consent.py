"""verify --repair asks whom the user names: a layout may be a stranger's, and its names are addresses of any host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ociexport import repair
from ociexport.errors import InvalidReferenceError, UsageError
from ociexport.registry.options import RegistryOptions
from ociexport.verification.repair import PlannedRepair
from tests.support.command import run_command
from tests.support.damaged_layout import DamagedLayout
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import build_image, build_index, write_layout
from tests.support.memory_source import member
from tests.support.pulled_index import FIRST, IMAGE, INDEX

FULL_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"


@pytest.fixture
def layout(tmp_path: Path, registry: FakeRegistry) -> DamagedLayout:
    """A layout of an image that ``registry`` has too; its name says so, and a layer is cut."""
    IMAGE.serve(registry, "library/app", "1")
    layout = DamagedLayout(tmp_path / "layout").write(**{f"{registry.host}/library/app:1": IMAGE})
    layout.spoil(FIRST.digest, "cut")
    return layout


def state_of(layout: DamagedLayout) -> dict[Path, tuple[int, int]]:
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in layout.path.rglob("*")}


# Nobody is asked whom only the layout names.


@pytest.mark.parametrize("broken", ["layer", "config", "manifest", "index"])
@pytest.mark.parametrize("place", [FULL_NAME, REF_NAME, "urls", "urls of the entry", "another entry's name"])
def test_address_within_a_layout_is_not_asked(tmp_path: Path, registry: FakeRegistry, place: str, broken: str) -> None:
    """However it stands there: as the image's name, as that of another image with the same blobs, or as a URL."""
    url = f"{registry.url}/internal"

    def name_urls(manifest: dict[str, Any]) -> None:
        for item in (manifest["config"], *manifest["layers"]) if place == "urls" else ():
            item["urls"] = [url]

    image = build_image([[member("a", b"1")]], edit_manifest=name_urls)
    index = build_index([image], edit_index=lambda item: item["manifests"][0].update({"urls": [url]}))
    layout = DamagedLayout(tmp_path / "layout").write(one=index, other=index)
    name = f"{registry.host}/internal/x:y"

    def edit(item: dict[str, Any]) -> None:
        entry = item["manifests"][1 if place == "another entry's name" else 0]
        if place.startswith("urls"):
            entry["urls"] = [url]
        else:
            entry["annotations"] = {FULL_NAME if "name" in place else place: name}

    layout.edit_index(edit)
    documents = {"config": image.config, "manifest": image.descriptor, "index": index.descriptor}
    digest = documents.get(broken, image.layers[0]).digest
    layout.spoil(digest, "other")
    result = repair(layout.path)
    assert (result.repaired, [blob.digest for blob in result.unrepaired], result.is_right) == ((), [digest], False)
    assert registry.requests == []
    others = tmp_path / "others"
    write_layout(others, {"one": IMAGE})
    assert not repair(layout.path, origins=[others]).is_right
    assert registry.requests == []


def test_who_could_be_asked_is_told(layout: DamagedLayout, registry: FakeRegistry) -> None:
    result = repair(layout.path)
    assert [blob.reasons for blob in result.unrepaired] == [
        (
            f"index.json names {registry.host}/library/app:1, which is used only if you allow it: "
            f"--from {registry.host}/",
        )
    ]


def test_who_could_be_asked_is_told_after_others_had_it_not(
    layout: DamagedLayout, registry: FakeRegistry, tmp_path: Path
) -> None:
    write_layout(tmp_path / "backup", {"one": build_image([[member("x")]])})
    (blob,) = repair(layout.path, origins=[tmp_path / "backup"]).unrepaired
    assert [reason.partition(" ")[0] for reason in blob.reasons] == [f"{tmp_path / 'backup'}:", "index.json"]


def test_many_names_are_told_in_one_line(layout: DamagedLayout) -> None:
    entry = json.loads((layout.path / "index.json").read_bytes())["manifests"][0]
    entries = [{**entry, "annotations": {FULL_NAME: f"r{number}.example/app:1"}} for number in range(50)]
    layout.edit_index(lambda index: index.update(manifests=entries))
    layout.spoil(IMAGE.digest, "cut")
    (blob,) = repair(layout.path).unrepaired
    assert blob.reasons == (
        "index.json names r0.example/app:1, r1.example/app:1, r2.example/app:1, …, which is used only if you allow "
        "it: --from r0.example/ --from r1.example/ --from r2.example/",
    )


# Who is asked is whom --from names.


@pytest.mark.parametrize(
    ("origin", "is_asked"),
    [
        ("HOST/", True),
        ("HOST/library/", True),
        ("HOST/library/app/", True),
        ("HOST/library/app:1", True),
        ("HOST/lib/", False),
        ("HOST/library/app/more/", False),
        ("HOST/app/", False),
        ("registry.example/", False),
        ("localhost/", False),
        ("127.0.0.1/", False),
    ],
)
def test_registry_is_asked_where_the_user_names_it(
    layout: DamagedLayout, registry: FakeRegistry, origin: str, is_asked: bool
) -> None:
    result = repair(layout.path, origins=[origin.replace("HOST", registry.host)])
    assert (result.is_right, bool(registry.requests)) == (is_asked, is_asked)


def test_docker_hub_is_named_as_in_references(tmp_path: Path) -> None:
    layout = DamagedLayout(tmp_path / "layout").write(**{"docker.io/library/app:1": IMAGE})
    layout.spoil(FIRST.digest, "cut")
    for origin in ("docker.io/", "index.docker.io/", "docker.io/library/"):
        (planned,) = repair(layout.path, origins=[origin], dry_run=True).planned
        assert (planned.asked, planned.not_asked) == (("docker.io/library/app:1",), ())


def test_image_that_is_named_by_itself_is_asked_once(layout: DamagedLayout, registry: FakeRegistry) -> None:
    name = f"{registry.host}/library/app:1"
    (planned,) = repair(layout.path, origins=[name, f"{registry.host}/"], dry_run=True).planned
    assert planned.asked == (name,)


@pytest.mark.parametrize("origin", ["https://registry.example/", "Registry.example/UPPER/", "registry.example//"])
def test_registry_that_can_be_none_is_refused(layout: DamagedLayout, origin: str) -> None:
    with pytest.raises(InvalidReferenceError):
        repair(layout.path, origins=[origin])


def test_directory_with_a_slash_is_a_path_still(
    layout: DamagedLayout, registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_layout(tmp_path / "backup.example", {"one": IMAGE})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        repair(layout.path, origins=["backup.example/"])
    assert str(caught.value) == ("source 'backup.example/': expected a registry, there is a directory of that name too")
    assert caught.value.hint == "./backup.example/ is the directory"
    for origin in ("./backup.example/", f"{tmp_path}/backup.example/", "oci:backup.example/"):
        layout.spoil(FIRST.digest, "cut")
        assert repair(layout.path, origins=[origin]).is_right
    assert registry.requests == []


# A dry run.


def test_dry_run_tells_who_would_be_asked_and_asks_nobody(
    layout: DamagedLayout, registry: FakeRegistry, tmp_path: Path
) -> None:
    write_layout(tmp_path / "backup", {"one": INDEX})
    (layout.path / "oci-layout").unlink()
    before = state_of(layout)
    name = f"{registry.host}/library/app:1"
    place = f"{name}: manifest {IMAGE.digest}: layer 1 of 2 ({FIRST.digest})"
    file = "would be repaired: oci-layout: 30 bytes from the specification"
    for origins, told in (
        ([], f"would not be repaired: {place}: index.json names {name}, which is used only if you allow it: "
             f"--from {registry.host}/"),
        ([f"{registry.host}/"], f"would be repaired: {place}: {FIRST.size} bytes from {name}"),
        (
            [str(tmp_path / "backup"), f"{registry.host}/"],
            f"would be repaired: {place}: {FIRST.size} bytes from {tmp_path / 'backup'}, else {name}",
        ),
        (
            [str(tmp_path / "backup")],
            f"would be repaired: {place}: {FIRST.size} bytes from {tmp_path / 'backup'}; not asked: {name}",
        ),
    ):  # fmt: skip
        result = repair(layout.path, origins=origins, dry_run=True)
        assert (list(map(str, result.planned)), result.repaired, result.unrepaired) == ([file, told], (), ())
        assert not result.is_right
    assert (state_of(layout), registry.requests) == (before, [])


def test_dry_run_leaves_a_cache_alone(layout: DamagedLayout, tmp_path: Path) -> None:
    before = state_of(layout)
    (planned,) = repair(layout.path, cache=tmp_path / "cache", dry_run=True).planned
    assert planned.asked == ("the cache",)
    assert (state_of(layout), (tmp_path / "cache").exists()) == (before, False)


def test_dry_run_tells_urls_that_the_user_has_allowed(tmp_path: Path, registry: FakeRegistry) -> None:
    """--foreign lets them be asked, after a registry that has not the layer."""
    url = "https://elsewhere.example/layer"
    image = build_image([[member("a")]], edit_manifest=lambda manifest: manifest["layers"][0].update(urls=[url]))
    layout = DamagedLayout(tmp_path / "layout").write(one=image)
    layout.spoil(image.layers[0].digest, "cut")
    name = f"{registry.host}/app:1"
    for foreign, asked in ((False, (name,)), (True, (name, url))):
        options = RegistryOptions(foreign=foreign)
        (planned,) = repair(layout.path, origins=[name], registry=options, dry_run=True).planned
        assert planned.asked == asked
    assert registry.requests == []


def test_dry_run_of_a_whole_layout_plans_nothing(tmp_path: Path) -> None:
    layout = DamagedLayout(tmp_path / "layout").write(one=IMAGE)
    assert repair(layout.path, dry_run=True).planned == ()


def test_names_are_printed_so_that_a_terminal_obeys_none() -> None:
    planned = PlannedRepair("a\x1b[2J", None, 1, ("b\n",), ("c\x9b",))
    assert not set(str(planned)) & set("\x1b\n\x9b")


# The command.


def test_command_tells_the_plan(layout: DamagedLayout, registry: FakeRegistry, tmp_path: Path) -> None:
    before = state_of(layout)
    arguments = ("verify", layout.path, "--repair", "--dry-run", "--from", f"{registry.host}/")
    ended = run_command(*arguments, home=tmp_path)
    name = f"{registry.host}/library/app:1"
    place = f"{name}: manifest {IMAGE.digest}: layer 1 of 2 ({FIRST.digest})"
    assert (ended.returncode, ended.stdout.splitlines()) == (
        7,
        [
            f"would be repaired: {place}: {FIRST.size} bytes from {name}",
            f"wrong: {place}: size mismatch: expected {FIRST.size} bytes, got {FIRST.size // 2}",
        ],
    )
    told = json.loads(run_command(*arguments, "--json", home=tmp_path).stdout)
    assert (told["dryRun"], told["right"], told["planned"], told["advice"]) == (
        True,
        False,
        [{"place": place, "size": FIRST.size, "asked": [name], "notAsked": [], "digest": str(FIRST.digest)}],
        [],
    )
    assert (state_of(layout), registry.requests) == (before, [])


def test_strangers_layout_sends_the_command_nowhere(
    layout: DamagedLayout, registry: FakeRegistry, tmp_path: Path
) -> None:
    ended = run_command("verify", layout.path, "--repair", home=tmp_path)
    assert (ended.returncode, registry.requests) == (7, [])
    assert f"not repaired: index.json names {registry.host}/library/app:1, which is used only" in ended.stderr
