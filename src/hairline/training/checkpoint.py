"""The state of a run, from which one that was killed goes on to the same bits.

`state.npz` in the run directory is one file, replaced in one step after each epoch: numbers and names as JSON, and for
each phase of training the model's variables (the random generators of its layers among them), the optimizer's, and the
best weights so far. All other randomness follows from the seed and the number of the epoch. Features have a state of
their own, the shards of the cache; what comes after training takes seconds and is done again.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hairline.system import files
from hairline.system.errors import HairlineError

FILE = "state.npz"
_VERSION = 1
_ABOUT = "about"

Arrays = Mapping[str, Sequence[np.ndarray]]


class CheckpointError(HairlineError):
    """A run that cannot be gone on with."""


class Checkpoint:
    """What a run directory knows of its run.

    Attributes:
        directory: The run directory.
    """

    def __init__(self, directory: Path, about: dict[str, Any], arrays: dict[str, list[np.ndarray]]) -> None:
        """Take what `read` found, or `begin` makes."""
        self.directory = directory
        self._about, self._arrays = about, arrays

    @classmethod
    def begin(cls, directory: Path, identity: str) -> Checkpoint:
        """Write the state of a run that has done nothing yet.

        Args:
            directory: The run directory.
            identity: Of the configuration.
        """
        about = {"version": _VERSION, "identity": identity, "working_directory": os.getcwd(), "phases": {}}
        state = cls(directory, about, {})
        state._write()
        return state

    @classmethod
    def read(cls, directory: Path) -> Checkpoint | None:
        """Read the state of a run; None where there is none.

        Raises:
            CheckpointError: If it is damaged, or of another version.
        """
        path = directory / FILE
        try:
            # Opened here: NumPy leaves a damaged file open.
            with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
                about = json.loads(file[_ABOUT].tobytes())
                arrays: dict[str, list[np.ndarray]] = {}
                for name in file.files:
                    if name != _ABOUT:  # written in order: phase/kind/number
                        arrays.setdefault(name.rpartition("/")[0], []).append(file[name])
            if about["version"] != _VERSION:
                raise ValueError(f"it is of version {about['version']}, this one reads {_VERSION}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}): delete it, and resume= trains anew with the run's settings"
            ) from error
        return cls(directory, about, arrays)

    @property
    def identity(self) -> str:
        """Of the configuration."""
        return str(self._about["identity"])

    @property
    def working_directory(self) -> str:
        """Where the run was started: relative paths and the store refer to it."""
        return str(self._about["working_directory"])

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be done."""
        return bool(self._about.get("finished"))

    def expect(self, digest: str, images: int) -> None:
        """Note which images the run is of, or see that they are still the same.

        Args:
            digest: Of the divided manifest.
            images: Their number.

        Raises:
            CheckpointError: If they are not those the run began with.
        """
        known = self._about.setdefault("manifest", [digest, images])
        if known[0] != digest:
            raise CheckpointError(
                f"the images are not those this run began with: {known[1]:,} then, {images:,} now "
                f"({self.directory / 'manifest.csv'} lists the former). Its numbers would mix two data sets: restore "
                "the images, or start a new run without resume="
            )

    def reopen(self) -> None:
        """Note that something is left to be done, as where a finished run is given a fuller report."""
        if self._about.pop("finished", False):
            self._write()

    def finish(self, keep: bool) -> None:
        """Note that nothing is left to be done.

        Args:
            keep: Whether the trained weights stay, for the run to be completed later.
        """
        self._about["finished"] = True
        if not keep:
            self._about["phases"], self._arrays = {}, {}
        self._write()

    def phase(self, name: str) -> Phase:
        """Give the part of the state that belongs to one phase of training."""
        return Phase(self, name)

    def _write(self) -> None:
        about = np.frombuffer(json.dumps(self._about).encode(), np.uint8)
        flat = {f"{kind}/{number}": array for kind, row in self._arrays.items() for number, array in enumerate(row)}
        with files.atomic(self.directory / FILE) as file:
            np.savez(file, **{_ABOUT: about}, **flat)


class Phase:
    """The state of one phase of training."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        """Take the part `name` of a checkpoint."""
        self._checkpoint, self._name = checkpoint, name

    def load(self) -> tuple[dict[str, Any], Arrays] | None:
        """Give what was saved last; None at the phase's start."""
        about = self._checkpoint._about["phases"].get(self._name)
        if about is None:
            return None
        start = f"{self._name}/"
        arrays = self._checkpoint._arrays.items()
        return dict(about), {kind.removeprefix(start): row for kind, row in arrays if kind.startswith(start)}

    def save(self, about: dict[str, Any], arrays: Arrays) -> None:
        """Replace the phase's state on disk.

        Args:
            about: What JSON holds.
            arrays: Lists of arrays of any shape, by kind; their order is kept.
        """
        self._checkpoint._about["phases"][self._name] = about
        self._checkpoint._arrays |= {f"{self._name}/{kind}": list(row) for kind, row in arrays.items()}
        self._checkpoint._write()
