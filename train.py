"""Train a classifier: python train.py [group=choice] [key=value] ...; --help lists them all."""

try:
    import hydra

    from hairline.app import start
    from hairline.app.process import Call
    from hairline.config import Config
except ModuleNotFoundError as error:
    raise SystemExit(
        f"{error}. Activate the environment first: source .venv/bin/activate (Windows: .venv\\Scripts\\activate)"
    ) from None


@hydra.main(config_path=start.CONF, config_name="config", execution_whitelist=start.TARGETS)
@start.job
def main(config: Config, call: Call) -> float:
    """Train and report; return the validation loss, the objective of a search."""
    from hairline.training.place import place

    with place(config.features, config.runtime, config.report, config.finetune) as networks:
        from hairline.training import train

        return train.train(config, call.directory, call.overrides, call.process, networks)["val_loss"]


if __name__ == "__main__":
    start.start(__file__, main)
