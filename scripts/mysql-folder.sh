#!/bin/sh
# Real MySQL servers on a machine whose distribution has none: Debian unstable's packages in a folder of their own.
#
# mysql-folder.sh DIR   makes DIR unless it is whole already; DIR/programs then holds programs that run as they are.
#
# Nothing is installed: the programs are started by the folder's own loader with the folder's own libraries, so that
# they see this machine's files, users and network, and need no chroot.
set -eu

dir=${1:?usage: mysql-folder.sh DIR}
packages=mysql-server-core,mysql-client-core,mysql-router
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
# Made last: a folder without it is half a folder.
mark=$dir/.whole

[ ! -e "$mark" ] || exit 0
command -v mmdebstrap >/dev/null || { echo 'mmdebstrap is missing: make setup' >&2; exit 1; }
rm -rf "$dir"
mkdir -p "$(dirname "$dir")"
echo "MySQL from Debian unstable into $dir"
mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' --include="$packages" \
  sid "$dir" "$mirror"
# Nothing of it is ever upgraded.
rm -rf "$dir/var/cache/apt" "$dir/var/lib/apt/lists"

mkdir "$dir/programs"
# wrap PROGRAM ARGUMENT…: --argv0 keeps `ps` readable; the arguments come last, since a first --no-defaults must be first.
wrap() {
  wrapper=$dir/programs/${1##*/}
  cat >"$wrapper" <<END
#!/bin/sh
root=\$(dirname "\$(dirname "\$(readlink -f "\$0")")")
libraries=\$root/usr/lib/x86_64-linux-gnu:\$root/usr/lib/mysql-router
exec "\$root/lib64/ld-linux-x86-64.so.2" --library-path "\$libraries" --argv0 "\$0" "\$root/$1" "\$@" ${2:-}
END
  chmod 755 "$wrapper"
}
wrap usr/sbin/mysqld '--basedir="$root/usr"'
wrap usr/bin/mysql
wrap usr/bin/mysqlbinlog
wrap usr/bin/mysqlrouter
# The folder is readable for whoever a server runs as.
chmod 755 "$dir"
"$dir/programs/mysqld" --no-defaults --version
touch "$mark"
