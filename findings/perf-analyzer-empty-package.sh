#!/usr/bin/env bash
# perf-analyzer (PyPI), versions 0.1.0 and 2.60.0: on a system with glibc older than 2.38 (Debian 12, Ubuntu
# 22.04) `pip install perf-analyzer` succeeds and installs an empty package, without a program and without a warning.
#
# The real releases have wheels for manylinux_2_38 only. The first release, 0.1.0, is a placeholder for any platform, so pip takes
# that as the newest that fits. `perf_analyzer --version` is then "command not found".
#
# Seen here:
#   manylinux_2_36: perf_analyzer-0.1.0-py3-none-any.whl, 0 programs
#   manylinux_2_38: perf_analyzer-2.60.0-py3-none-manylinux_2_38_x86_64.whl, 1 programs
# Do this: pin the version, so that pip fails in place of taking 0.1.0. The wheel runs on an older system with a newer glibc
# unpacked beside it (ld-linux-x86-64.so.2 --library-path …).
#
# Exits 0 while the behaviour is as told, 1 when it has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
status=0
for case in "2_36 perf_analyzer-0.1.0-py3-none-any.whl 0" "2_38 perf_analyzer-2.60.0-py3-none-manylinux_2_38_x86_64.whl 1"; do
    read -r glibc wheel programs <<<"$case"
    # The second is pinned: a later release must not change what is shown here.
    requirement=perf-analyzer
    if [[ "$glibc" == 2_38 ]]; then requirement=perf-analyzer==2.60.0; fi
    "$folder/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --platform "manylinux_${glibc}_x86_64" --dest "$folder/$glibc" "$requirement"
    got="$(cd "$folder/$glibc" && ls)"
    found="$(python3 -c 'import sys, zipfile; print(sum(n.endswith("bin/perf_analyzer") for n in zipfile.ZipFile(sys.argv[1]).namelist()))' "$folder/$glibc/$got")"
    echo "manylinux_$glibc: $got, $found programs"
    if [[ "$got $found" != "$wheel $programs" ]]; then status=1; fi
done
exit "$status"
