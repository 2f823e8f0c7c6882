"""`python -m factory` is the command line."""

from factory.cli.main import main

if __name__ == "__main__":
    main()
