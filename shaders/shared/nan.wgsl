// Told by its bits: a compiler with fast maths may take comparisons as if there were no NaN.
fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}
