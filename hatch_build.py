"""The package's page on the index: its addresses, and the README with links that work there.

``REPOSITORY_URL`` is the address of the project, such as ``https://github.com/owner/name``. Without it, the
page has no addresses, and the README keeps the links of the checkout.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(?P<text>(?P<picture>!?)\[[^\]]*\])\((?P<path>(?!https?://|#)[^)\s]+)\)")


class CustomMetadataHook(MetadataHookInterface):
    """Adds ``readme`` and ``urls``, which depend on where the project lives."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add both to *metadata*."""
        readme = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["urls"] = {}
        if repository := os.environ.get("REPOSITORY_URL", "").rstrip("/"):
            tag = f"v{metadata['version']}"
            view = {"!": f"{repository}/raw/{tag}", "": f"{repository}/blob/{tag}"}
            readme = _LINK.sub(lambda link: f"{link['text']}({view[link['picture']]}/{link['path']})", readme)
            metadata["urls"] = {
                "Documentation": f"{repository}/blob/{tag}/docs/index.md",
                "Source": repository,
                "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
                "Issues": f"{repository}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}
