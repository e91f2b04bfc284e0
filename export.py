"""Export a model: python export.py run=<run> format=litert|litert_int8|onnx|saved_model|keras output=<folder>."""

from pathlib import Path

try:
    import hydra

    from hairline.app import start
    from hairline.app.process import Call
    from hairline.config import Export
except ModuleNotFoundError as error:
    raise SystemExit(
        f"{error}. Activate the environment first: source .venv/bin/activate (Windows: .venv\\Scripts\\activate)"
    ) from None


@hydra.main(config_path=start.CONF, config_name="export")
@start.job
def main(config: Export, call: Call) -> None:
    """Convert the model, verify it on real images, and publish it; several formats get a folder each."""
    from hairline.shipping import export

    folder = Path(config.output or call.directory).expanduser().absolute()
    several = call.multirun or config.output is None
    target = folder / config.format if several and folder.name != config.format else folder
    call.reserve(target)
    export.export(config, target)


if __name__ == "__main__":
    start.start(__file__, main)
