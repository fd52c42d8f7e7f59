#!/bin/sh
# Makes sure that ffmpeg and ffprobe are there, which read and write video files. Silent when they are. On Debian and
# Ubuntu it installs them; elsewhere, and where that fails, it says what will be skipped.
set -eu

ready() {
    command -v ffmpeg >/dev/null && command -v ffprobe >/dev/null
}

if ready; then exit 0; fi

if command -v apt-get >/dev/null; then
    as_root=env
    [ "$(id -u)" -eq 0 ] || as_root="sudo env"
    echo "No ffmpeg found; installing it" >&2
    $as_root apt-get update -qq || echo "apt-get update failed; trying with the package lists that are there" >&2
    $as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ffmpeg >&2 || true
    if ready; then exit 0; fi
fi
echo "There is no ffmpeg: tests that read video files say so and pass. Install it from https://ffmpeg.org." >&2
