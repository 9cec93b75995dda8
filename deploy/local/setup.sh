#!/bin/sh
# Sets up what the make targets need; what is there already costs nothing.
#   deploy/local/setup.sh python    the virtual environment with the pinned dependencies
#   deploy/local/setup.sh broker    a RabbitMQ server to run a private node of, unless RABBITMQ_URL names one
#   deploy/local/setup.sh browser   a Chromium for the tests of the dashboard, where Debian has one; they skip without
#   deploy/local/setup.sh audit     pip-audit, in an environment of its own: none of it belongs among what it looks at
set -eu
cd "$(dirname "$0")/../.."

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$@"
    exit 1
}

# Runs its words as root: as ourselves, or through sudo where it asks for no password.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_install() {
    command -v apt-get >/dev/null 2>&1 || return 1
    [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; }
}

# Runs its words quietly: their output goes to a log, whose end is shown if they fail.
quietly() {
    mkdir -p .dev/logs
    if ! "$@" >.dev/logs/setup.log 2>&1 </dev/null; then
        tail -n 30 .dev/logs/setup.log >&2
        fail "Failed: $* (all of its output: .dev/logs/setup.log)"
    fi
}

apt_install() {
    quietly as_root apt-get -q update
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "$@"
}

# --- python ---

set_up_python() {
    wanted=$(cat requirements.txt pyproject.toml | cksum)
    if [ "$(cat .venv/stamp 2>/dev/null)" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null; then return; fi
    new_enough .venv/bin/python || make_venv
    say "Installing the pinned dependencies ..."
    quietly .venv/bin/python -m pip install --disable-pip-version-check --require-hashes -r requirements.txt
    quietly .venv/bin/python -m pip install --disable-pip-version-check --no-deps -e .
    echo "$wanted" >.venv/stamp
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

make_venv() {
    python=$(find_python)
    say "Making .venv with $("$python" -V) ..."
    rm -rf .venv
    # Debian keeps the part of Python that puts pip into a venv in a package of its own.
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        package="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
        may_install || fail "$python cannot make virtual environments: install $package, then run make again."
        say "Installing $package ..."
        apt_install "$package"
    fi
    quietly "$python" -m venv .venv
}

find_python() {
    for python in python3.14 python3.13 python3.12 python3.11 python3; do
        if new_enough "$python"; then
            command -v "$python"
            return
        fi
    done
    fail "Python 3.11 or newer is needed; found only: $(python3 -V 2>/dev/null || echo none)."
}

# --- broker ---

set_up_broker() {
    if [ -n "${RABBITMQ_URL:-}" ] || has_rabbitmq; then return; fi
    if may_install; then
        say "Installing rabbitmq-server with apt-get (about a minute) ..."
        install_rabbitmq_with_apt
    elif command -v brew >/dev/null 2>&1; then
        say "Installing rabbitmq with brew ..."
        quietly brew install rabbitmq
    fi
    has_rabbitmq || fail "RabbitMQ is needed, and there is none that could be installed from here. One of these helps:
  Debian, Ubuntu   apt-get install rabbitmq-server   (as root; or run make as root, or with sudo that asks no password)
  macOS            brew install rabbitmq
  anywhere         export RABBITMQ_URL=amqp://user:password@host:5672/%2F   (a RabbitMQ that already runs)"
}

has_rabbitmq() {
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] ||
        PATH="$PATH:/opt/homebrew/sbin:/usr/local/sbin:/opt/rabbitmq/sbin" command -v rabbitmq-server >/dev/null 2>&1
}

# The package would start a broker of its own, now and at every boot. Ours is private; nobody asked for another.
install_rabbitmq_with_apt() {
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap 'as_root rm -f $policy' EXIT
        trap 'exit 130' INT TERM
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
        as_root chmod 755 $policy
    fi
    apt_install rabbitmq-server
    if [ -d /run/systemd/system ]; then
        as_root systemctl disable --quiet rabbitmq-server.service 2>/dev/null || true
    fi
}

# --- browser ---

set_up_browser() {
    if has_chromium; then return; fi
    if is_debian && may_install; then
        say "Installing chromium with apt-get (about a minute) ..."
        (apt_install chromium fonts-dejavu-core) || true
    fi
    has_chromium || say "There is no chromium: the tests that need a browser skip. CHROMIUM names one elsewhere."
}

has_chromium() {
    [ -n "${CHROMIUM:-}" ] || command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1
}

# Elsewhere the package of that name is none of a browser's.
is_debian() { grep -qx 'ID=debian' /etc/os-release 2>/dev/null; }

# --- audit ---

set_up_audit() {
    wanted=$(cksum <deploy/local/audit.txt)
    if [ "$(cat .dev/audit/stamp 2>/dev/null)" = "$wanted" ]; then return; fi
    say "Installing pip-audit ..."
    rm -rf .dev/audit
    quietly .venv/bin/python -m venv .dev/audit
    quietly .dev/audit/bin/python -m pip install --disable-pip-version-check --require-hashes -r deploy/local/audit.txt
    echo "$wanted" >.dev/audit/stamp
}

case "${1:-}" in
python) set_up_python ;;
broker) set_up_broker ;;
browser) set_up_browser ;;
audit) set_up_audit ;;
*) fail "usage: deploy/local/setup.sh python|broker|browser|audit" ;;
esac
