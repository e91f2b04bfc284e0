"""The state of a run, from which a killed run resumes to the same bits.

`state.npz` in the run directory is one file, replaced atomically after each epoch: numbers and names as JSON, and for
each phase of training the variables of the model (the random generators of its layers included) and of the optimizer,
and the best weights so far. All other randomness follows from the seed and the epoch's number. Features resume from the
shards of the cache; what follows training takes seconds and is repeated.
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
    """The run cannot be resumed."""


class Checkpoint:
    """The saved state of the run in a run directory.

    Attributes:
        directory: The run directory.
    """

    def __init__(self, directory: Path, about: dict[str, Any], arrays: dict[str, list[np.ndarray]]) -> None:
        """Use `read` or `begin` instead."""
        self.directory = directory
        self._about, self._arrays = about, arrays

    @classmethod
    def begin(cls, directory: Path, identity: str) -> Checkpoint:
        """Save and return the state of a run that has just started.

        Args:
            directory: The run directory.
            identity: Identity of the configuration.
        """
        places = {"working_directory": os.getcwd(), "directory": str(directory.absolute())}
        about = {"version": _VERSION, "identity": identity, **places, "phases": {}}
        state = cls(directory, about, {})
        state._write()
        return state

    @classmethod
    def read(cls, directory: Path) -> Checkpoint | None:
        """Return the state of a run; None where there is none.

        Raises:
            CheckpointError: If the file is damaged or has another version.
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
                raise ValueError(f"its version is {about['version']}, this program reads {_VERSION}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}): delete it, and resume= trains anew with the run's settings"
            ) from error
        return cls(directory, about, arrays)

    @property
    def identity(self) -> str:
        """Identity of the configuration."""
        return str(self._about["identity"])

    @property
    def working_directory(self) -> str | None:
        """Directory where the run was started; relative paths and the store refer to it.

        In a project folder that was moved or copied, it is the same place there; None if only the run was moved.
        """
        return files.followed(self._about["working_directory"], self._about.get("directory", ""), self.directory)

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return bool(self._about.get("finished"))

    def expect(self, digest: str, images: int, network: str, origin: str) -> None:
        """Record the images and the backbone of the run, or check that they have not changed.

        Args:
            digest: Digest of the manifest with its splits.
            images: Number of images.
            network: Digest of the backbone and its weights, `Recipe.model_key`.
            origin: Where the weights come from, for the message.

        Raises:
            CheckpointError: If the images or the weights differ from those the run started with.
        """
        known = self._about.setdefault("manifest", [digest, images])
        if known[0] != digest:
            raise CheckpointError(
                f"the images differ from those this run started with: {known[1]:,} then, {images:,} now "
                f"({self.directory / 'manifest.csv'} lists the former). Its figures would mix two data sets: restore "
                "the images, or start a new run without resume="
            )
        begun = self._about.setdefault("network", [network, origin])
        if begun[0] != network:
            raise CheckpointError(
                f"the backbone's weights differ from those this run started with: {begun[1]} then, {origin} now. Its "
                "head does not fit these features: provide the former weights again, or start a new run without resume="
            )

    def reopen(self) -> None:
        """Mark the run as incomplete, as when a finished run gets a fuller report."""
        if self._about.pop("finished", False):
            self._write()

    def finish(self, keep: bool) -> None:
        """Mark the run as complete.

        Args:
            keep: Keep the trained weights, so that a light run can be completed later.
        """
        self._about["finished"] = True
        if not keep:
            self._about["phases"], self._arrays = {}, {}
        self._write()

    def phase(self, name: str) -> Phase:
        """Return the part of the state that belongs to a phase of training."""
        return Phase(self, name)

    def _write(self) -> None:
        about = np.frombuffer(json.dumps(self._about).encode(), np.uint8)
        flat = {f"{kind}/{number}": array for kind, row in self._arrays.items() for number, array in enumerate(row)}
        with files.atomic(self.directory / FILE) as file:
            np.savez(file, **{_ABOUT: about, **flat})  # type: ignore[arg-type]


class Phase:
    """The state of one phase of training."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        """Use `Checkpoint.phase` instead."""
        self._checkpoint, self._name = checkpoint, name

    def load(self) -> tuple[dict[str, Any], Arrays] | None:
        """Return what was saved last; None at the start of the phase."""
        about = self._checkpoint._about["phases"].get(self._name)
        if about is None:
            return None
        start = f"{self._name}/"
        arrays = self._checkpoint._arrays.items()
        return dict(about), {kind.removeprefix(start): row for kind, row in arrays if kind.startswith(start)}

    def save(self, about: dict[str, Any], arrays: Arrays) -> None:
        """Replace the phase's state on disk.

        Args:
            about: Values for JSON.
            arrays: Lists of arrays of any shape, by kind, in order.
        """
        self._checkpoint._about["phases"][self._name] = about
        self._checkpoint._arrays |= {f"{self._name}/{kind}": list(row) for kind, row in arrays.items()}
        self._checkpoint._write()
