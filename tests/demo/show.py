"""How the demo shows what it does: headlines, and commands as a user would see them."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.system.stage import OVERLAID, ROOT


def say(text: str) -> None:
    """A headline."""
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def show(*args: str, expect: int = 0) -> None:
    """Run a command as the user sees it: the command line, then its output as it comes."""
    tell(*args)
    code = subprocess.run([str(OVERLAID), *args], check=False).returncode
    if code != expect:
        raise SystemExit(f"demo: overlaid {args[0]} ended with {code}, expected {expect}")


def tell(*args: str) -> None:
    """The command line of what is run."""
    print(f"$ overlaid {' '.join(_short(arg) or repr(arg) for arg in args)}", flush=True)


def _short(argument: str) -> str:
    """Paths as they would be typed in the clone, the demo's own folder left out."""
    return re.sub(r"/tmp/\S+?/(?=[^/ ]+(/agent\.toml)?$)", "", argument.replace(f"{ROOT}/", ""))
