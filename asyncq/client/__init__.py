"""What an app that is connected does: sends calls, and waits for how they end.

`task` and `routing` know what is asked for, `publisher` and `dispatch` bring it to the brokers,
`waiters` hear of outcomes, `result` and `gathering` are what users hold of them.
"""
