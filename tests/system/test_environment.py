"""environment: the directories of the user's own files, also for a uid without a user."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from ociexport.system.environment import configuration_home, home_directory
from tests.support.system_parts import require


def test_variables_go_first() -> None:
    assert home_directory({"HOME": "/home/alice"}) == Path("/home/alice")
    assert configuration_home({"HOME": "/home/alice"}) == Path("/home/alice/.config")
    assert configuration_home({"HOME": "/home/alice", "XDG_CONFIG_HOME": "/etc/alice"}) == Path("/etc/alice")


def test_user_whom_the_system_does_not_know_can_run_every_command(tmp_path: Path) -> None:
    """As after ``docker run --user 54321``, or in a pod: a uid, no user, and no HOME.

    If the environment names another user's session directory, as after sudo -u, it can't be read and is ignored.
    """
    require(root=True)
    script = """
    import os, sys, tomllib
    import ociexport.registry.auth.auth_files, ociexport.registry.hosts.registries_conf
    from ociexport.cli.commandline import COMMANDS, new_parser
    from ociexport.cli.main import main
    from ociexport.system.environment import home_directory
    new_parser(COMMANDS)
    for name in ("HOME", "XDG_CONFIG_HOME", "DOCKER_CONFIG", "CONTAINERS_REGISTRIES_CONF"):
        os.environ.pop(name, None)
    os.setgroups([])
    os.setgid(54321)
    os.setuid(54321)
    assert str(home_directory()) == "/"
    sys.exit(main(["auth", "explain", "debian"]))
    """
    session = tmp_path / "session"
    session.mkdir(mode=0o700)
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(session)},
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(
        f"{session}/containers/auth.json: in a directory that this user may not search\n"
        "/.config/containers/auth.json: no such file\n"
    )
