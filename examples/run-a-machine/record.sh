#!/usr/bin/env bash
# Record what a program does to its memory, for `vmckpt run --workload trace:FILE`:
#
#   bash record.sh sort.trace.gz sort -n numbers.txt
#
# valgrind's lackey writes a line for each access. Of instruction fetches in a row from one page only the first is kept:
# a replay counts them once anyway, and the file is a fifth of the size.
set -euo pipefail

if [[ $# -lt 2 ]]; then
  printf 'usage: bash record.sh OUTPUT.gz COMMAND [ARGUMENT...]\n' >&2
  exit 2
fi
output=$1
shift
command -v valgrind >/dev/null || { printf 'record.sh: this needs valgrind\n' >&2; exit 1; }

log=$(mktemp "${TMPDIR:-/tmp}/vmckpt-trace.XXXXXX")
trap 'rm -f "$log"' EXIT
valgrind --tool=lackey --trace-mem=yes --log-file="$log" "$@"
awk '
  /^I / {
    page = substr($2, 1, index($2, ",") - 4)
    if (page == last) next
    last = page
  }
  /^(I| [LSM]) / { print }
' "$log" | gzip -9n >"$output"
printf 'recorded %s accesses in %s\n' "$(gzip -dc "$output" | wc -l)" "$output"
