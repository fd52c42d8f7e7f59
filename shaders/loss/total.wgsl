// y = scale * (sum of x): the last stage of a loss.
//
// x  (n)  read
// y  (1)  written
// grid    one workgroup of LANES invocations; each sums every LANES-th element in order, then the lanes are summed

struct Params { n: u32, scale: f32 }
#params Params p

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

#import lanes

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = lane; i < p.n; i += LANES) {
        sum += x[i];
    }
    let total = lanes_sum(sum, lane);
    if (lane == 0u) {
        y[0] = total * p.scale;
    }
}
