"""`python -m milliseek`."""

from .cli.app import main

if __name__ == "__main__":
    main()
