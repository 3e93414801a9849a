#!/usr/bin/env bash
# No instruction of a wider set may run before its file is chosen: the objects of the baseline hold no ymm or zmm
# register, and those of the wide files offer the linker no function but their own that it could take for everybody.
# wide_instructions.sh BUILD_FOLDER
set -euo pipefail
command -v objdump >/dev/null && command -v nm >/dev/null || { echo "wide instructions: not checked, objdump or nm is missing"; exit 0; }
[ "$(uname -m)" = x86_64 ] || { echo "wide instructions: not checked, this is no x86-64"; exit 0; }
objects=$(find "$1" -path '*xent_kernels*' -name '*.o')
[ -n "$objects" ] || { echo "wide instructions: $1 holds no objects of xent_kernels"; exit 1; }
for object in $objects; do
  case $object in
    *isa/avx*)
      found=$(nm -C --defined-only "$object" | awk '$2 ~ /^[WVu]$/ && !/xent::avx/')
      [ -z "$found" ] || { echo "wide instructions: $object offers to others:"; echo "$found"; exit 1; } ;;
    *)
      found=$(objdump -d --no-show-raw-insn "$object" | awk '/%[yz]mm/ && ++n <= 3')
      [ -z "$found" ] || { echo "wide instructions: $object is of the baseline:"; echo "$found"; exit 1; } ;;
  esac
done
echo "wide instructions: none outside their files"
