"""``python -m asyncq`` is the command line."""

from asyncq.cli.main import main

main()
