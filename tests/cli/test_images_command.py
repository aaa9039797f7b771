"""`ociexport images`: the images that a file names, sure ones and maybes apart. Source: issue 18, "Lists and locks"."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.command import run_command

OBJECTS = """apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
    - {name: a, image: "nginx:1.27", env: [{name: RELATED_IMAGE, value: "quay.io/team/other:2"}]}
    - {name: b, image: "{{ x }}"}
"""


def test_sure_images_and_maybes_are_apart(tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(OBJECTS)
    ended = run_command("images", file, home=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "nginx:1.27\n# maybe images:\n# quay.io/team/other:2\n")
    assert ended.stderr.splitlines() == [
        f"ociexport: warning: {file}:7: Pod web: spec.containers[1].image: left out: it is a template, expected what "
        "it makes: {{ x }}",
        f"ociexport: {file}: Kubernetes: 1 image, 1 maybe",
    ]


def test_why_gives_the_place(tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(OBJECTS)
    ended = run_command("images", file, "--why", "-q", home=tmp_path)
    assert ended.stdout.splitlines() == [
        f"nginx:1.27  # {file}:6: Pod web: spec.containers[0].image",
        "# maybe images:",
        f"# quay.io/team/other:2  # {file}:6: Pod web: spec.containers[0].env[0].value: the variable RELATED_IMAGE",
    ]


def test_json(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("alpine platform=all\nredis semver=7 newest=1\n")
    found = json.loads(run_command("images", file, "--json", home=tmp_path).stdout)
    assert found == {
        "jsonVersion": 1,
        "command": "images",
        "file": str(file),
        "formats": ["lines"],
        "images": [
            {"image": "alpine", "platforms": ["all"], "selection": None, "why": [f"{file}:1"]},
            {
                "image": "redis",
                "platforms": None,
                "selection": {"allowed": [], "denied": [], "semver": "7", "newest": 1},
                "why": [f"{file}:2"],
            },
        ],
        "maybes": [],
        "warnings": [],
    }


def test_what_is_no_list_is_one_line(tmp_path: Path) -> None:
    for content, code, message in (
        (b"a: [", 2, "expected YAML, got a syntax error"),
        (b"\x7fELF\0\xff", 2, "expected a list in UTF-8, got"),
        (None, 3, "No such file or directory"),
    ):
        file = tmp_path / "file"
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        ended = run_command("images", file, home=tmp_path)
        assert (ended.returncode, ended.stdout) == (code, "")
        (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("hint: ")]
        assert line.startswith(f"ociexport: error: {file}")
        assert message in line


def test_a_list_in_json_needs_no_yaml(tmp_path: Path) -> None:
    """PyYAML is an extra: without it, lines and JSON are read, and YAML says what to install."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "yaml.py").write_text("raise ImportError('hidden')\n")
    (tmp_path / "list.json").write_text('["alpine:3"]')
    (tmp_path / "list.txt").write_text("alpine:3\n")
    (tmp_path / "list.yaml").write_text("- alpine:3\n")
    for name in ("list.json", "list.txt"):
        ended = run_command("images", tmp_path / name, "-q", home=tmp_path, variables={"PYTHONPATH": str(hidden)})
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "alpine:3\n", "")
    ended = run_command("images", tmp_path / "list.yaml", home=tmp_path, variables={"PYTHONPATH": str(hidden)})
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        f"ociexport: error: {tmp_path}/list.yaml: expected PyYAML for a list in YAML, it is not installed",
        "hint: pip install 'ociexport[lists]'",
    ]
