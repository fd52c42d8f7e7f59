// Four f16 as they lie in memory: the first in the low bits of each u32.
fn halves(packed: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(packed.x), unpack2x16float(packed.y));
}
