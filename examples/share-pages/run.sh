#!/usr/bin/env bash
# What sharing equal pages would free, before anything is switched on; and then carried out in a machine that runs.
#
#   create ×3 ─▶ estimate-sharing ─▶ trust groups ─▶ plan, page ─▶ sketches, who with whom ─▶ vm break-up ─▶ one digest
#
# A step is `step` (a heading), `say` (what it shows) and `run` (a command, printed and run).
# SIZE=1G bash run.sh takes bigger machines. Everything happens in a temporary folder, which is gone at the end.
set -euo pipefail

size=${SIZE:-64M}
folder=$(mktemp -d "${TMPDIR:-/tmp}/vmckpt-share.XXXXXX")
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

step "Three machines"
say "The first two have the same system, as two clones of one template do; the third has another."
run vmckpt create web-1.raw --size "$size" --seed 1 --common-seed 7 --quiet
run vmckpt create web-2.raw --size "$size" --seed 2 --common-seed 7 --quiet
run vmckpt create db.raw --size "$size" --seed 3 --common-seed 8 --quiet

step "What would sharing free?"
say "By default no machine trusts another: pages are shared within each alone."
run vmckpt estimate-sharing web-1.raw web-2.raw db.raw --top 3

step "If the two web servers trusted each other"
printf 'web: web-1.raw web-2.raw\n' >groups
run vmckpt estimate-sharing web-1.raw web-2.raw db.raw --trust groups --top 0 --target 8M --report sharing.html

step "A sample will do"
say "A quarter of all contents, chosen by their hashes, and an interval."
run vmckpt estimate-sharing web-1.raw web-2.raw db.raw --trust groups --top 0 --sample 0.25

step "Which two on one host?"
say "A sketch is small, and keeps what an estimate needs: nobody reads the images again."
for image in web-1 web-2 db; do
  run vmckpt estimate-sharing "$image.raw" --sample 0.25 --sketch-out "$image.vmsketch" --quiet
done
run vmckpt estimate-sharing web-1.vmsketch db.vmsketch web-2.vmsketch --trust all --co-locate 2 --top 0

step "Carry it out"
say "The machine works on, in a tenth of its memory, while large pages are broken up and equal pages shared."
printf '\n%s$%s vmckpt run web-1.raw --workload working-set:phase=0 --seed 7 --socket vm.sock --until-ops 10000000 &\n' "$green" "$plain"
vmckpt run web-1.raw --workload working-set:phase=0 --seed 7 --socket vm.sock --until-ops 10000000 --json >shared.json &
machine=$!
vmckpt vm status vm.sock --wait 30 --quiet
say "The plan is an estimate's, of the machine as it runs."
printf '\n%s$%s vmckpt estimate-sharing vm.sock --target 4M --json >plan.json\n' "$green" "$plain"
vmckpt estimate-sharing vm.sock --target 4M --json >plan.json
run vmckpt vm break-up vm.sock --plan plan.json
run vmckpt vm status vm.sock
wait "$machine"
machine=''

step "Nothing was lost"
say "The same machine, never broken up, after as many operations."
digest_of() { sed 's/.*"digest": "\([0-9a-f]*\)".*/\1/' "$1"; }
vmckpt run web-1.raw --workload working-set:phase=0 --seed 7 --until-ops 10000000 --json >plain.json
digest_of shared.json
digest_of plain.json
[[ $(digest_of shared.json) == "$(digest_of plain.json)" ]] || fail "the digests differ"

printf '\n%sKnown beforehand, planned, and carried out.%s\n' "$bold$green" "$plain"
