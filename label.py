"""Label tiles while the model learns: python label.py run=<run> input=<photos> output=<folder>; --help says more."""

try:
    import hydra

    from hairline.app import log, start
    from hairline.app.process import Call
    from hairline.config import Label
except ModuleNotFoundError as error:
    raise SystemExit(
        f"{error}. Activate the environment first: source .venv/bin/activate (Windows: .venv\\Scripts\\activate)"
    ) from None


@hydra.main(config_path=start.CONF, config_name="label")
@start.job
def main(config: Label, call: Call) -> None:
    """Compute the features, serve the page until the person has finished, print the next commands."""
    from hairline.labelling import label

    output = label.label_tiles(config, call.directory)
    log.move(call.directory, output, copy=True)


if __name__ == "__main__":
    start.start(__file__, main)
