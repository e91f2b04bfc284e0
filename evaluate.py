"""Evaluate a finished run's model on any images: python evaluate.py run=... data=...; --help lists all settings."""

try:
    import hydra

    from hairline.app import start
    from hairline.app.process import Call
    from hairline.config import Evaluate
except ModuleNotFoundError as error:
    raise SystemExit(
        f"{error}. Activate the environment first: source .venv/bin/activate (Windows: .venv\\Scripts\\activate)"
    ) from None


@hydra.main(config_path=start.CONF, config_name="evaluate")
@start.job
def main(config: Evaluate, call: Call) -> None:
    """Evaluate; with -m, update one table of all evaluations after each."""
    from hairline.evaluation import evaluate

    evaluate.evaluate(config, call.directory, call.directory.parent if call.multirun else None)


if __name__ == "__main__":
    start.start(__file__, main)
