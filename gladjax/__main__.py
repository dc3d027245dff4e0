"""``python -m gladjax`` is the command ``gladjax``."""

from gladjax.cli import main

if __name__ == "__main__":
    main()
