#!/bin/sh
# Starts the agent of site {{ name }} in the foreground; the service file calls exactly this.
# Which flprov: $FLPROV_BIN, or else the one on PATH. Stop with Ctrl-C or SIGTERM.
set -eu
kit=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
flprov=${FLPROV_BIN:-flprov}
if ! command -v "$flprov" >/dev/null 2>&1; then
    echo "start.sh: '$flprov' is not installed here: see README.md, or set FLPROV_BIN to its path" >&2
    exit 1
fi
exec "$flprov" site start "$kit" "$@"
