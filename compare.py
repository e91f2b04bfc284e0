"""Compare finished runs: python compare.py runs=[...] or mlflow_experiment=...; --help lists all settings."""

try:
    import hydra

    from hairline.app import start
    from hairline.app.process import Call
    from hairline.config import Compare
except ModuleNotFoundError as error:
    raise SystemExit(
        f"{error}. Activate the environment first: source .venv/bin/activate (Windows: .venv\\Scripts\\activate)"
    ) from None


@hydra.main(config_path=start.CONF, config_name="compare")
@start.job
def main(config: Compare, call: Call) -> None:
    """Compare and report."""
    from hairline.evaluation import compare

    compare.compare(config, call.directory)


if __name__ == "__main__":
    start.start(__file__, main)
