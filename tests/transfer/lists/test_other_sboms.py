"""SBOMs that are not JSON: SPDX as tags and values is read, XML is refused.

Source: issue 18, "CycloneDX and SPDX purls"; SPDX 2.3, 7.21 "External reference field".
"""

from __future__ import annotations

import pytest

from ociexport.errors import UsageError
from ociexport.transfer.lists.parse import parse_list

ZERO = "sha256:" + "0" * 64
TAGS = f"""SPDXVersion: SPDX-2.3
DataLicense: CC0-1.0
PackageName: debian
ExternalRef: SECURITY cpe23Type cpe:2.3:a:x:debian:1:*:*:*:*:*:*:*
ExternalRef: PACKAGE-MANAGER purl pkg:oci/debian@{ZERO.replace(":", "%3A")}?repository_url=ghcr.io/debian&tag=12
PackageName: x
ExternalRef: PACKAGE_MANAGER purl pkg:docker/team/app@1.2
ExternalRef: PACKAGE-MANAGER purl pkg:pypi/x@1
"""


def test_spdx_as_tags_and_values() -> None:
    found = parse_list(TAGS.encode(), "list", environment={})
    assert found.formats == ("SPDX",)
    assert [entry.image for entry in found.sure] == [f"ghcr.io/debian:12@{ZERO}", "team/app:1.2"]
    assert found.entries[0].why == ("list:5: ExternalRef",)
    assert found.warnings == ()


def test_xml_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        parse_list(b"<?xml version='1.0'?>\n<bom xmlns='http://cyclonedx.org/schema/bom/1.6'/>\n", "list")
    assert str(caught.value) == "list: expected a list of images, got XML"
    assert caught.value.hint == "SBOMs are read as JSON, SPDX also in its tag-value form"
