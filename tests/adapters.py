"""Rewards inside verl, OpenRLHF and verifiers themselves: `make adapters`.

Their requirements do not fit beside each other or beside ours, so each gets an environment under .venv/adapters, once. Needs a
package index, some gigabytes of disk and a quarter of an hour; the suite skips what is checked here.
"""

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = ["torch==2.13.0", "beartype", "hypothesis", "pytest", "pytest-randomly", "-e", "."]
PEERS = {
    "verl==0.9.1": [],
    "verifiers==0.4.0": [],
    "verifiers==0.1.14": [],
    # Its requirements need CUDA to build; these are what the part that calls rewards imports.
    "openrlhf==0.11.2": ["aiohttp", "deepspeed", "pylatexenc", "ray", "transformers"],
}
"""Version → what it is installed with instead of its own requirements; nothing: these."""
TESTS = ["tests/test_use_in.py", *(f"tests/test_rewards_{of}.py" for of in ("openrlhf", "verifiers", "verl"))]  # fmt: skip


def prepare(peer: str, instead: list[str], folder: Path) -> Path:
    """An environment with the peer and us; returns its python."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "-qq", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, *OURS, *(instead or [peer])], cwd=ROOT, check=True)
        if instead:
            subprocess.run([*pip, "--no-deps", peer], cwd=ROOT, check=True)
        (folder / "ready").touch()
    return python


def main() -> int:
    """Every peer in turn; the exit status says whether all passed."""
    failed = []
    for peer, instead in PEERS.items():
        print(f"{peer}:", flush=True)  # noqa: T201
        python = prepare(peer, instead, ROOT / ".venv" / "adapters" / peer)
        # Their warnings are theirs.
        tested = subprocess.run([python, "-m", "pytest", "-q", "-W", "default", "--disable-warnings", *TESTS], cwd=ROOT, check=False)  # fmt: skip
        if tested.returncode:
            failed.append(peer)
    print(f"failed: {', '.join(failed)}" if failed else "all passed")  # noqa: T201
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
