# shellcheck shell=sh
# What scripts share that try `reelgrad serve` out; each sources it from the repository's root, under `set -eu`. It finds the
# program, which REELGRAD replaces, and makes a folder that is thrown away in the end. Its functions install what is missing,
# start two servers of made videos, one of them with a token, and stop them.

reelgrad=${REELGRAD:-$PWD/target/release/reelgrad}
model=$PWD/tests/goldens/clip-tiny-hf
token=a-secret

# Mesa complains on standard error where a machine without a desktop has none.
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}"

if [ ! -x "$reelgrad" ]; then
    echo "$reelgrad is missing; it is built by: cargo build --release --features hub" >&2
    exit 2
fi

work=$(mktemp -d)
servers=
clean_up() {
    code=$?
    trap - EXIT
    # shellcheck disable=SC2086 # numbers of processes
    [ -z "$servers" ] || kill -KILL $servers 2>/dev/null || true
    rm -rf "$work"
    exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Installs the packages $1 on Debian and Ubuntu, unless the script's own `ready` finds all that it runs. Where something is
# still missing, says that the script needs $2 and exits with 2.
provide() {
    if ready; then return; fi
    if command -v apt-get >/dev/null; then
        as_root="env"
        [ "$(id -u)" -eq 0 ] || as_root="sudo env"
        echo "Installing what the script runs: $1" >&2
        $as_root apt-get update -qq || echo "apt-get update failed; trying with the package lists that are there" >&2
        # shellcheck disable=SC2086 # several packages
        $as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $1 >&2 || true
        if ready; then return; fi
    fi
    echo "The script needs $2." >&2
    exit 2
}

# Makes the video $1: a box of the colour $3 moves over the colour $2 by the rule $4.
video() {
    # shellcheck disable=SC2086 # several flags
    ffmpeg -nostdin -loglevel error -f lavfi -i "color=$2:s=320x240:r=10:d=8" -f lavfi -i "color=$3:s=80x80:r=10:d=8" \
        -filter_complex "[0][1]overlay=$4:shortest=1" $encoder "$work/videos/$1.mp4"
}

# Makes four videos, in a form that browsers play where ffmpeg can, and their index.
make_index() {
    encoder="-c:v mpeg4 -q:v 3"
    if ffmpeg -hide_banner -encoders 2>/dev/null | grep -q ' libx264 '; then
        encoder="-c:v libx264 -pix_fmt yuv420p -movflags +faststart"
    fi
    mkdir "$work/videos"
    # shellcheck disable=SC2086 # several flags
    ffmpeg -nostdin -loglevel error -f lavfi -i testsrc=s=320x240:r=10:d=8 $encoder "$work/videos/test card.mp4"
    video "red box" white red "x=30*t:y=80"
    video "blue box" yellow blue "x=120:y=20*t"
    video "green box" black green "x=240-30*t:y=160-20*t"
    "$reelgrad" index "$work/videos" --model "$model" --out "$work/index"
}

# Starts a server with the flags after $1, its log, and waits until it serves.
serve() {
    log=$1
    shift
    "$reelgrad" serve "$work/index" --model "$model" --port 0 --media-root "$work/videos" "$@" 2>"$log" &
    servers="$servers $!"
    waited=0
    until grep -q '^serving ' "$log"; do
        waited=$((waited + 1))
        if [ "$waited" -gt 120 ] || ! kill -0 $! 2>/dev/null; then
            cat "$log" >&2
            exit 1
        fi
        sleep 1
    done
}

# The address that the log $1 tells.
address() {
    sed -n 's/^serving  *//p' "$1"
}

# Starts a server at $url, and one at $token_url that wants $token. Without a token only requests to this machine by its own
# names are answered, so it is these addresses that must be asked.
start_servers() {
    make_index
    serve "$work/open.log"
    serve "$work/token.log" --token "$token"
    # shellcheck disable=SC2034 # the scripts' own
    url=$(address "$work/open.log") token_url=$(address "$work/token.log")
}

# Asks the servers to end, which they should do well.
stop_servers() {
    for server in $servers; do
        kill -TERM "$server"
        wait "$server"
    done
    servers=
}
