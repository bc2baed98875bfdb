"""Which exports were written here: a seal that only this user's installation can make.

To verify most formats is to run them, and a file may do anything when it runs. So files are run only when their list
carries the seal of this installation, or when the user says that they trust the folder.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from typing import Any

from core.config import home_folder

KEY = "export.key"


def seal(recipe: Mapping[str, Any]) -> str:
    """Hex digits over the sizes and checksums of all files that the recipe lists."""
    text = json.dumps(recipe["files"], sort_keys=True).encode()
    return hmac.new(_key(), text, hashlib.sha256).hexdigest()


def is_ours(recipe: Mapping[str, Any]) -> bool:
    """Whether the files that the recipe lists are those that were written here, by their checksums."""
    found = recipe.get("seal")
    return isinstance(found, str) and hmac.compare_digest(found, seal(recipe))


def _key() -> bytes:
    """Made once, readable by its owner alone."""
    path = home_folder() / KEY
    if not path.exists():
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
        except FileExistsError:  # another process was first
            pass
    return path.read_bytes()
