#!/bin/sh
# Makes sure that the programs are there which the tests run: ffmpeg and ffprobe, which read and write video files, and
# spirv-val, which checks shaders. Silent when they are. On Debian and Ubuntu it installs them; elsewhere, and where that
# fails, it says what is missing and exits with 2.
set -eu

ready() {
    command -v ffmpeg >/dev/null && command -v ffprobe >/dev/null && command -v spirv-val >/dev/null
}

if ready; then exit 0; fi

if command -v apt-get >/dev/null; then
    as_root=env
    [ "$(id -u)" -eq 0 ] || as_root="sudo env"
    echo "Installing ffmpeg and spirv-tools, which the tests run" >&2
    $as_root apt-get update -qq || echo "apt-get update failed; trying with the package lists that are there" >&2
    $as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ffmpeg spirv-tools >&2 || true
    if ready; then exit 0; fi
fi
echo "The tests need ffmpeg with ffprobe (https://ffmpeg.org) and spirv-val (SPIRV-Tools) on the PATH." >&2
exit 2
