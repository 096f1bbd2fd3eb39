"""Write docs/licences.md: the licence of every Python package in the images, as the package itself states it.

Run with the project's own environment after ``requirements/lock.py`` (``make lock``).
"""

from __future__ import annotations

import sys
from email.message import Message
from importlib.metadata import distribution
from typing import cast

from requirements.pins import PLACE, read_pins

# Pinned files of each image, as the Dockerfile installs them.
IMAGES = {
    "ocr": ("ocr", "ocr-models"),
    "hpsv3": ("torch", "policy", "hpsv3", "hpsv3-wording"),
    "gateway": ("serving",),
    "rollout": ("torch", "policy", "rollout"),
    "trainer": ("torch", "policy", "trainer"),
    "tensorboard": ("tensorboard",),
}
HEAD = """# Licences of what the images hold

Every Python package of the images, its version and its licence as its own metadata state it; written by `make lock`.
A package whose metadata say nothing is marked so, and its project page has to be read. Not in the table: varl itself,
Debian's packages in the base images (`/usr/share/doc/*/copyright` in each), CPython (PSF-2.0), and Redis, which is an
image of its own (`redis:7-bookworm`: RSALv2 or SSPLv1 from 7.4 on). Images built with `TORCH=cuda` also hold NVIDIA's
libraries under NVIDIA's own terms.

| package | version | licence | images |
|---|---|---|---|
"""
LONGEST = 60  # of a licence field: more is the licence's text
UNSTATED = "not stated"


def packages(image: str) -> dict[str, str]:
    """Name -> pinned version of what an image installs."""
    return {package: version for name in IMAGES[image] for package, version in read_pins(name).items()}


def licence(name: str) -> str:
    """A package's licence: its SPDX expression, else its classifiers, else a short field of its own."""
    found = cast(Message, distribution(name).metadata)
    classifiers = [
        text.rpartition(" :: ")[2] for text in found.get_all("Classifier") or [] if text.startswith("License :: ")
    ]
    field = str(found.get("License") or "").strip()
    own = field if "\n" not in field and len(field) <= LONGEST else ""
    return str(found.get("License-Expression") or ", ".join(classifiers) or own or UNSTATED)


def table() -> str:
    """The rows, one a package."""
    held: dict[tuple[str, str], list[str]] = {}
    for image in IMAGES:
        for pin in packages(image).items():
            held.setdefault(pin, []).append(image)
    return "".join(
        f"| {name} | {version} | {licence(name)} | {', '.join(images)} |\n"
        for (name, version), images in sorted(held.items())
    )


def main() -> None:
    """Write the page."""
    (PLACE.parent / "docs" / "licences.md").write_text(HEAD + table())
    sys.stdout.write("docs/licences.md\n")


if __name__ == "__main__":
    main()
