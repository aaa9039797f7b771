"""configuration: defaults from a file and the environment, in order of precedence; errors in them are reported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ociexport.cli.commandline import EXAMPLES, new_parser, parse_command_line
from ociexport.cli.configuration import OPTION_NAMES, apply_configuration, configuration_path
from ociexport.cli.parser import long_options
from ociexport.errors import UsageError
from tests.support.command import run_command

WORDS = ["pull", "debian:12", "--out", "x"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "my.toml"
    monkeypatch.setenv("OCIEXPORT_CONFIG", str(path))
    return path


def test_built_in_default_is_the_last_resort() -> None:
    assert parse_command_line(WORDS).jobs == 4


def test_each_place_goes_before_the_one_below(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Command line, environment, the command's table, the file's top level, built-in."""
    file.write_text("jobs = 5")
    assert parse_command_line(WORDS).jobs == 5
    file.write_text("jobs = 5\n[pull]\njobs = 6\n")
    assert parse_command_line(WORDS).jobs == 6
    monkeypatch.setenv("OCIEXPORT_JOBS", "7")
    assert parse_command_line(WORDS).jobs == 7
    assert parse_command_line([*WORDS, "--jobs", "8"]).jobs == 8


def test_top_level_is_for_commands_that_have_the_option(file: Path) -> None:
    file.write_text("jobs = 5\nretry-times = 7\n[pull]\ncache = '/c'\n")
    assert parse_command_line(["treehash", "x"]).rootfs == "x"
    assert parse_command_line(["tags", "debian"]).retry_times == 7


