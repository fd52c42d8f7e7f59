#!/bin/sh
# Makes sure that there is a Vulkan driver for the GPU programs to run on. Silent when there is one, and on systems with
# a graphics API of their own (Metal, DirectX 12).
#
# On Debian and Ubuntu it installs Mesa's drivers, one of which runs on the CPU; elsewhere it says what to install and
# exits with 2.
#
# VULKAN_ICD_DIRS, a list separated by colons, replaces the folders that are searched for drivers.
set -eu

case $(uname -s) in
    Darwin | MINGW* | MSYS* | CYGWIN*) exit 0 ;;
esac

PACKAGES="mesa-vulkan-drivers libvulkan1"

# The folders in which Vulkan's loader looks for drivers, each followed by a colon.
icd_dirs() (
    if [ -n "${VULKAN_ICD_DIRS+set}" ]; then
        echo "$VULKAN_ICD_DIRS"
        exit
    fi
    data=${XDG_DATA_HOME:-${HOME:-}/.local/share}:${XDG_DATA_DIRS:-/usr/local/share:/usr/share}
    config=${XDG_CONFIG_HOME:-${HOME:-}/.config}:${XDG_CONFIG_DIRS:-/etc/xdg}
    folders=$data:$config:/etc:/usr/share:/usr/local/etc:/run/opengl-driver/share
    IFS=:
    for folder in $folders; do
        printf %s "$folder/vulkan/icd.d:"
    done
)

# Whether one of the files or folders in $1, a list separated by colons, is a driver's description or holds one.
holds_driver() (
    IFS=:
    for path in $1; do
        if [ -f "$path" ]; then exit 0; fi
        for file in "$path"/*.json; do
            if [ -f "$file" ]; then exit 0; fi
        done
    done
    exit 1
)

# Whether the library that loads the drivers is there.
has_loader() (
    { ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null | grep -q 'libvulkan\.so\.1' && exit 0
    IFS=:
    for folder in ${LD_LIBRARY_PATH:-}; do
        if [ -e "$folder/libvulkan.so.1" ]; then exit 0; fi
    done
    exit 1
)

ready() {
    has_loader && holds_driver "$(icd_dirs)"
}

give_up() {
    printf '%s\n' "$@" >&2
    exit 2
}

# Where the environment names the drivers, the loader looks nowhere else, and installing one would not help.
named=${VK_DRIVER_FILES:-${VK_ICD_FILENAMES:-}}
if [ -n "$named" ]; then
    if holds_driver "$named"; then exit 0; fi
    give_up "VK_DRIVER_FILES or VK_ICD_FILENAMES names no Vulkan driver that exists ($named); unset it or mend it."
fi

if ready; then exit 0; fi

if command -v apt-get >/dev/null; then
    if [ "$(id -u)" -eq 0 ]; then
        as_root=env
    elif command -v sudo >/dev/null; then
        as_root="sudo env"
    else
        give_up "No Vulkan driver found. As root, run: apt-get update && apt-get install $PACKAGES"
    fi
    echo "No Vulkan driver found; installing Mesa's: $PACKAGES" >&2
    # A stale list of some unrelated source must not stand in the way.
    $as_root apt-get update -qq || echo "apt-get update failed; trying with the package lists that are there" >&2
    # shellcheck disable=SC2086 # two words, two packages
    $as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $PACKAGES >&2 ||
        give_up "apt-get could not install $PACKAGES; install a Vulkan driver by hand."
    if ready; then exit 0; fi
    give_up "The packages $PACKAGES are installed, but no Vulkan driver is found."
fi

for try in \
    "dnf:dnf install mesa-vulkan-drivers vulkan-loader" \
    "pacman:pacman -S vulkan-swrast vulkan-icd-loader" \
    "zypper:zypper install libvulkan_lvp libvulkan1" \
    "apk:apk add mesa-vulkan-swrast vulkan-loader"; do
    if command -v "${try%%:*}" >/dev/null; then
        give_up "No Vulkan driver found. Install your GPU's, or Mesa's software driver: sudo ${try#*:}"
    fi
done
give_up "No Vulkan driver found. Install your GPU's, or Mesa's software driver (lavapipe), and Vulkan's loader."
