#!/bin/sh
# Gets the Jargon File (public domain), a glossary of hacker slang, out of Debian's package jargon-text. The package is
# not installed, so this needs no root; apt must know it (apt-get update).
#
#     fetch_corpus.sh [FOLDER]        default: build/corpus
set -eu

folder=${1:-build/corpus}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && apt-get download --quiet --quiet -o APT::Sandbox::User=root jargon-text)
dpkg-deb --extract "$work"/jargon-text_*.deb "$work/package"
mkdir -p "$folder"
gzip --decompress --stdout "$work/package/usr/share/doc/jargon-text/jargon.txt.gz" > "$folder/jargon.txt"
echo "$folder/jargon.txt holds the Jargon File"
