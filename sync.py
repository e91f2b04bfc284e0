"""Send to MLflow what is missing of a run: python sync.py run=<run directory>; --help lists all settings."""

import logging
from pathlib import Path

try:
    import hydra

    from hairline.app import log, start
    from hairline.app.process import Call
    from hairline.config import Sync
except ModuleNotFoundError as error:
    raise SystemExit(
        f"{error}. Activate the environment first: source .venv/bin/activate (Windows: .venv\\Scripts\\activate)"
    ) from None


@hydra.main(config_path=start.CONF, config_name="sync")
@start.job
def main(config: Sync, call: Call) -> None:
    """Send the unsent journal entries of a run, or of every job of a sweep."""
    from hairline.app.sweep import state
    from hairline.tracking import sync

    sent = sync.synchronise(state.run_directories(Path(config.run)), config.tracking.uri)
    state.refresh(Path(config.run), config.tracking.uri)
    logging.getLogger("hairline").info("%d entries sent to MLflow; all of %s is there", sent, config.run)
    log.remove_if_empty(call.directory)


if __name__ == "__main__":
    start.start(__file__, main)