@pytest.mark.parametrize(
    ("user", "machine", "jobs"), [("jobs = 5", "jobs = 6", 5), (None, "jobs = 6", 4), ("", "jobs = 6", 4)]
)
def test_file_of_the_user_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str | None, machine: str, jobs: int
) -> None:
    """The machine's file is in /etc, so it can't be tested here. Like other tools of the field, we read one file."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    if user is not None:
        (tmp_path / "ociexport").mkdir()
        (tmp_path / "ociexport" / "ociexport.toml").write_text(user)
    assert parse_command_line(WORDS).jobs == jobs


def test_directory_that_may_not_be_looked_into_has_no_file(tmp_path: Path) -> None:
    """sudo -u may keep the variables of another user."""
    (tmp_path / "ociexport").symlink_to("ociexport")
    assert configuration_path({"XDG_CONFIG_HOME": str(tmp_path)}) is None


def test_file_in_the_working_directory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ociexport.toml").write_text("jobs = 5")
    monkeypatch.chdir(tmp_path)
    assert parse_command_line(WORDS).jobs == 4


def test_option_that_may_be_repeated_takes_a_list_and_gives_way(file: Path) -> None:
    file.write_text("[pull]\nplatform = ['linux/arm64', 'linux/amd64']\n")
    assert parse_command_line(WORDS).platform == ["linux/arm64", "linux/amd64"]
    assert parse_command_line([*WORDS, "--platform", "x/y"]).platform == ["x/y"]
    file.write_text("[pull]\nplatform = 'linux/s390x'\n")
    assert parse_command_line(WORDS).platform == ["linux/s390x"]


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False)])
def test_switch_takes_true_and_false(file: Path, text: str, value: bool) -> None:
    file.write_text(f"plain-http = {text}\n")
    assert parse_command_line(WORDS).plain_http is value


def test_switch_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCIEXPORT_PLAIN_HTTP", "1")
    monkeypatch.setenv("OCIEXPORT_NO_PREFLIGHT", "yes")
    options = parse_command_line(["unpack", "debian:12", "x"])
    assert (options.plain_http, options.preflight) == (True, False)


def test_required_option_may_come_from_the_file(file: Path) -> None:
    file.write_text("[pull]\nout = './layout'\n")
    assert parse_command_line(["pull", "debian:12"]).out == "./layout"


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        ("[pull]\njob = 5", "pull.job: there is no such option", "did you mean jobs?"),
        ("[pull]\nxyz = 5", "pull.xyz: there is no such option", "see ociexport pull --help-all"),
        ("[pull]\nhelp = true", "pull.help: there is no such option", "see ociexport pull --help-all"),
        ("[pull]\njobs = 'many'", "pull.jobs: expected a whole number, got 'many'", None),
        ("jobs = true", "jobs: expected a text or a number, got 'True'", None),
        ("plain-http = 3", "plain-http: expected true or false, got '3'", None),
        ("format = 'zip'", "format: expected one of oci, oci-archive, docker-archive, got 'zip'", None),
        ("pull = 3", "pull: expected a table, got '3'", None),
        ("retry-times = -1", "retry-times: expected a number from 0 on, got '-1'", None),
        ("out = ''", "out: expected a text or a number, got ''", None),
        (r'out = "a\u0000b"', r"out: expected a text or a number, got 'a\x00b'", None),
        ("[unpak]\nsparse = true", "unpak: there is no such command", "did you mean unpack?"),
        ("jbs = 3", "jbs: there is no such option", "did you mean jobs?"),
        ("frobnicate = 3", "frobnicate: there is no such option", "see ociexport help configuration"),
    ],
)
def test_what_is_wrong_in_the_file_is_told(file: Path, text: str, error: str, hint: str | None) -> None:
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        parse_command_line(WORDS)
    assert (str(caught.value), caught.value.hint) == (f"{file}: {error}", hint)


@pytest.mark.parametrize("raw", [b"jobs = = 5", b"\xff\xfe", b"x" * (1024 * 1024 + 1)])
def test_file_that_is_no_toml_is_told(file: Path, raw: bytes) -> None:
    file.write_bytes(raw)
    with pytest.raises(UsageError, match=rf"^{file}: expected "):
        parse_command_line(WORDS)


def test_variable_that_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCIEXPORT_PLAIN_HTTP", "perhaps")
    with pytest.raises(UsageError, match=r"^OCIEXPORT_PLAIN_HTTP: expected true or false, got 'perhaps'$"):
        parse_command_line(WORDS)


def test_variable_that_is_empty_is_as_if_it_were_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCIEXPORT_JOBS", "")
    assert parse_command_line(WORDS).jobs == 4


def test_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    ended = run_command(*WORDS, home=tmp_path, variables={"OCIEXPORT_CONFIG": f"{tmp_path}/none.toml"})
    assert (ended.returncode, ended.stderr) == (
        3,
        f"ociexport: error: {tmp_path}/none.toml: No such file or directory\n",
    )


def test_variable_for_no_command_is_told_once_and_the_work_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OCIEXPORT_JBOS", "7")
    monkeypatch.setenv("OCIEXPORT_\x1b[31m", "7")
    # A variable for another command, an empty one, and the file's own.
    monkeypatch.setenv("OCIEXPORT_DEEP", "1")
    monkeypatch.setenv("OCIEXPORT_TYPO", "")
    monkeypatch.setenv("OCIEXPORT_CONFIG", os.devnull)
    assert parse_command_line(WORDS).jobs == 4
    assert capsys.readouterr() == (
        "",
        "ociexport: warning: OCIEXPORT_\\x1b[31m: there is no such option; see ociexport help configuration\n"
        "ociexport: warning: OCIEXPORT_JBOS: there is no such option; did you mean OCIEXPORT_JOBS?\n",
    )


def test_names_of_all_options_are_those_that_commands_have() -> None:
    _, commands = new_parser(EXAMPLES)
    options = {option.removeprefix("--") for command in commands.values() for option in long_options(command)}
    assert options - {"help", "help-all"} == OPTION_NAMES


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_each_command_can_be_configured(name: str) -> None:
    _, commands = new_parser([name])
    apply_configuration(name, commands[name], (), {"OCIEXPORT_QUIET": "1"})
    assert commands[name].get_default("quiet") is True


# Options before the command's name


@pytest.mark.parametrize(
    "words",
    [
        ["-q", "pull", "debian:12", "-o", "x", "--jobs", "7"],
        ["--jobs", "7", "--quiet", "pull", "debian:12", "-o", "x"],
        ["--jobs=7", "-q", "pull", "-o", "x", "--", "debian:12"],
        ["--", "pull", "--jobs=7", "-q", "debian:12", "-o", "x"],
    ],
)
def test_options_may_stand_before_the_command(words: list[str]) -> None:
    """skopeo, podman and git have their global options there."""
    options = parse_command_line(words)
    assert (options.command, options.quiet, options.jobs, options.out, options.images) == (
        "pull",
        True,
        7,
        "x",
        ["debian:12"],
    )


def test_value_of_an_option_may_be_called_as_a_command() -> None:
    options = parse_command_line(["-q", "--authfile", "login", "--out", "rm", "pull", "verify"])
    assert (options.command, options.authfile, options.out) == ("pull", Path("login"), "rm")
    assert (options.quiet, options.images) == (True, ["verify"])


def test_help_before_a_command_is_that_of_the_command(tmp_path: Path) -> None:
    assert run_command("-h", "rm", home=tmp_path).stdout == run_command("rm", "--help", home=tmp_path).stdout
    assert run_command("--version", "rm", home=tmp_path).stdout == run_command("--version", home=tmp_path).stdout


# Help, and what was probably meant


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["pul"], "unknown command 'pul'", "did you mean ociexport pull?"),
        (["-q", "pul", "x"], "unknown command 'pul'", "did you mean ociexport pull?"),
        (["--quite", "pull", "x", "-o", "y"], "pull: unknown option '--quite'", "did you mean --quiet?"),
        (["pull", "x", "-o"], "-o/--out: expected PATH, got nothing", "see ociexport pull --help"),
        (["unpack", "x", "y", "--xattrs"], "--xattrs: expected a value, got nothing", "see ociexport unpack --help"),
        (["frobnicate"], "unknown command 'frobnicate'", "see ociexport --help"),
        (["pull", "x", "-o", "y", "--retry-time", "3"], "pull: unknown option '--retry-time'", "--retry-times?"),
        (["unpack", "x", "y", "--sparce"], "unpack: unknown option '--sparce'", "did you mean --sparse?"),
        (["pull", "x", "--output", "y"], "pull: unknown option '--output'", "did you mean --out?"),
        (["pull", "x", "-o", "y", "--arch=arm64"], "pull: unknown option '--arch'", "did you mean --platform?"),
        (["auth", "explian", "x"], "ACTION: expected explain, got 'explian'", "did you mean ociexport auth explain?"),
        (["auth", "explain", "x", "--authfil=y"], "auth: unknown option '--authfil'", "did you mean --authfile?"),
        (
            ["unpack", "x", "y", "--xattrs=wran"],
            "--xattrs: expected strict, warn or none, got 'wran'",
            "--xattrs=warn?",
        ),
        (
            ["completion", "fsh"],
            "shell: expected bash, zsh or fish, got 'fsh'",
            "did you mean ociexport completion fish?",
        ),
        (
            ["unpack", "x", "y", "z"],
            "unpack: expected SRC ROOTFS, got 'z' too",
            "for example ociexport unpack debian:12 ./rootfs",
        ),
    ],
)
def test_what_was_probably_meant_is_said(words: list[str], error: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_command_line(words)
    assert str(caught.value) == error
    assert str(caught.value.hint).endswith(hint)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_help_of_a_command_fits_a_screen_and_has_an_example(name: str, tmp_path: Path) -> None:
    ended = run_command(name, "--help", home=tmp_path)
    lines = ended.stdout.splitlines()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(lines) <= 50
    assert f"  {EXAMPLES[name]}" in lines


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_example_of_a_command_parses(name: str) -> None:
    words = EXAMPLES[name].partition(" <")[0].partition(" >")[0].split()
    assert callable(parse_command_line(words[1:]).run)


def test_all_options_are_a_word_away(tmp_path: Path) -> None:
    short, long = (run_command("pull", flag, home=tmp_path).stdout for flag in ("--help", "--help-all"))
    assert "--retry-times" not in short
    assert "--retry-times" in long
    assert "ociexport pull --help-all shows more: logging in to registries, reaching registries" in short


@pytest.mark.parametrize("topic", ["references", "platforms", "sources", "credentials", "configuration", "exit-codes"])
def test_topic_is_explained_on_a_screen(topic: str, tmp_path: Path) -> None:
    ended = run_command("help", topic, home=tmp_path)
    lines = ended.stdout.splitlines()
    assert (ended.returncode, len(lines) <= 24, max(map(len, lines)) <= 80) == (0, True, True)


def test_help_of_a_command_is_its_help(tmp_path: Path) -> None:
    assert run_command("help", "pull", home=tmp_path).stdout == run_command("pull", "--help", home=tmp_path).stdout
    assert run_command("help", home=tmp_path).stdout == run_command("--help", home=tmp_path).stdout


def test_unknown_topic_is_told(tmp_path: Path) -> None:
    ended = run_command("help", "platform", home=tmp_path)
    assert (ended.returncode, ended.stderr) == (
        2,
        "ociexport: error: help: expected a command or a topic, got 'platform'\n"
        "hint: did you mean ociexport help platforms?\n",
    )
