"""What is installed fits together, and under licences that go with Apache-2.0."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata

from packaging.requirements import Requirement

from tests.conftest import ROOT

# Permissive ones; MPL-2.0 and the LGPL bind only those who change the library itself.
COMPATIBLE = re.compile(r"MIT|Apache|BSD|ISC|PSF|Python Software|MPL|Mozilla|CC0|Zlib|Unlicense|HPND|LGPL|Lesser", re.I)
# Those whose metadata name none: as their LICENSE files say.
BY_FILE = {"namex": "Apache-2.0", "huey": "MIT", "skops": "MIT"}


def installed() -> dict[str, metadata.Distribution]:
    """Return hairline and all it asks for, directly or by way of others, as far as it is installed here."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [Requirement("hairline[dev,postgres,ray,browser,heic]")]
    while waiting:
        asked = waiting.pop()
        try:
            distribution = metadata.distribution(asked.name)
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed, or of another system
        name = distribution.metadata["Name"].lower()
        extras = sorted(asked.extras) or [""]
        known = name in found
        found[name] = distribution
        for text in distribution.requires or []:
            needed = Requirement(text)
            wanted = needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras)
            if wanted and not (known and extras == [""]):
                waiting.append(needed)
    return found


def licence(distribution: metadata.Distribution) -> str:
    about = distribution.metadata
    kinds = [entry.split("::")[-1].strip() for entry in about.get_all("Classifier") or [] if "License ::" in entry]
    named = about.get("License-Expression") or ", ".join(kinds) or (about.get("License") or "").strip()[:60]
    return BY_FILE.get(about["Name"].lower(), named)


def test_all_licences_go_with_apache() -> None:
    found = {name: licence(distribution) for name, distribution in installed().items()}
    assert len(found) > 80
    assert {name: text for name, text in found.items() if not COMPATIBLE.search(text)} == {}


def test_every_direct_dependency_has_both_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {key: found for key, found in project["optional-dependencies"].items() if key != "dev"}
    asked = [Requirement(text) for text in [*project["dependencies"], *(sum(extras.values(), []))]]
    assert len(asked) >= 18
    for entry in asked:
        assert {specifier.operator for specifier in entry.specifier} == {">=", "<"}, entry
