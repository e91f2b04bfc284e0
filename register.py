"""Register a model: python register.py run=<run>; it becomes champion if it is better than the current one."""

try:
    import hydra

    from hairline.app import start
    from hairline.app.process import Call
    from hairline.config import Register
except ModuleNotFoundError as error:
    raise SystemExit(
        f"{error}. Activate the environment first: source .venv/bin/activate (Windows: .venv\\Scripts\\activate)"
    ) from None


@hydra.main(config_path=start.CONF, config_name="register")
@start.job
def main(config: Register, call: Call) -> None:
    """Register a version, compare it with the champion, and record the decision with its reasons."""
    from hairline.shipping import register

    register.register(config)


if __name__ == "__main__":
    start.start(__file__, main)
