// Activations and their derivatives. ACTIVATION: 0 none, 1 GELU (erf), 2 QuickGELU, 3 ReLU, 4 tanh, 5 sigmoid, 6 softplus,
// 7 GELU (tanh). NaN stays NaN.

#import nan

// The error function in two pieces, each good to about 1e-7: a rational approximation around 0, where the other would
// lose the small result in 1 - erfc, and a Chebyshev fit of erfc beyond.
fn erf(x: f32) -> f32 {
    let a = abs(x);
    if (a < 0.84375) {
        let z = x * x;
        let r = 0.128379167 + z * (-0.325042107 + z * (-0.0284817495 + z * (-0.00577027029 + z * -0.0000237630166)));
        let s = 1.0 + z * (0.397917223 + z * (0.0650222499 + z * (0.00508130628 + z * (0.000132494738 + z * -0.00000396022827))));
        return x + x * (r / s);
    }
    // 1 - erfc, with erfc(a) = t exp(-a^2 + P(t)), t = 1 / (1 + a / 2) (Numerical Recipes' Chebyshev fit, 1.2e-7).
    let t = 1.0 / (1.0 + 0.5 * a);
    let p = -1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806
        + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277))))))));
    let e = t * exp(-min(a * a, 87.0) + p);
    return sign(x) * (1.0 - e);
}

fn sigmoid(x: f32) -> f32 {
    let e = exp(-min(abs(x), 87.0));
    return select(select(e, 1.0, x >= 0.0) / (1.0 + e), x, is_nan(x));
}

// Some drivers return NaN from tanh of a large argument.
fn safe_tanh(x: f32) -> f32 {
    return select(tanh(clamp(x, -10.0, 10.0)), x, is_nan(x));
}

// What the approximation of GELU has in place of the error function.
fn gelu_tanh(x: f32) -> f32 {
    return safe_tanh(0.79788456 * (x + 0.044715 * x * x * x));
}

fn relu(x: f32) -> f32 {
    return select(max(x, 0.0), x, is_nan(x));
}

fn softplus(x: f32) -> f32 {
    // log(1 + e) loses e where it is small; two terms of the series are exact there.
    let e = exp(-min(abs(x), 87.0));
    return relu(x) + select(log(1.0 + e), e - 0.5 * e * e, e < 0.0003);
}

fn activate(x: f32) -> f32 {
    switch ACTIVATION {
        case 1u: { return 0.5 * x * (1.0 + erf(x * 0.70710678)); }
        case 2u: { return x * sigmoid(1.702 * x); }
        case 3u: { return relu(x); }
        case 4u: { return safe_tanh(x); }
        case 5u: { return sigmoid(x); }
        case 6u: { return softplus(x); }
        case 7u: { return 0.5 * x * (1.0 + gelu_tanh(x)); }
        default: { return x; }
    }
}

fn activate4(v: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(activate(v.x), activate(v.y), activate(v.z), activate(v.w));
}

fn activate_grad(x: f32) -> f32 {
    switch ACTIVATION {
        case 1u: {
            let density = exp(-min(0.5 * x * x, 87.0)) * 0.39894228;
            return 0.5 * (1.0 + erf(x * 0.70710678)) + x * density;
        }
        case 2u: {
            let s = sigmoid(1.702 * x);
            return s * (1.0 + 1.702 * x * (1.0 - s));
        }
        case 3u: { return select(0.0, 1.0, x > 0.0); }
        case 4u: {
            let t = safe_tanh(x);
            return 1.0 - t * t;
        }
        case 5u: {
            let s = sigmoid(x);
            return s * (1.0 - s);
        }
        case 6u: { return sigmoid(x); }
        case 7u: {
            let t = gelu_tanh(x);
            // Beyond 10 the other factor is 0, and x^2 may be infinite.
            let z = min(abs(x), 10.0);
            return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * (0.79788456 + 0.10703222 * z * z);
        }
        default: { return 1.0; }
    }
}
