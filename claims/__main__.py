"""``python -m claims`` writes the pages and the ledger; ``python -m claims --check`` says what differs from the data."""

import argparse
import sys

from claims.ledger import HOME, claims, differences, write


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m claims", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 where something differs"
    )
    if not parser.parse_args().check:
        for path in write(HOME, claims()):
            print(path.as_posix())
        return 0
    found = list(differences(HOME, claims()))
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"error: {error}")
