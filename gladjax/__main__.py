"""``python -m gladjax`` is the command ``gladjax``."""

from gladjax.cli import run

if __name__ == "__main__":
    run()
