"""What all tests share: children hear Ctrl-C, also where the tests themselves were started in the background."""

import signal

# A shell's background jobs ignore SIGINT and hand that on; a handler here is reset to the default in every child.
signal.signal(signal.SIGINT, signal.default_int_handler)
