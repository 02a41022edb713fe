#!/usr/bin/env bash
# A machine in the background, and a hand on it: status, pause, resume, stop; then the same run twice, with one digest.
#
# A step is `step` (a heading), `say` (what it shows) and `run` (a command, printed and run).
# SIZE=1G bash run.sh takes a bigger machine. Everything happens in a temporary folder, which is gone at the end.
set -euo pipefail

size=${SIZE:-128M}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d "${TMPDIR:-/tmp}/vmckpt-machine.XXXXXX")
machine=''
cleanup() {
  if [[ -n $machine ]]; then kill "$machine" 2>/dev/null || true; fi
  rm -rf "$folder"
}
trap cleanup EXIT
cd "$folder"

bold='' dim='' green='' plain=''
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
  bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' plain=$'\e[0m'
fi

steps=0
step() { steps=$((steps + 1)); printf '\n%s%d. %s%s\n' "$bold" "$steps" "$1" "$plain"; }
say() { printf '%s   %s%s\n' "$dim" "$1" "$plain"; }
run() { printf '\n%s$%s %s\n' "$green" "$plain" "$*"; "$@"; }
fail() { printf 'run.sh: %s\n' "$1" >&2; exit 1; }

step "A machine's memory"
run vmckpt create guest.raw --size "$size"

step "Boot it"
say "Two vCPUs, each a process, that read and write real memory. It runs on in the background."
printf '\n%s$%s vmckpt run guest.raw --workload zipf --vcpus 2 --socket vm.sock &\n' "$green" "$plain"
vmckpt run guest.raw --workload zipf --vcpus 2 --socket vm.sock >report.txt &
machine=$!
run vmckpt vm status vm.sock --wait 30

step "Pause it"
say "Every vCPU stops between two operations, and knows between which: the count stands still."
run vmckpt vm pause vm.sock
before=$(vmckpt vm status vm.sock --json)
after=$(vmckpt vm status vm.sock --json)
[[ $before == "$after" ]] || fail "a paused machine worked on"

step "Let it go on"
run vmckpt vm resume vm.sock

step "Stop it"
say "It prints its report, and the socket is gone."
run vmckpt vm stop vm.sock
wait "$machine"
machine=''
cat report.txt
[[ ! -e vm.sock ]] || fail "the socket is still there"

step "The same again"
say "What a machine does follows from its seed: so many operations, so one digest."
for turn in first second; do
  printf '   %s  ' "$turn"
  vmckpt run guest.raw --vcpus 2 --seed 7 --until-ops 200000 --json | tee "$turn.json" |
    sed 's/.*"digest": "\([0-9a-f]*\)".*/\1/'
done
digest_of() { sed 's/.*"digest": "\([0-9a-f]*\)".*/\1/' "$1"; }
[[ $(digest_of first.json) == "$(digest_of second.json)" ]] || fail "the digests differ"

step "What a real program did"
say "A recording of sort(1), replayed in the machine's memory; record.sh makes more."
run vmckpt run guest.raw --workload "trace:$here/sort.trace.gz" --until-ops 300000

printf '\n%sTwo runs, one digest.%s\n' "$bold$green" "$plain"
