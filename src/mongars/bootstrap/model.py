"""The base model the settings ask for, as far as it is on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.engines.provisioning.cache import find_model
from mongars.engines.provisioning.spec import source_of

if TYPE_CHECKING:
    from mongars.engines.provisioning.spec import ModelFile
    from mongars.settings import Settings


def configured_model(settings: Settings) -> ModelFile | None:
    """The provisioned file of the general model; None if another one, or none, is there.

    A changed `RAY_GENERAL_MODEL` must be provisioned before it serves: the file of the model that
    was configured earlier is never passed off as the new one.
    """
    found = find_model(settings.cache, "general")
    wanted = settings.provisioning().models["general"]
    return found if found is not None and found.source == source_of(wanted) else None
