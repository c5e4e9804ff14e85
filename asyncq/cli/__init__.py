"""The command line: ``asyncq COMMAND module:app``, one file for each group of commands.

A command parses, calls one function that a program could call as well, and prints. Errors that we
foresee are one line: exit code 2 when the command or the set-up is wrong, 1 when it did not work.

`main.py` has them all. The processes of ``asyncq worker`` are `supervisor.py` and `child.py`, and
load none of the commands: it would be memory that each of them holds for as long as it lives.
"""
