"""What the headline component of a page was given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from streamlit.testing.v1 import AppTest


def headline_cells(app: AppTest) -> dict[str, dict[str, Any]]:
    """Its cells by name. Fails where there is none."""
    for node in _nodes(app.main):
        proto = getattr(node, "proto", None)
        if type(proto).__name__ == "BidiComponent" and proto.component_name.endswith("headline"):
            return {cell["name"]: cell for cell in json.loads(proto.json)["cells"]}
    raise AssertionError("this page shows no headline")


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for child in getattr(node, "children", {}).values():
        yield from _nodes(child)
