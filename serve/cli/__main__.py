"""`python -m serve.cli`: the `zoo` command, without an installed script."""

from serve.cli.main import main

if __name__ == "__main__":
    main()
