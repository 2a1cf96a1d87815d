"""`python -m deploy.cli`: the `konsil` command, where it is not installed."""

from deploy.cli.command import main

if __name__ == "__main__":
    main()
