"""Inspect photos: python predict.py run=<run> input=<photo, folder, pattern> output=<folder>; --help says more."""

from pathlib import Path

try:
    import hydra

    from hairline.app import log, start
    from hairline.app.process import Call
    from hairline.config import Predict
except ModuleNotFoundError as error:
    raise SystemExit(
        f"{error}. Activate the environment first: source .venv/bin/activate (Windows: .venv\\Scripts\\activate)"
    ) from None


@hydra.main(config_path=start.CONF, config_name="predict")
@start.job
def main(config: Predict, call: Call) -> None:
    """Inspect and report; exit with status 1 if a photo needs a person."""
    from hairline.inspection import predict

    if config.output is not None:
        call.reserve(Path(config.output))
    needs_person, output = predict.inspect_photos(config, call.directory)
    log.move(call.directory, output, copy=True)
    call.process.needs_person |= needs_person > 0


if __name__ == "__main__":
    start.start(__file__, main)
