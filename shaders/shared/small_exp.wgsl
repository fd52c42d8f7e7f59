#import nan

// Of an argument that is at most 0 but may be far below; NaN stays NaN.
fn small_exp(x: f32) -> f32 {
    return select(exp(x), 0.0, x < -87.0 && !is_nan(x));
}
