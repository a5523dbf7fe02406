"""``python -m pyro_vrnn``: the command line."""

from pyro_vrnn.cli import main

if __name__ == "__main__":
    main()
