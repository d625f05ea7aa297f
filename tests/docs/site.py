"""The modules that build the site, which MkDocs finds by their path."""

import importlib
import sys
from types import ModuleType
from unittest.mock import patch

from tests.docs.pages import ROOT


def module(name: str) -> ModuleType:
    """A module of docs/site."""
    with patch.object(sys, "path", [str(ROOT / "docs" / "site"), *sys.path]):
        return importlib.import_module(name)
