// Floats as unsigned integers of the same order: -0 equals 0, and every NaN is 0, below all numbers.

#import nan

fn ordered(x: f32) -> u32 {
    let raw = bitcast<u32>(x);
    let bits = select(raw, 0u, raw == 0x80000000u);
    let key = select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
    return select(key, 0u, is_nan(x));
}

// The float of a key that is not 0.
fn unordered(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, key >= 0x80000000u));
}
