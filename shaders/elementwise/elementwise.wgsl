// y = f(x), element by element; with GRAD, y = g f'(x).
//
// x  (n)  read
// g  (n)  read, with GRAD: the gradient of f(x)
// y  (n)  written
// grid    ceil(n / 256) workgroups of 64 invocations, folded; four elements each

struct Params { n: u32, scale: f32, shift: f32 }
#params Params p

@group(0) @binding(0) var<storage, read> x: array<f32>;
#ifdef GRAD
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
#else
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
#endif

#ifdef ACTIVATION
#import activation

fn forward(x: f32) -> f32 { return activate(x); }
fn derivative(x: f32) -> f32 { return activate_grad(x); }
#endif
#ifdef AFFINE
fn forward(x: f32) -> f32 { return p.scale * x + p.shift; }
fn derivative(x: f32) -> f32 { return p.scale; }
#endif
#ifdef EXP
fn forward(x: f32) -> f32 { return exp(x); }
fn derivative(x: f32) -> f32 { return exp(x); }
#endif
#ifdef LOG
fn forward(x: f32) -> f32 { return log(x); }
fn derivative(x: f32) -> f32 { return 1.0 / x; }
#endif
#ifdef SQUARE
fn forward(x: f32) -> f32 { return x * x; }
fn derivative(x: f32) -> f32 { return 2.0 * x; }
#endif

#entry 64 {
    let base = flat * 256u + local;
    for (var k = 0u; k < 4u; k++) {
        let i = base + k * 64u;
        if (i < p.n) {
#ifdef GRAD
            y[i] = g[i] * derivative(x[i]);
#else
            y[i] = forward(x[i]);
#endif
        }
    }
}
