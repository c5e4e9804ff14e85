"""``python -m asyncq`` is the command line."""

from asyncq.cli import main

main()
