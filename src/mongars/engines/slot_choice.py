"""Find the entry of the slot table (one running engine) with the adapter that a request demands."""

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
    """Find the entry of the slot table (one running engine and its adapter) that a request's adapter pin selects.

    `serving`: the entries that take new requests. `pin`: the adapter that the request demands. `alias`: the entry that
    has the pin's name as an alias; None if the name is no alias. With an `alias`, only that entry can be selected, if
    its adapter also has the pin's digest; otherwise the entries whose adapter has the pin's name and digest, as far as
    the pin gives them. If several match, only the one in the state `active` is selected, which answers requests
    without a pin.

    Raises `AdapterUnknown`, with the names that are served, if no entry is selected.
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
    """The name by which a request can demand the adapter of `origin`: `VERSION@DIGEST` with 12 digits of the digest.

    `baseline` without an adapter.
    """
    if origin.adapter_digest is None:
        return BASE_ADAPTER
    return f"{origin.adapter_version}@{origin.adapter_digest[:12]}"
