"""What an interrupted run had measured, taken up case by case: nothing is measured twice to search on.

The finals are measured anew: they compare blocks that lie next to each other.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from whet.errors import PlanRefused
from whet.optimize.journal import Journal
from whet.optimize.lab import Case, Record
from whet.optimize.noise import Disturbance
from whet.optimize.trial_words import Measured, Ready


@dataclass(slots=True)
class Past:
    """Events of an interrupted run.

    Attributes:
        blocks: of every case, by its key, oldest first.
        ready: what a trial said when it was ready, by its seat.
        failed: (slug, reason) of what could not be measured, by seat.
        next_block: number of the first block that is not taken.
    """

    blocks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    ready: dict[str, Ready] = field(default_factory=dict)
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)
    next_block: int = 0

    def take(self, case: Case, record: Record) -> bool:
        """Move what is known of a case into its record; tell whether there was anything."""
        blocks = self.blocks.pop(case.key, [])
        for one in blocks:
            measured = msgspec.convert(one["measured"], Measured, strict=False)
            record.blocks.append(measured if one["kept"] else None)
            record.numbers.append(one["number"])
            record.counters.append(msgspec.convert(one["counters"], Disturbance))
        if blocks and case.seat in self.ready:
            record.ready = self.ready[case.seat]
        failed = self.failed.get(case.seat)
        if failed is not None:
            record.failure, record.refused = failed[1], failed[0] == PlanRefused.slug
        return bool(blocks) or failed is not None


def read_past(journal: Journal) -> Past:
    """Return what the journal's run had measured."""
    past = Past()
    for event in journal.events("block", "ready", "failed", run=journal.key.run):
        document = event.document
        if event.kind == "block":
            past.blocks.setdefault(document["case"], []).append(document)
            past.next_block = max(past.next_block, document["number"] + 1)
        elif event.kind == "ready":
            past.ready[event.plan] = msgspec.convert(document["ready"], Ready, strict=False)
        else:
            past.failed[event.plan] = (document["slug"], document["reason"])
    return past
