#!/usr/bin/env bash
# A machine that is saved while it works: it hardly notices, and from the file goes on exactly where it was.
#
#   run & ─▶ save (checkpoint) ─▶ it works on ─▶ save (suspend) ─▶ it ends ─▶ run the checkpoints ─▶ one digest
#
# A step is `step` (a heading), `say` (what it shows) and `run` (a command, printed and run).
# SIZE=1G bash run.sh takes a bigger machine. Everything happens in a temporary folder, which is gone at the end.
set -euo pipefail

size=${SIZE:-128M}
folder=$(mktemp -d "${TMPDIR:-/tmp}/vmckpt-live.XXXXXX")
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

step "A machine at work"
run vmckpt create guest.raw --size "$size"
printf '\n%s$%s vmckpt run guest.raw --workload working-set --seed 7 --socket vm.sock &\n' "$green" "$plain"
vmckpt run guest.raw --workload working-set --seed 7 --socket vm.sock >report.txt &
machine=$!
vmckpt vm status vm.sock --wait 30 --quiet

step "Save it as it is now"
say "It pauses for the instant, and works on while its memory is saved. What it touched meanwhile is active."
run vmckpt save vm.sock now.vmckpt
run vmckpt vm status vm.sock

step "Suspend it"
say "Memory goes out while it works; what it wrote goes out again; then it stops, and ends."
run vmckpt save vm.sock last.vmckpt --mode suspend
wait "$machine"
machine=''
cat report.txt

step "What is in the files"
run vmckpt info last.vmckpt
run vmckpt verify now.vmckpt --quiet
run vmckpt verify last.vmckpt --quiet

step "Go on from each"
say "A machine that was never saved, one from the first file, one from the second: the same operations, one digest."
ops=$(sed -n 's/.*"ops": \([0-9]*\),.*/\1/p' <(vmckpt run last.vmckpt --until-ops 0 --json))
until_ops=$((ops + 100000))
for memory in "guest.raw --workload working-set --seed 7" now.vmckpt last.vmckpt; do
  # shellcheck disable=SC2086 # options
  vmckpt run $memory --until-ops "$until_ops" --json | sed 's/.*"digest": "\([0-9a-f]*\)".*/\1/' |
    tee -a digests.txt | sed "s/\$/  ${memory%% *}/"
done
[[ $(sort -u digests.txt | wc -l) == 1 ]] || fail "the digests differ"

printf '\n%sSaved twice while it worked, and nothing was lost.%s\n' "$bold$green" "$plain"
