"""`python -m factory` is the command line."""

import sys

try:
    from factory.cli.main import main
except ModuleNotFoundError as error:  # a clone that nothing is installed for yet
    sys.exit(
        f"error: {error.name} is not installed for {sys.executable}; in a clone, `make install` makes "
        ".venv with all that is needed, and the command is then .venv/bin/factory"
    )

if __name__ == "__main__":
    main()
