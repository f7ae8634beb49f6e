#!/bin/sh
# Gets photographs to filter out of Debian's package python3-skimage: chelsea.png, a cat, coffee.png, a cup of coffee, both
# in the public domain (CC0), and others. The package is not installed, so this needs no root; apt must know it (apt-get
# update).
#
#     fetch_photograph.sh [FOLDER]        default: build/photographs
set -eu

folder=${1:-build/photographs}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && apt-get download --quiet --quiet -o APT::Sandbox::User=root python3-skimage)
dpkg-deb --extract "$work"/python3-skimage_*.deb "$work/package"
mkdir -p "$folder"
for name in chelsea coffee; do
  cp "$work/package/usr/lib/python3/dist-packages/skimage/data/$name.png" "$folder/$name.png"
done
echo "$folder holds chelsea.png and coffee.png"
