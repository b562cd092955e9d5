"""`python -m oblong` is `oblong`."""

from oblong.cli.main import main

main()
