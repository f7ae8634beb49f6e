"""Compiles one call of heed and fails when that costs too much CPU time.

    budget.py <case.cpp> <yardstick.cpp> -- <compiler> <flag>...

A call may cost 3 s of CPU time (user and system) in all, of which heed itself 1.5 s: what is left after the yardstick,
a file that includes xsimd only. Both numbers are meant for a machine that compiles the yardstick in YARDSTICK seconds.
A slower one gets proportionally more: the yardstick is compiled next to the case, so a busy moment slows both. A faster
one gets no less. The smallest of a few runs counts, since noise only adds time.
"""

import os
import resource
import subprocess
import sys
import tempfile

TOTAL = 3.0
OWN = 1.5
YARDSTICK = 1.5
RUNS = 3


def cpu_seconds(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    case, yardstick, separator, *compiler = sys.argv[1:]
    assert separator == "--"
    with tempfile.TemporaryDirectory() as folder:
        compile_only = compiler + ["-c", "-o", os.path.join(folder, "case.o")]
        unit = cost = float("inf")
        for _ in range(RUNS):
            unit = min(unit, cpu_seconds(compile_only + [yardstick]))
            cost = min(cost, cpu_seconds(compile_only + [case]))
            factor = max(1.0, unit / YARDSTICK)
            if cost <= TOTAL * factor and cost - unit <= OWN * factor:
                break
    print(f"{os.path.basename(case)}: {cost:.2f} s of {TOTAL * factor:.2f} s, "
          f"heed {cost - unit:.2f} s of {OWN * factor:.2f} s, yardstick {unit:.2f} s")
    return 0 if cost <= TOTAL * factor and cost - unit <= OWN * factor else 1


if __name__ == "__main__":
    sys.exit(main())
