#!/usr/bin/env bash
# The Python package: built and installed as users do it, its tests and the examples in its docstrings and
# documentation on real mounts, its types, and a bench in short. With --check the bench fails above its bound,
# on a machine that is quiet.
. "$(dirname "$0")/lib.sh"
package=bindings/python
export CARGO_TARGET_DIR=$PWD/target/python
cargo fmt --manifest-path $package/Cargo.toml -- --check
cargo clippy --release --locked --manifest-path $package/Cargo.toml -- --deny warnings

if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "the Python package needs Python 3.11 or later; this is $(python3 --version)"
    exit 1
fi
# A fresh machine has Python without what makes environments.
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "python3 cannot make an environment; install the package python3-venv"
        exit 1
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends python3-venv
fi
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
python3 -m venv "$environment"
python=$environment/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$python" -m pip install --quiet --requirement $package/requirements.txt
"$python" -m pip install --quiet ./$package

# What the tests mount, where other gates build it as well.
CARGO_TARGET_DIR=$PWD/target cargo build --quiet -p kstate-cli
export KSTATE_BINARY=$PWD/target/debug/kstate
# An ordinary user without fusermount3 mounts in a namespace of their own.
within() { "$@"; }
in_namespace="unshare --user --map-root-user --mount"
if [ "$(id -u)" != 0 ] && ! command -v fusermount3 >/dev/null && $in_namespace true 2>/dev/null; then
    within() { $in_namespace "$@"; }
fi
cd $package
# Not from the source beside them, but what was installed.
within "$environment/bin/pytest" --quiet
# The types: of the package itself, of how its tests use it, and against what is there at run time.
"$environment/bin/mypy" --no-incremental python/kstate benches/read.py benches/wake.py
MYPYPATH=tests "$environment/bin/mypy" --no-incremental --python-executable "$python" tests benches/run.py
"$environment/bin/stubtest" kstate --allowlist tests/stubtest.allow
within "$python" benches/run.py --rounds 200 --json "$@" | "$python" -c '
import json, sys
cases = json.load(sys.stdin)
assert cases, "no cases"
for case in cases:
    for key in ("case", "ours_ns", "limit_ns", "ratio", "bound"):
        assert key in case, f"{case} lacks {key}"
    print("%-55s %8.1f %8.1f %6.2f" % (case["case"], case["ours_ns"], case["limit_ns"], case["ratio"]))
'
