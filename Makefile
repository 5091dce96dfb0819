# The few commands a reader needs. `make demo` shows what Holdfast does, `make test` proves it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Real servers for real tests. gcc links Rust programs.
PACKAGES := gcc haproxy iproute2 libredis-perl mariadb-backup mariadb-server mmdebstrap nftables nutcracker python3-cryptography python3-pymysql python3-redis python3-venv \
  python3-zstandard redis-server redis-tools restic sysbench zstd
# Services that Debian would start with these packages; ours run on ports and in directories of their own.
SERVICES := mariadb haproxy nftables nutcracker redis-server

POLICY := /usr/sbin/policy-rc.d
TARGET := $(or $(CARGO_TARGET_DIR),target)

# Servers that Debian 12 does not have: MySQL, a later MariaDB, Valkey, one that speaks S3's protocol. Tests look for them here, wherever Cargo builds.
ENGINES := $(CURDIR)/target

.PHONY: help setup engines build lint test demo bench

help:
	@echo 'make demo    a three-node MariaDB service on this machine: kill its primary, switch it over'
	@echo 'make test    everything that is checked: lints, then every test on real servers'
	@echo 'make bench   the proxies beside HAProxy and twemproxy, writes beside a pair set up by hand, backups beside restic, failovers beside Sentinel, read/write splitting beside MySQL Router'
	@echo 'make lint    formatting, clippy, crate edges, generated files'
	@echo 'make setup   install the Debian packages that tests and demo need (the others call it)'
	@echo 'make engines MySQL 9.7, MariaDB 11.8, Valkey 8 and an S3 server in target/, if they are not there (make test calls it)'

# Installs what is missing and leaves no service of it running: a policy-rc.d that says no, unless there is one.
setup:
	@command -v cargo >/dev/null || { echo 'cargo is missing: install Rust from https://rustup.rs' >&2; exit 1; }
	@missing=''; \
	for package in $(PACKAGES); do \
	  status=$$(dpkg-query -W -f='$${db:Status-Status}' $$package 2>/dev/null || true); \
	  [ "$$status" = installed ] || missing="$$missing $$package"; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	command -v apt-get >/dev/null || { echo "install these by hand:$$missing" >&2; exit 1; }; \
	[ $$(id -u) = 0 ] || { echo "run as root, or first: sudo apt-get install$$missing" >&2; exit 1; }; \
	echo "installing$$missing"; \
	export DEBIAN_FRONTEND=noninteractive; \
	policy=$(POLICY); \
	if [ ! -e $$policy ]; then \
	  printf '#!/bin/sh\nexit 101\n' >$$policy; chmod +x $$policy; trap "rm -f $$policy" EXIT; \
	fi; \
	apt-get -q -o DPkg::Lock::Timeout=300 update </dev/null; \
	apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends $$missing </dev/null; \
	for service in $(SERVICES); do \
	  case "$$missing " in *" $$service "* | *" $$service-server "*) \
	    systemctl disable --now $$service >/dev/null 2>&1 || true ;; \
	  esac; \
	done

engines: setup
	@scripts/engine-folder.sh mysql $(ENGINES)/mysql
	@scripts/engine-folder.sh mariadb $(ENGINES)/mariadb
	@scripts/engine-folder.sh valkey $(ENGINES)/valkey
	@scripts/s3-server.sh $(ENGINES)/s3

# All targets at once: features are then resolved as for the tests, and nothing is built twice. Fetched is also what only
# other platforms need: `xtask tidy` reads every licence.
build:
	cargo fetch --locked
	cargo build --workspace --all-targets --locked

lint: build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	$(TARGET)/debug/xtask tidy
	$(TARGET)/debug/xtask schemas --check

test: setup engines lint
	cargo test --workspace --locked --no-fail-fast

# An optimised build: it prints milliseconds that people will compare.
demo: setup
	cargo build --release --locked --package holdfast
	$(TARGET)/release/holdfast drill demo

bench: setup engines
	cargo build --release --locked --package holdfast
	bench/bench.py $(TARGET)/release/holdfast
	bench/router.py $(TARGET)/release/holdfast $(ENGINES)/mysql/programs
	bench/backup.py $(TARGET)/release/holdfast
	bench/sentinel.py --holdfast $(TARGET)/release/holdfast
	cargo build --release --locked --package holdfast-proxy --example front
	bench/redis.py $(TARGET)/release/examples/front
