"""Which entry of the slot table a request means that pins an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.core.errors import AdapterUnknown
from mongars.core.generation import BASE_ADAPTER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mongars.core.adapter_pin import AdapterPin
    from mongars.core.generation import Origin
    from mongars.engines.slot_entry import SlotEntry


def pinned_entry(
    serving: Sequence[SlotEntry], pin: AdapterPin, *, alias: SlotEntry | None
) -> SlotEntry:
    """The entry that a pin means.

    `alias` is the entry that the pin's name is an alias of, if it is one; an alias goes before a version
    of the same name. Of several entries with the name, only the active one can be meant without a digest.

    Raises `AdapterUnknown`, naming what is served.
    """
    if alias is not None:
        found = [alias] if pin.has_digest(alias.origin.adapter_digest) else []
    else:
        found = [entry for entry in serving if pin.matches(entry.origin)]
    if len(found) > 1:
        found = [entry for entry in found if entry.state == "active"]
    if not found:
        names = ", ".join(sorted({name_of(entry.origin) for entry in serving}))
        detail = f"Adapter {str(pin)!r} is not served here. Served: {names}."
        raise AdapterUnknown(detail, param="adapter")
    return found[0]


def name_of(origin: Origin) -> str:
    """An adapter as requests can pin it: `baseline`, or `VERSION@DIGEST` with 12 digits."""
    if origin.adapter_digest is None:
        return BASE_ADAPTER
    return f"{origin.adapter_version}@{origin.adapter_digest[:12]}"
