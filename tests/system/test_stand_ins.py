"""Stand-ins of modules give way to the modules themselves as soon as something needs them."""

from __future__ import annotations

import subprocess
import sys

import pytest

PLACED = """
import sys
from ociexport.system.stand_ins import LateModule, stand_in, standing_in
with standing_in({"calendar": LateModule("calendar", "timegm"), "this": None, "sys": stand_in("sys")}):
    import calendar
    from calendar import timegm
"""
CLAIMS = {
    "not imported": "assert 'calendar' not in sys.modules",
    "a function in `from` imports it when called": (
        "assert timegm((1970, 1, 2, 0, 0, 0)) == 86400; assert sys.modules['calendar'] is not calendar"
    ),
    "a member imports it": "assert calendar.isleap(2024); assert sys.modules['calendar'] is not calendar",
    "a later import finds the module": "late = calendar; import calendar; assert calendar is not late",
    "a module that is there stays": "import sys; sys.version",
    "a missing member": """
try:
    calendar.no_such_member
except AttributeError as error:
    assert "no_such_member" in str(error)
else:
    raise AssertionError
""",
    "it is needed while it stands in": """
with standing_in({"mimetypes": LateModule("mimetypes")}):
    import mimetypes
    assert mimetypes.guess_type("a.txt")[0] == "text/plain"
assert sys.modules["mimetypes"] is not mimetypes
""",
    "it can't be found": """
with standing_in({"this": None}):
    try:
        import this
    except ImportError:
        pass
    else:
        raise AssertionError
assert "this" not in sys.modules
""",
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_stand_in(claim: str) -> None:
    subprocess.run([sys.executable, "-S", "-c", PLACED + CLAIMS[claim]], check=True, timeout=60)
