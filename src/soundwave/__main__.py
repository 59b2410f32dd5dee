"""`python -m soundwave` is the command `soundwave`."""

from soundwave.cli import main

if __name__ == "__main__":
    main()
