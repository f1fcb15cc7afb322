"""An examination as a document and as words. Pure."""

from typing import Any

import msgspec

from whet.doctor.diagnosis import Diagnosis, Proof
from whet.doctor.observation import Observation
from whet.doctor.signs import healthy

SCHEMA = 1


def document(seen: Observation, found: list[Diagnosis]) -> dict[str, Any]:
    """Return everything as JSON-able values."""
    return {
        "schema": SCHEMA,
        "subject": seen.subject,
        "kind": seen.kind,
        "seconds": round(seen.seconds, 3),
        "healthy": not found,
        "words": healthy(seen, found),
        "diagnoses": [msgspec.to_builtins(each) for each in found],
        "unseen": list(seen.unseen),
        "observation": msgspec.to_builtins(seen),
    }


def rows(found: list[Diagnosis]) -> list[tuple[str, str]]:
    """Return label and value of everything there is to say about each diagnosis, worst first."""
    said: list[tuple[str, str]] = []
    for each in found:
        said += [(each.slug, f"{each.severity}: {each.words}"), ("  do", each.remedy)]
        if each.proof is not None:
            said.append(("  measured", proof_words(each.proof)))
    return said


def proof_words(proof: Proof) -> str:
    """Return a proof in words."""
    if proof.value is None:
        return f"{proof.what}: {proof.verdict}"
    subject = "answers come " if proof.measure == "latency" else ""
    times = f"{subject}{proof.value:.2f} times as fast [{proof.low:.2f}, {proof.high:.2f}]"
    return f"{proof.what}: {times}, {proof.pairs} pairs; {proof.verdict}"
