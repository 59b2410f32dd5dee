"""`python -m soundwave` is the command `soundwave`."""

from soundwave.cli.app import main

if __name__ == "__main__":
    main()
