"""Compiles one case and judges the outcome.

    check_case.py good|bad <case.cpp> -- <compiler> <flag>...
"""

import os
import re
import subprocess
import sys


def main():
    variant, case, separator, *compiler = sys.argv[1:]
    assert separator == "--" and variant in ("good", "bad")
    with open(case) as file:
        expected = re.search(r"^// expected: (.+)$", file.read(), re.M).group(1)
    command = compiler + (["-DHEED_COMPILE_FAIL"] if variant == "bad" else []) + [case]
    # Messages are compared, so they must not be translated.
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})

    if variant == "good":
        if run.returncode == 0:
            return 0
        print(f"must be accepted, but was rejected:\n{run.stderr}")
        return 1
    errors = [line for line in run.stderr.splitlines() if re.search(r"\berror:", line)]
    if run.returncode != 0 and errors and expected in errors[0]:
        print(errors[0])
        return 0
    what = "was accepted" if run.returncode == 0 else "its first error is another"
    print(f"must be rejected with '{expected}', but {what}:\n{run.stderr}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
