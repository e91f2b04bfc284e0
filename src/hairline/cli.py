"""What the scripts in the project's root share: the schema's registration and the handling of errors."""

from __future__ import annotations

import contextlib
import difflib
import functools
import logging
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hairline import config as configuration

log = logging.getLogger("hairline")

CONF = "conf"
_failures: list[tuple[str, str]] = []

Job = Callable[[Any, Path, list[str]], Any]


def start(script: str, main: Callable[[], None]) -> None:
    """Register the schema, check the choices, and hand over to Hydra.

    Args:
        script: The calling script's `__file__`.
        main: Its function decorated with `hydra.main`.
    """
    register(ConfigStore.instance())
    fault = _unknown_choice(Path(script).with_name(CONF), sys.argv[1:])
    if fault:
        sys.exit(fault)
    signal.signal(signal.SIGTERM, _interrupt)
    _run(main)
    if _failures:
        print(f"\n{len(_failures)} job{'s' * (len(_failures) > 1)} failed:", file=sys.stderr)
        for place, message in _failures:
            print(f"  {place}: {message.splitlines()[0]}", file=sys.stderr)
        sys.exit(1)


def _run(main: Callable[[], None]) -> None:
    """Call Hydra's entry; what goes wrong before or after a job is told in its own words, without a traceback."""
    if "HYDRA_FULL_ERROR" in os.environ:
        main()
        return
    # Makes Hydra raise what it would otherwise print with a traceback, such as an output folder it cannot make.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        main()
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (CompactHydraException, ValueError) as error:  # jobs deal with their own: these are Hydra's
        cause = f"\n{error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
        sys.exit(f"{error}{cause}")
    except OSError as error:
        sys.exit(
            f"ERROR: the output folder cannot be written: {error}\n"
            "Make room or mend its permissions, or choose another one: hydra.run.dir=<folder> (hydra.sweep.dir with -m)"
        )
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


def register(store: ConfigStore) -> None:
    """Make the schema known to Hydra."""
    scripts = {name: schema for name, (schema, _) in configuration.COMMANDS.items()}
    for name, schema in {**configuration.SCHEMAS, **scripts}.items():
        group, _, leaf = name.rpartition("/")
        node = OmegaConf.structured(schema)
        if "tags" in node:
            OmegaConf.set_struct(node.tags, False)  # the user's own names: tags.site=bridge needs no plus sign
        # Below `hydra/`, so that --help does not list the schema beside the choices a user has.
        store.store(group=f"hydra/schema/{group}".rstrip("/"), name=leaf, node=node, replace=True)


def job(function: Job) -> Callable[[DictConfig], Any]:
    """Turn a function of a checked configuration into what `hydra.main` decorates.

    A fault of the user's is printed without a traceback; any other is printed with one, as it is ours. A failed job
    of a sweep does not stop the others.

    Args:
        function: Given the checked configuration, an instance of the script's schema, the directory Hydra made for
            the job, and the overrides of the command line.
    """

    @functools.wraps(function)
    def wrapped(composed: DictConfig) -> Any:
        settings = HydraConfig.get()
        directory = Path(settings.runtime.output_dir)
        overrides = list(settings.overrides.task)
        try:
            config = configuration.load(composed)
            if isinstance(config, configuration.Config) and config.resume:
                fresh, directory = directory, Path(config.resume).expanduser().absolute()
                config = configuration.resumed(config, overrides)
                _move_log(fresh, directory)
            return function(config, directory, overrides)
        except KeyboardInterrupt:
            log.error("interrupted")
            sys.exit(130)
        except Exception as error:
            expected = _is_users(error)
            log.error("ERROR: %s", error if expected else traceback.format_exc())
            if settings.mode == RunMode.MULTIRUN:
                _failures.append((f"{directory} ({' '.join(overrides)})", str(error)))
                return None
            logging.shutdown()
            _remove_if_empty(directory)
            sys.exit(2 if expected else 1)

    return wrapped


def _unknown_choice(folder: Path, arguments: list[str]) -> str | None:
    """Say which group=choice names a file that is not there, with the nearest one that is."""
    for argument in arguments:
        group, equals, choices = argument.partition("=")
        known = group and equals and not group.startswith("hydra")
        names = {path.stem for path in (folder / group).glob("*.yaml")} if known else set()
        for choice in choices.split(","):
            if names and choice and choice[0].isalnum() and choice not in names | {"null"}:
                near = difflib.get_close_matches(choice, sorted(names), n=1, cutoff=0.5)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                return f"{group}={choice}: unknown.{hint} Available: {', '.join(sorted(names))}"
    return None


def _move_log(fresh: Path, directory: Path) -> None:
    """Go on with the log of the run that is resumed, and remove the folder that Hydra made for this call."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.close()
            handler.baseFilename = str(directory / Path(handler.baseFilename).name)
    _remove_if_empty(fresh)


def keep_log(directory: Path, place: Path) -> None:
    """Move the log that Hydra began in `directory` beside results that lie elsewhere, and remove what Hydra made."""
    if directory.resolve() == place.resolve():
        return
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.close()
            begun = Path(handler.baseFilename)
            with (place / begun.name).open("a", encoding="utf-8") as log_file:
                log_file.write(begun.read_text(encoding="utf-8"))
            handler.baseFilename = str(place / begun.name)
    _remove_if_empty(directory)


def _is_users(error: Exception) -> bool:
    """Tell a fault of the user's, found by this package or by the operating system, from one of ours."""
    if isinstance(error, OSError):
        return True
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return isinstance(error, ValueError) and frames[-1].startswith("hairline")


def _remove_if_empty(directory: Path) -> None:
    """Remove a run directory in which nothing but the log was written: the fault was found before the run began."""
    if directory.is_dir() and all(path.suffix == ".log" for path in directory.iterdir()):
        shutil.rmtree(directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            directory.parent.rmdir()  # the date's folder, if this would have been its first run


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt
