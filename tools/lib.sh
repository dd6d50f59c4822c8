# shellcheck shell=bash disable=SC2154
# What tools/start, tools/test and tools/setup share. Sourced, never run; the caller has set `top`
# to the root of the checkout.
#
# Everything said goes to standard error, so that standard output holds only the answer or the report.

say() { printf 'onset: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# step SENTENCE MEANING COMMAND...: runs a long command quietly. Says SENTENCE, with the seconds gone by on a
# terminal. On failure says one sentence: a full disk or a missing network is recognised from the log; anything
# else is MEANING, after the end of the log.
step() {
  local sentence=$1 meaning=$2 log status=0 began=$SECONDS pid
  shift 2
  log=$(mktemp "${TMPDIR:-/tmp}/onset-step.XXXXXX" 2>/dev/null) || fail "cannot write into ${TMPDIR:-/tmp} (disk full?)"
  if [ -t 2 ]; then
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    trap 'kill "$pid" 2>/dev/null; rm -f "$log"; printf "\n" >&2; exit 130' INT TERM
    while kill -0 "$pid" 2>/dev/null; do
      printf '\ronset: %s (%d s) ' "$sentence" $((SECONDS - began)) >&2
      sleep 0.5
    done
    wait "$pid" || status=$?
    trap - INT TERM
    printf '\n' >&2
  else
    say "$sentence"
    "$@" >"$log" 2>&1 </dev/null || status=$?
  fi
  if [ "$status" -ne 0 ]; then
    if grep -qiE 'no space left on device|not enough free space|disk quota exceeded' "$log"; then
      meaning="the disk is full: $meaning"
    elif grep -qiE 'temporary failure resolving|could not resolve|unable to connect|could not connect|connection (failed|timed out|refused)|network is unreachable' "$log"; then
      meaning="no network: $meaning"
    else
      tail -n 15 "$log" | sed 's/^/    /' >&2
    fi
    say "$meaning (whole log: $log)"
    exit 1
  fi
  rm -f "$log"
}

# distribution: "debian 12", "ubuntu 24.04", or what the system calls itself.
distribution() {
  (
    ID=unknown VERSION_ID=''
    # shellcheck disable=SC1091
    [ -r /etc/os-release ] && . /etc/os-release
    printf '%s %s' "$ID" "$VERSION_ID"
  )
}

# package_names GROUP COLUMN: one name a line, from tools/packages.tsv.
package_names() {
  awk -F '\t' -v group="$1" -v column="$2" '!/^#/ && $3 == group { print $column }' "$top/tools/packages.tsv"
}

# missing_packages NAME...: those that dpkg does not call installed.
missing_packages() {
  local installed name
  # dpkg-query exits 1 as soon as one name is unknown; the list it prints is complete all the same.
  installed=" $(dpkg-query -W -f='${Package}=${db:Status-Status} ' "$@" 2>/dev/null || true)"
  for name in "$@"; do
    case "$installed" in *" $name=installed "*) ;; *) printf '%s\n' "$name" ;; esac
  done
}

# need_space FOLDER MEBIBYTES PURPOSE
need_space() {
  local folder=$1 free
  while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
  free=$(df --output=avail -m "$folder" | tail -n 1 | tr -d ' ')
  [ "$free" -ge "$2" ] || fail "the disk is full: $3 needs $2 MiB below $folder, and $free MiB are free"
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif [ -t 0 ]; then
    sudo "$@"
  else
    sudo -n "$@"
  fi
}

# set_up GROUP...: installs the Debian packages of these groups that are missing. With none missing it
# needs neither root nor the network.
set_up() {
  local column group names=() missing=()
  [ -z "${ONSET_SKIP_SETUP:-}" ] || return 0
  case "$(distribution)" in
    "debian 12") column=1 ;;
    "ubuntu 24.04") column=2 ;;
    *)
      fail "set-up knows Debian 12 (and, untested, Ubuntu 24.04), this is $(distribution):" \
        "install what tools/packages.tsv lists, then set ONSET_SKIP_SETUP=1"
      ;;
  esac
  for group in "$@"; do
    mapfile -t -O "${#names[@]}" names < <(package_names "$group" "$column")
  done
  mapfile -t missing < <(missing_packages "${names[@]}")
  [ "${#missing[@]}" -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "packages are missing and neither root nor sudo is at hand; as root, run: apt-get install ${missing[*]}"
    if [ ! -t 0 ] && ! sudo -n true 2>/dev/null; then
      fail "packages are missing and sudo asks for a password, but there is no terminal to type it; as root, run: apt-get install ${missing[*]}"
    fi
    sudo -v || fail "packages are missing and sudo refused; as root, run: apt-get install ${missing[*]}"
  fi
  need_space /var/cache/apt 1500 "installing packages"
  say "installing packages: ${missing[*]}"
  step "reading the package lists" "apt-get update failed, so packages cannot be installed" \
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update --error-on=any
  step "downloading and installing (one to five minutes)" "apt-get install failed" \
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}

# leave_root ARGUMENTS...: under sudo, everything but the packages belongs to the person who called: when that
# person owns the checkout, starts the calling script again as them. Otherwise (root's own checkout) stays root.
leave_root() {
  local owner home
  [ "$(id -u)" -eq 0 ] && [ "${SUDO_UID:-0}" -ne 0 ] || return 0
  owner=$(stat -c %u "$top")
  if [ "$owner" != "$SUDO_UID" ]; then
    say "staying root, because the checkout does not belong to ${SUDO_USER:-user $SUDO_UID}: build/ and the model belong to root"
    return 0
  fi
  home=$(getent passwd "$SUDO_UID" | cut -d: -f6)
  exec setpriv --reuid "$SUDO_UID" --regid "$SUDO_GID" --init-groups \
    env -u SUDO_UID -u SUDO_GID -u SUDO_USER -u SUDO_COMMAND HOME="${home:-/}" "$0" "$@"
}

# build PRESET TARGET...: configures once, builds what changed, says so only when there is something to do.
build() {
  local preset=$1 folder="$top/build/$1" targets
  shift
  targets="$*"
  mkdir -p "$folder" 2>/dev/null || fail "cannot write into $folder: make it yours, or run as its owner"
  [ -w "$folder" ] || fail "$folder belongs to $(stat -c %U "$folder"): run as that user, or delete it"
  cd "$top" || fail "cannot enter $top"
  need_tools "$preset"
  if [ ! -f "$folder/build.ninja" ]; then
    need_space "$folder" 1000 "the build"
    step "configuring build/$preset" "cmake could not configure preset $preset; if build/$preset came from elsewhere, delete it" \
      cmake --preset "$preset"
  fi
  # The dry run knows whether there is work; it may also be stale, so the real run always follows.
  # shellcheck disable=SC2086
  if ninja -C "$folder" -n $targets 2>/dev/null | grep -q 'no work to do'; then
    step_silent ninja -C "$folder" $targets && return 0
  fi
  need_space "$folder" 500 "the build"
  if [ -t 2 ]; then
    say "building ($preset; minutes on two cores the first time, seconds later)"
    # shellcheck disable=SC2086
    NINJA_STATUS='onset: [%f/%t] ' ninja -C "$folder" $targets >&2 ||
      fail "the build failed (above); compiler: $(compiler_of "$folder")"
  else
    # shellcheck disable=SC2086
    step "building ($preset; minutes on two cores the first time, seconds later)" \
      "the build failed; compiler: $(compiler_of "$folder")" ninja -C "$folder" $targets
  fi
}

# need_tools PRESET: what configuring and building run; set_up brings them, unless it was skipped.
need_tools() {
  local compiler=clang++-19 tool
  case "$1" in debug | release-gcc) compiler=g++ ;; esac
  for tool in "$compiler" cmake ninja; do
    command -v "$tool" >/dev/null || fail "$tool was not found, and preset $1 needs it: install what tools/packages.tsv lists"
  done
}

step_silent() { "$@" >/dev/null 2>&1 </dev/null; }

compiler_of() { sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' "$1/CMakeCache.txt" 2>/dev/null; }

# fetch_default_model PRESET: downloads the default model once, with the program just built (onset/store/models.h).
fetch_default_model() {
  local program="$top/build/$1/bin/onset" name=smollm2-135m-instruct
  "$program" pull --list | grep "^$name .*(here)" >/dev/null && return 0
  say "fetching the default model, once"
  "$program" pull "$name" >&2
}
