#!/bin/sh
# Real servers of releases that this machine's distribution does not have: another suite's packages in a folder of their own.
#
# engine-folder.sh ENGINE DIR   makes DIR unless it is whole already; DIR/programs then holds programs that run as they are.
#
# Nothing is installed: the programs are started by the folder's own loader with the folder's own libraries, so that
# they see this machine's files, users and network, and need no chroot.
set -eu

engine=${1:?usage: engine-folder.sh ENGINE DIR}
dir=${2:?usage: engine-folder.sh ENGINE DIR}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
# Made last: a folder without it is half a folder.
mark=$dir/.whole

case $engine in
  mysql)
    suite=sid server=mysqld says='--no-defaults --version'
    packages=mysql-server-core,mysql-client-core,mysql-router
    programs='sbin/mysqld bin/mysql bin/mysqlbinlog bin/mysqlrouter'
    ;;
  mariadb)
    suite=trixie server=mariadbd says='--no-defaults --version'
    packages=mariadb-server-core,mariadb-client,mariadb-backup
    programs='sbin/mariadbd bin/mariadb bin/mariadb-binlog bin/mariadb-check bin/mariadb-upgrade bin/mariabackup bin/mbstream'
    ;;
  valkey)
    # Only what backports have is from there.
    suite=bookworm more="deb $mirror bookworm-backports main" server=valkey-server says=--version
    packages=valkey-server,valkey-tools
    programs='bin/valkey-server bin/valkey-cli bin/valkey-check-rdb'
    ;;
  *) echo "unknown engine $engine: mysql, mariadb or valkey" >&2; exit 2 ;;
esac

[ ! -e "$mark" ] || exit 0
command -v mmdebstrap >/dev/null || { echo 'mmdebstrap is missing: make setup' >&2; exit 1; }
rm -rf "$dir"
mkdir -p "$(dirname "$dir")"
echo "$engine of Debian $suite into $dir"
# Unpacked, not configured: nothing of it is ever a system.
mmdebstrap --quiet --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' --include="$packages" \
  "$suite" "$dir" "deb $mirror $suite main" ${more:+"$more"}
rm -rf "$dir/var" "$dir/dev" "$dir/usr/share/doc" "$dir/usr/share/man"

mkdir "$dir/programs"
# Older suites have it at the top.
loader=usr/lib64/ld-linux-x86-64.so.2
[ -e "$dir/$loader" ] || loader=${loader#usr/}
# wrap PROGRAM ARGUMENT…: --argv0 keeps `ps` readable, and lets a program find those beside it; the arguments come last,
# since a first --no-defaults must be first.
wrap() {
  wrapper=$dir/programs/${1##*/}
  cat >"$wrapper" <<END
#!/bin/sh
root=\$(dirname "\$(dirname "\$(readlink -f "\$0")")")
libraries=\$root/usr/lib/x86_64-linux-gnu:\$root/lib/x86_64-linux-gnu:\$root/usr/lib/mysql-router
exec "\$root/$loader" --library-path "\$libraries" --argv0 "\$0" "\$root/usr/$1" "\$@" ${2:-}
END
  chmod 755 "$wrapper"
}
for program in $programs; do
  wrap "$program" "$([ "${program##*/}" != mysqld ] && [ "${program##*/}" != mariadbd ] || echo '--basedir="$root/usr"')"
done
# The folder is readable for whoever a server runs as.
chmod 755 "$dir"
"$dir/programs/$server" $says
touch "$mark"
