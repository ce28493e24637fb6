"""`python -m serve.cli`: the `zoo` command where no script is installed."""

from serve.cli.main import main

if __name__ == "__main__":
    main()
