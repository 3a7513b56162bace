#!/usr/bin/env bash
# The README's first command, for a few seconds: nothing torn, nothing missed, nothing left behind.
. "$(dirname "$0")/lib.sh"
mounts_before=$(grep -c ' fuse.kstatefs ' /proc/self/mountinfo || true)
summary=$(cargo run --release --quiet -- demo --seconds 3 --json)
echo "$summary"
python3 - "$summary" <<'PY'
import json, sys
summary = json.loads(sys.argv[1])
for key in ("commits", "reads", "torn", "missed_final", "conflicts", "read_ns_p50", "read_ns_p99",
            "wake_us_p50", "wake_us_p99", "file_wake_us_p50"):
    assert key in summary, f"the summary lacks {key}"
assert summary["torn"] == 0 and summary["missed_final"] == 0, summary
assert summary["commits"] > 1000 and summary["reads"] > 1000, summary
PY
mounts_after=$(grep -c ' fuse.kstatefs ' /proc/self/mountinfo || true)
[ "$mounts_before" = "$mounts_after" ] || { echo "the demo left a mount behind"; exit 1; }
