"""VerifyOptions: the options that `verify` and `repair` have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ociexport.images.choose import PlatformChoice
from ociexport.layers.limits import Limits
from ociexport.spec.descriptor import Platform
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.system.progress.protocol import SILENT, Progress

if TYPE_CHECKING:
    from ociexport.registry.options import RegistryOptions
    from ociexport.verification.bundles import FarSide
    from ociexport.verification.recipes import RecipeProver


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How to verify; `ociexport.verification.verify.verify` describes each option."""

    strict: bool = False
    deep: bool = False
    limits: Limits | None = None
    platform: Platform | PlatformChoice | None = None
    progress: Progress = SILENT
    registry: RegistryOptions | None = None
    against: FarSide | None = None
    prove_recipes: RecipeProver | None = None
