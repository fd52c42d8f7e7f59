#!/bin/sh
# Runs a command once for each subgroup size that Mesa's lavapipe can have besides its own: 4, 8 and 16 invocations for
# vectors of 128, 256 and 512 bits. Does nothing on other adapters, whose subgroup size is what it is.
#
#     sh scripts/other_subgroup_sizes.sh cargo test --features hub --lib kernels
set -eu

# Its name tells the width: "llvmpipe (LLVM 15.0.6, 256 bits)".
adapter=$(${CARGO:-cargo} run -q --features hub --bin reelgrad -- doctor --brief)
case $adapter in
    *llvmpipe*) ;;
    *)
        echo "Not repeated for other subgroup sizes: $adapter"
        exit 0
        ;;
esac

for bits in 128 256 512; do
    case $adapter in *"$bits bits"*) continue ;; esac
    echo "Subgroups of $((bits / 32)):"
    # Mesa's cache of compiled shaders does not tell the widths apart. The tiled family does not depend on the size.
    LP_NATIVE_VECTOR_WIDTH=$bits MESA_SHADER_CACHE_DISABLE=true REELGRAD_ONE_FAMILY=1 "$@"
done
