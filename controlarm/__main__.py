"""``controlarm`` and ``python -m controlarm``: whoever stops it while it still imports gets a word, not a traceback."""

import os
import signal


def _stop(number: int, _: object) -> None:
    os.write(2, b"stopped; run the same command to continue\n")
    os._exit(128 + number)


def main() -> None:
    """Run the command line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)
    from controlarm.cli import app

    app()


if __name__ == "__main__":
    main()
