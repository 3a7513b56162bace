#!/usr/bin/env bash
# The peers beside kstate: the crate is formatted and free of warnings, a short run asks every question, and the
# report is made of it. Redis is measured where it is installed.
. "$(dirname "$0")/lib.sh"
manifest=benches/rivals/Cargo.toml
cargo fmt --manifest-path $manifest -- --check
cargo clippy --release --locked --manifest-path $manifest -- --deny warnings
into=$(mktemp -d)
trap 'rm -rf "$into"' EXIT
rivals() { cargo run --release --locked --quiet --manifest-path $manifest -- "$@"; }
rivals run --short --out "$into/run.json"
rivals report "$into/run.json" --into "$into"
python3 - "$into/run.json" <<'PYTHON'
import json, sys
run = json.load(open(sys.argv[1]))
asked = {cell["question"] for cell in run["cells"]}
missing = {"read", "readers", "publish", "beside", "wake", "update", "several", "start", "many", "killed"} - asked
assert not missing, f"no cells of {missing}"
for cell in run["cells"]:
    answers = [cell.get(key) for key in ("figures", "cannot", "seen")]
    assert any(answers), f"{cell} says nothing"
    lost = (cell.get("figures") or {}).get("counts", {}).get("lost", 0)
    assert lost == 0 or cell["peer"] not in ("kstate", "kstate-c", "kstate-file"), f"{cell} has lost updates"
    torn = (cell.get("figures") or {}).get("counts", {}).get("torn", 0)
    assert torn == 0 or not cell["peer"].startswith("kstate"), f"{cell} has torn reads"
PYTHON
