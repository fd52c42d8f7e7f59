// Writes the number of a readback, as the last work before it: if the number arrives, the work was done.
//
// status  (1)  written
// grid    one workgroup of one invocation

struct Params { nonce: u32 }
#params Params p

@group(0) @binding(0) var<storage, read_write> status: array<u32>;

@compute @workgroup_size(1)
fn main() {
    status[0] = p.nonce;
}
