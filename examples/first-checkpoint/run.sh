#!/usr/bin/env bash
# The main job from end to end, on an emulated machine's memory made on the spot: `make demo` runs this.
#
#   create ─▶ save ─▶ info ─▶ verify ─▶ restore ─▶ compare ─▶ a machine that runs, and runs on lazily ─▶ beside other tools
#
# A step is `step` (a heading), `say` (what it shows) and `run` (a command, printed and run): add one by adding these.
# SIZE=1G bash run.sh takes a bigger machine. Everything happens in a temporary folder, which is gone at the end.
set -euo pipefail

size=${SIZE:-256M}
folder=$(mktemp -d "${TMPDIR:-/tmp}/vmckpt-demo.XXXXXX")
trap 'rm -rf "$folder"' EXIT
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

bytes_of() { wc -c <"$1"; }

step "A machine's memory"
say "$size as a server has it after a while: zero pages, copies, code, text, noise."
run vmckpt create guest.raw --size "$size"

step "Save it"
say "Zero and repeated pages become notes in the index; the rest is compressed, on all cores."
run vmckpt save guest.raw guest.vmckpt

step "Look at it"
say "This reads the index alone, so it takes as long for a machine a hundred times the size."
run vmckpt info guest.vmckpt

step "Prove it"
say "Every byte of the file is under a checksum."
run vmckpt verify guest.vmckpt

step "Get it back"
run vmckpt restore guest.vmckpt back.raw

step "Compare"
say "Byte by byte, and by the digest that image, checkpoint and copy have in common."
run cmp guest.raw back.raw || fail "the restored memory differs"
run vmckpt digest guest.raw guest.vmckpt back.raw
[[ $(vmckpt digest guest.raw guest.vmckpt back.raw | cut -c1-32 | sort -u | wc -l) == 1 ]] ||
  fail "the digests differ"

step "Damage it"
say "One flipped bit in the middle of a copy, and verify says where it is and what it costs."
cp guest.vmckpt damaged.vmckpt
middle=$(($(bytes_of damaged.vmckpt) / 2))
byte=$(od -An -tu1 -j "$middle" -N 1 damaged.vmckpt)
printf "\\x$(printf %02x $((byte ^ 1)))" | dd of=damaged.vmckpt bs=1 seek="$middle" conv=notrunc status=none
code=0
run vmckpt verify damaged.vmckpt || code=$?
[[ $code == 4 ]] || fail "verify ended with exit code $code where 4 was due"

step "Save a machine that runs"
say "It works on while its memory is saved, and pauses for an instant. Then it goes on from the file, where it was."
run vmckpt save guest.raw live.vmckpt --workload working-set --warmup-ops 1000000
live=$(vmckpt run live.vmckpt --until-ops 8000000 --json | sed 's/.*"digest": "\([0-9a-f]*\)".*/\1/')
never=$(vmckpt run guest.raw --workload working-set --until-ops 8000000 --json | sed 's/.*"digest": "\([0-9a-f]*\)".*/\1/')
printf '\n   after 8 000 000 operations  %s  saved on the way\n                               %s  never saved\n' "$live" "$never"
[[ $live == "$never" ]] || fail "the machine that was saved went another way"

step "Run it at once"
say "The machine works before its memory is there: what it used at the save comes first, the rest while it runs."
run vmckpt restore --lazy live.vmckpt --until-ops 8000000 | tee lazy.txt
[[ $(awk '$1 == "digest" { print $2 }' lazy.txt) == "$never" ]] ||
  fail "the machine that was restored lazily went another way"

step "What would sharing free?"
say "Large pages share nothing; the equal pages inside them could. A checkpoint knows, and no page is read."
run vmckpt estimate-sharing live.vmckpt --target 8M --top 3

step "Beside other tools"
say "One run each, as they come: a glance, not a measurement."
printf '\n'
whole=$(bytes_of guest.raw)
beside() { # label, output, command...
  local label=$1 output=$2 start=$EPOCHREALTIME
  shift 2
  "$@"
  awk -v label="$label" -v size="$(bytes_of "$output")" -v whole="$whole" -v start="$start" -v end="$EPOCHREALTIME" '
    BEGIN {
      cells = int(size / whole * 40 + 0.5)
      for (i = 0; i < cells; i++) bar = bar "#"
      printf "  %-15s %8.1f MiB  %6.2f s  %s\n", label, size / 1048576, end - start, bar
    }'
}
beside "cp" copy.raw cp guest.raw copy.raw
if command -v gzip >/dev/null; then beside "gzip -1" guest.gz bash -c 'gzip -1 <guest.raw >guest.gz'; fi
if command -v lz4 >/dev/null; then beside "lz4 -1" guest.lz4 lz4 -q -1 guest.raw guest.lz4; fi
if command -v zstd >/dev/null; then beside "zstd -1 -T2" guest.zst zstd -q -1 -T2 guest.raw -o guest.zst; fi
beside "vmckpt save" again.vmckpt vmckpt save guest.raw again.vmckpt --quiet

printf '\n%sThe memory came back, bit for bit.%s\n' "$bold$green" "$plain"
