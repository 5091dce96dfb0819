#!/bin/sh
# A server that speaks the protocol of S3, for tests: moto's, from PyPI, in a folder of its own.
#
# s3-server.sh DIR   makes DIR unless it is whole already; DIR/bin/moto_server is the program.
set -eu

dir=${1:?usage: s3-server.sh DIR}
# Made last: a folder without it is half a folder.
mark=$dir/.whole

[ ! -e "$mark" ] || exit 0
rm -rf "$dir"
mkdir -p "$(dirname "$dir")"
echo "moto's S3 server into $dir"
# Debian's own, whatever else is in PATH.
/usr/bin/python3 -m venv "$dir"
"$dir/bin/pip" install --quiet --disable-pip-version-check --no-input 'moto==5.2.5' 'flask<4' 'flask-cors<7'
"$dir/bin/moto_server" --help >/dev/null
: >"$mark"
