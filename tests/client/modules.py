"""Packages that a test writes, imports, and forgets."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest


class Project:
    """A folder to import from. Its packages are of one name that no other test has."""

    def __init__(self, folder: Path, package: str) -> None:
        self.folder = folder
        self.package = package

    def write(self, **files: str) -> None:
        """Write modules: ``shop__tasks="..."`` is ``shop/tasks.py``; SHOP is the package's name."""
        for name, text in files.items():
            path = self.folder.joinpath(*name.replace("shop", self.package).split("__"))
            path = path.with_suffix(".py") if path.suffix == "" else path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text).replace("SHOP", self.package))

    def make_package(self, *folders: str) -> None:
        """Have an ``__init__.py`` in these folders."""
        for name in folders:
            folder = self.folder / name.replace("shop", self.package)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "__init__.py").touch()

    def load(self, module: str) -> Any:
        """Import one of the modules, as the program would."""
        name = module.replace("shop", self.package)
        __import__(name)
        return sys.modules[name]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    name = f"shop_{abs(hash(tmp_path)):x}"
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    yield Project(tmp_path, name)
    for module in [known for known in sys.modules if known.partition(".")[0] == name]:
        del sys.modules[module]
