"""Reads the report of the Autobahn suite: all 301 cases must be there, and none may have failed."""

import collections
import json
import sys

CASES = 301
# "NON-STRICT" is a failure here: the server may be lenient nowhere. "INFORMATIONAL" cases have no right answer.
GOOD = {"OK", "INFORMATIONAL"}

with open(sys.argv[1], encoding="utf-8") as file:
    results = json.load(file)["janus"]
kinds = collections.Counter(result["behavior"] for result in results.values())
print(f"{len(results)} cases: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
bad = {case: result for case, result in results.items() if {result["behavior"], result["behaviorClose"]} - GOOD}
for case, result in sorted(bad.items()):
    print(f"case {case}: {result['behavior']}, close {result['behaviorClose']}")
if bad or len(results) != CASES:
    sys.exit(f"{len(bad)} cases failed, and {len(results)} of {CASES} were run")
