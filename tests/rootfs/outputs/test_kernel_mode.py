"""kernel_mode: the mode that a file has after its access ACL was set, as the kernel sets it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from ociexport.layers.tar.reader import IMPLIED_DIRECTORY, EntryType
from ociexport.rootfs.outputs.kernel_xattrs import ACCESS_ACL, kernel_mode
from tests.support.acls import ACL, MASK_ACL, PLAIN_ACL, WRONG_ACL, acl


@pytest.mark.parametrize("value", [ACL, PLAIN_ACL, MASK_ACL, WRONG_ACL, acl(), b"\2\0\0\0\1"])
@pytest.mark.parametrize("mode", [0o4640, 0o755])
def test_mode_is_the_one_that_the_kernel_sets(tmp_path: Path, value: bytes, mode: int) -> None:
    entry = IMPLIED_DIRECTORY._replace(type=EntryType.FILE, mode=mode, xattrs={ACCESS_ACL: value})
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    try:
        os.setxattr(path, ACCESS_ACL, value)
    except OSError as error:
        if error.errno != errno.EINVAL:
            pytest.skip(f"no ACLs here: {error}")
    assert kernel_mode(entry) == stat.S_IMODE(path.stat().st_mode)
