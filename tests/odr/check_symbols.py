"""Fails if two archives define the same function of heed.

    check_symbols.py <nm> <archive> <archive>...

Weak symbols of one name are merged by the linker, which keeps whichever it meets first. What was compiled for different
machines must therefore not share a name. Excepted is what must be shared, so that an exception thrown by one part of a
program is caught by another: the type information of the exception classes, and with it their virtual tables and the
constructors and destructors, which do nothing but call the standard library's.
"""

import itertools
import re
import subprocess
import sys

EXCEPTION = r"N4heed2v0(16invalid_argument|15transport_error|17refused_elsewhere)"
SHARED = re.compile(rf"^(DW\.ref\.)?_ZT[ISV]{EXCEPTION}E$|^_Z{EXCEPTION}[CD][I0-2]")


def weak_symbols(nm, archive):
    listing = subprocess.run([nm, "--defined-only", archive], check=True, capture_output=True, text=True).stdout
    symbols = re.findall(r"^[0-9a-f]+ [uvVwW] (\S+)$", listing, re.M)
    return {symbol for symbol in symbols if "4heed" in symbol}


def main():
    nm, *archives = sys.argv[1:]
    defined = {archive: weak_symbols(nm, archive) for archive in archives}
    offences = set()
    for a, b in itertools.combinations(archives, 2):
        offences |= {symbol for symbol in defined[a] & defined[b] if not SHARED.match(symbol)}
    if not all(defined.values()):
        print("an archive defines no weak symbol of heed at all: the test tests nothing")
        return 1
    for symbol in sorted(offences):
        print(f"shared between machines: {symbol}")
    if not offences:
        print("weak symbols of heed, none shared: " + ", ".join(str(len(symbols)) for symbols in defined.values()))
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main())
