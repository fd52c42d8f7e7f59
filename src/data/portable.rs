//! Elementary functions with the same bits on every platform.
//!
//! The standard library's `ln`, `exp` and `sin` come from the platform and differ in the last place; generated data
//! must not. These use only operations that IEEE 754 rounds exactly, and are good to about 1e-14.

/// Natural logarithm of a positive normal number.
pub(crate) fn ln(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits((bits & MANTISSA) | (1023 << 52));
    // m in [sqrt(1/2), sqrt(2)), where the series below converges fastest.
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    // ln m = 2 atanh(s), |s| < 0.172: eleven terms leave less than 1e-17.
    let s = (m - 1.0) / (m + 1.0);
    let series = (0..11).rev().fold(0.0, |sum, k| sum * s * s + 1.0 / f64::from(2 * k + 1));
    2.0 * s * series + exponent as f64 * std::f64::consts::LN_2
}

/// `exp(x)` for `-700 <= x <= 700`.
pub(crate) fn exp(x: f64) -> f64 {
    let whole = (x * std::f64::consts::LOG2_E).round();
    let r = x - whole * std::f64::consts::LN_2;
    // |r| < 0.35: fifteen Taylor terms leave less than 1e-18.
    let series = (1..15).rev().fold(1.0, |sum, k| 1.0 + sum * r / f64::from(k));
    series * f64::from_bits(((whole as i64 + 1023) as u64) << 52)
}

/// Hyperbolic tangent.
pub(crate) fn tanh(x: f64) -> f64 {
    // Beyond 20 the result is 1 in double precision.
    let e = exp(-2.0 * x.abs().min(20.0));
    (1.0 - e) / (1.0 + e) * x.signum()
}

/// `(sin, cos)` of the angle `turns * 2 pi`, for `0 <= turns < 1e9`.
pub(crate) fn sin_cos_turns(turns: f64) -> (f64, f64) {
    let quarter = (turns * 4.0).round();
    let r = (turns * 4.0 - quarter) * std::f64::consts::FRAC_PI_2;
    // |r| <= pi/4: nine terms each leave less than 1e-17.
    let r2 = r * r;
    let sin = r * (1..10).rev().fold(1.0, |sum, k| 1.0 - sum * r2 / f64::from(2 * k * (2 * k + 1)));
    let cos = (1..10).rev().fold(1.0, |sum, k| 1.0 - sum * r2 / f64::from(2 * k * (2 * k - 1)));
    match quarter as u64 % 4 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_standard_library() {
        for i in 1..4000 {
            let x = f64::from(i) * 0.01;
            assert!((ln(x) - x.ln()).abs() < 1e-14 * (1.0 + x.ln().abs()), "ln {x}");
            assert!((ln(1.0 / x.exp()) + x).abs() < 1e-13, "ln of a small number, {x}");
            for x in [x - 20.0, -x] {
                assert!((exp(x) / x.exp() - 1.0).abs() < 1e-13, "exp {x}");
                assert!((tanh(x) - x.tanh()).abs() < 1e-14, "tanh {x}");
            }
            let (sin, cos) = sin_cos_turns(x);
            let (s, c) = (x.fract() * std::f64::consts::TAU).sin_cos();
            assert!((sin - s).abs() < 1e-13 && (cos - c).abs() < 1e-13, "sin and cos of {x} turns");
        }
    }
}
