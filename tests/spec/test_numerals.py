"""numerals: a number in untrusted text may have any length, and gives a value or an `OciexportError`."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ociexport.cli.commands.serve import parse_address
from ociexport.errors import OciexportError
from ociexport.layers.tar.pax import parse_pax_records
from ociexport.registry.auth.challenges import parse_token
from ociexport.registry.conditions import parse_range
from ociexport.registry.http.retries import retry_after_seconds
from ociexport.rootfs.run.accounts import find_account
from ociexport.spec.json_fields import parse_json_object
from ociexport.spec.numerals import number_in, number_up_to
from ociexport.spec.platforms import parse_platform
from ociexport.spec.reference import ImageReference
from tests.system_tests.test_readers_agree import pax

PACKAGE = Path(__file__).parent.parent.parent / "ociexport"
# Calls of `int` and `float` elsewhere whose argument is bounded by a pattern or by the kernel, or is already a number.
ELSEWHERE = {
    ("header_fields.py", "int(digits, 8)"),  # the field is short, and base 8 has no limit of digits
    ("header_fields.py", "int(text, 8)"),
    ("removal.py", "int(match[1], 8)"),
    ("mount_move.py", "int(match[1], 8)"),
    ("mount_move.py", "int(match[2])"),  # from a list that ociexport wrote
    ("pax.py", "int(data[position:space])"),  # the pattern allows 19 digits
    ("pax.py", "int(value)"),
    ("pax.py", "int(seconds)"),
    ("pax.py", 'int(fraction[:9].ljust(9, b"0"))'),
    ("linux.py", "int(fd)"),
    ("threads.py", "int(file.read().split()[1])"),  # from the kernel
    ("protocol.py", "float(count)"),
    ("display.py", "int(bar.n)"),
    ("blobs.py", "int(offset)"),
    ("main.py", "int(options.run(options))"),
    ("json_fields.py", "float(text)"),  # float() accepts any length, and infinity is refused
    ("json_fields.py", "int(text)"),  # at most 308 digits
    ("json_fields.py", "int(value)"),
    ("addresses.py", "int(address)"),
    ("heads.py", "int(matched[2])"),  # three digits
    ("proxies.py", "int(network.network_address)"),
    ("registry.py", "float(text)"),
    ("retries.py", "float(delay)"),
}

MANY_DIGITS = st.builds(
    lambda zeros, digit, count: "0" * zeros + digit * count,
    st.integers(0, 6000),
    st.sampled_from("019"),
    st.integers(0, 6000),
)
NO_NUMBERS = ["", "-1", "+1", " 1", "1 ", "1_0", "1e400", "1.5", "0x10", "\u0661", "\xb2", "nan"]
number_texts = st.one_of(
    st.from_regex(r"[0-9]{1,40}", fullmatch=True), MANY_DIGITS, st.sampled_from(NO_NUMBERS), st.text(max_size=20)
)


def parse_pax(key: bytes, text: str) -> object:
    return parse_pax_records(pax((key, text.encode("utf-8", "surrogatepass")))[512:].rstrip(b"\0"), {})


def test_nobody_else_reads_numbers() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name == "numerals.py":
            continue
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("int", "float"):
                found.add((path.name, ast.get_source_segment(text, node) or ""))
    assert found - ELSEWHERE == set()


@given(text=number_texts, most=st.integers(0, 2**70))
@example(text="9" * 5000, most=5)
def test_number_is_the_one_that_the_digits_say(text: str, most: int) -> None:
    is_number = text != "" and set(text) <= set("0123456789")
    digits = text.lstrip("0") or "0"
    if not is_number:
        assert number_in(text, most) is number_up_to(text, most) is None
    elif len(digits) > 30 or int(digits) > most:
        assert (number_in(text, most), number_up_to(text, most)) == (None, most)
    else:
        assert number_in(text, most) == number_up_to(text, most) == int(digits)


def root_without_accounts() -> int:
    return os.open("/proc/self/fdinfo", os.O_RDONLY | os.O_DIRECTORY)


def find(user: str) -> object:
    fd = root_without_accounts()
    try:
        return find_account(fd, user)
    finally:
        os.close(fd)


DOORS: dict[str, Callable[[str], object]] = {
    "user": find,
    "group": lambda text: find(f"0:{text}"),
    "token": lambda text: parse_token(f'{{"token":"x","expires_in":{text}}}'.encode(), "there").lifetime_seconds + 0.5,
    "size": lambda text: parse_json_object(f'{{"size":{text}}}'.encode(), where="there").integer("size") + 0.5,
    "any number of JSON": lambda text: parse_json_object(f'{{"a":[{text}]}}'.encode(), where="there"),
    "Retry-After": lambda text: retry_after_seconds({"Retry-After": text}),
    "port": lambda text: ImageReference.parse(f"localhost:{text}/a"),
    "address": lambda text: parse_address(f"[::1]:{text}"),
    "range": lambda text: (parse_range(f"bytes={text}-{text}", 100), parse_range(f"bytes=-{text}", 100)),
    "os.version": lambda text: parse_platform(f"windows(10.0.{text})/amd64"),
    **{f"PAX {key}": partial(parse_pax, key.encode()) for key in ("size", "uid", "gid", "mtime", "atime")},
    "PAX length": lambda text: parse_pax_records(text.encode() + b" path=a\n", {}),
}


@pytest.mark.parametrize("door", DOORS)
@given(text=number_texts)
@example(text="9" * 5000)
@example(text="9" * 400)
@example(text="0" * 11 + "9" * 5000)
@example(text="00000000004294967296")
@example(text="1e400")
def test_number_gives_a_value_or_an_error_of_ours(door: str, text: str) -> None:
    with suppress(OciexportError):
        DOORS[door](text)


@pytest.mark.parametrize("user", ["4294967295", "00000000004294967296", "0" * 11 + "9" * 5000, "-1", "\u0661"])
def test_user_beyond_all_ids_is_refused(user: str) -> None:
    with pytest.raises(OciexportError, match=r"^config: User '.*': expected a number or a user"):
        find(user)


def test_user_may_have_zeros_before_it() -> None:
    assert find("0" * 5000 + "1000:0007") == find("1000:7")
