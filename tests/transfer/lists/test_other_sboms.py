"""SBOMs that are not JSON: SPDX as tags and values, and CycloneDX as XML.

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


BOM = "<bom xmlns='http://cyclonedx.org/schema/bom/1.6'>"
NOT_CYCLONEDX = "list: expected a list of images, got XML that is not CycloneDX"


def test_spdx_as_tags_and_values() -> None:
    found = parse_list(TAGS.encode(), "list", environment={})
    assert found.formats == ("SPDX",)
    assert [entry.image for entry in found.sure] == [f"ghcr.io/debian:12@{ZERO}", "team/app:1.2"]
    assert found.entries[0].why == ("list:5: ExternalRef",)
    assert found.warnings == ()


XML = f"""<?xml version="1.0" encoding="UTF-8"?>
<!-- made by hand -->
<bom xmlns="http://cyclonedx.org/schema/bom/1.6" xmlns:x="http://example.test/x" version="1">
  <metadata>
    <component type="container" bom-ref="main">
      <name>ghcr.io/team/main</name><version>sha256:{"1" * 64}</version>
    </component>
  </metadata>
  <components>
    <component type="container">
      <name>debian</name>
      <purl>pkg:oci/debian@{ZERO.replace(":", "%3A")}?repository_url=ghcr.io/debian&amp;tag=12</purl>
      <x:components><component><purl>pkg:docker/foreign/namespace@1</purl></component></x:components>
      <components>
        <component type="library"><name>app</name><purl> pkg:docker/team/app@1.2 </purl></component>
      </components>
    </component>
    <component type="library"><purl>pkg:pypi/x@1</purl></component>
  </components>
</bom>
"""


def test_cyclonedx_as_xml() -> None:
    found = parse_list(XML.encode(), "list", environment={})
    assert found.formats == ("CycloneDX",)
    assert [entry.image for entry in found.sure] == [f"ghcr.io/debian:12@{ZERO}", "team/app:1.2"]
    assert [entry.image for entry in found.entries if entry not in found.sure] == [
        f"ghcr.io/team/main@sha256:{'1' * 64}"
    ]
    assert found.sure[0].why == ("list:12: components[0].purl",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "<?xml version='1.0'?>\n<rdf:RDF xmlns:rdf='x'/>",
            "list: expected a list of images, got XML that is not CycloneDX",
        ),
        ("<bom xmlns='http://example.test/'/>", "list: expected a list of images, got XML that is not CycloneDX"),
        (
            "<bom xmlns='http://cyclonedx.org/schema/bom/1.6'>\n<components>",
            "list:2: expected XML, got a syntax error: ",
        ),
        ("<!-- nothing -->", "list:1: expected XML, got a syntax error: no element found"),
        (
            f"<!DOCTYPE bom [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>\n{BOM}&a;</bom>",
            "list:1: expected XML without a DTD, got one",
        ),
        ("<!DOCTYPE html>\n<html></html>", "list: expected a list of images, got an HTML page"),
        (
            BOM + "<components><component>" * 60,
            "list:1: expected values at most 100 deep in each other, got deeper ones",
        ),
    ],
)
def test_other_xml_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_list(text.encode(), "list")
    assert str(caught.value).startswith(message)


def test_values_in_xml_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ociexport.transfer.lists.xml_nodes.MAX_VALUES", 10)
    with pytest.raises(UsageError, match="list:1: expected at most 10 values, got more"):
        parse_list((BOM + "<components/>" * 11 + "</bom>").encode(), "list")


@pytest.mark.parametrize("encoding", ["bogus", "rot13", "hex", "shift_jis", "utf-7", "iso-8859-15"])
def test_encoding_of_xml_is_that_of_every_list(encoding: str) -> None:
    text = XML.replace('encoding="UTF-8"', f'encoding="{encoding}"')
    assert [entry.image for entry in parse_list(text.encode(), "list").sure] == [
        f"ghcr.io/debian:12@{ZERO}",
        "team/app:1.2",
    ]
