"""`python -m ddeval` is `ddeval`."""

from ddeval.cli import main

main()
