#!/bin/sh
# Uses the page of `reelgrad serve` as a person would, in Chromium: tests/page/page.mjs says how. Pictures of it go to
# target/page. On Debian and Ubuntu what is missing is installed; elsewhere, and where that fails, the script says what is
# missing and exits with 2.
#
#     cargo build --release --features hub && sh scripts/page.sh
#
# REELGRAD replaces the program.
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=scripts/serve_setup.sh
. scripts/serve_setup.sh

pictures=$PWD/target/page

# Playwright's releases of today need Node.js 20.
has_node() {
    command -v npm >/dev/null && node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null
}

ready() {
    command -v ffmpeg >/dev/null && command -v ffprobe >/dev/null && [ -x /usr/bin/chromium ] && has_node
}

packages="chromium ffmpeg"
has_node || packages="$packages nodejs npm"
provide "$packages" \
    "ffmpeg with ffprobe (https://ffmpeg.org), Node.js 20 or later with npm, and /usr/bin/chromium"

start_servers

# Elsewhere, as the packages stay out of the repository.
cp -R tests/page "$work/page"
(cd "$work/page" && npm install --no-audit --no-fund --no-package-lock --loglevel=error)
rm -rf "$pictures"
mkdir -p "$pictures"
(cd "$work/page" && node page.mjs "$url" "$pictures" "$token_url" "$token")

stop_servers
