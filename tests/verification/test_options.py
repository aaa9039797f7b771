"""verify() and repair() share their options, and each of them has all of these as keywords."""

from __future__ import annotations

import dataclasses
import inspect

import ociexport
from ociexport.verification.options import VerifyOptions


def test_public_functions_have_every_common_option() -> None:
    """Issue 15: parameters that thread through the layers are one value; the public signatures stay."""
    of_verify = {"against", "prove_recipes"}  # a repair needs no far side
    common = {field.name for field in dataclasses.fields(VerifyOptions)} - of_verify
    assert common == {"strict", "deep", "limits", "platform", "progress", "registry"}
    verify, repair = (inspect.signature(function).parameters for function in (ociexport.verify, ociexport.repair))
    assert verify.keys() == {"source", *common, *of_verify}
    assert repair.keys() == {"layout", "origins", "cache", "jobs", "dry_run", *common}
    defaults = VerifyOptions()
    for name in common:
        assert verify[name].kind is repair[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert verify[name].default == repair[name].default == getattr(defaults, name)
