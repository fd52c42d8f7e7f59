// a += b, in place, four elements at a time; what lies behind the end of a stays as it is.
//
// a  (n)  read, written
// b  (n)  read
// grid    ceil(n / 1024) workgroups of 64 invocations, folded; sixteen elements each

struct Params { n: u32 }
#params Params p

@group(0) @binding(0) var<storage, read_write> a: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;

#entry 64 {
    let base = flat * 256u + local;
    for (var s = 0u; s < 4u; s++) {
        let i = base + s * 64u;
        if (i < p.n / 4u) {
            a[i] = a[i] + b[i];
        } else if (i == p.n / 4u) {
            let left = p.n % 4u;
            if (left > 0u) {
                a[i].x = a[i].x + b[i].x;
            }
            if (left > 1u) {
                a[i].y = a[i].y + b[i].y;
            }
            if (left > 2u) {
                a[i].z = a[i].z + b[i].z;
            }
        }
    }
}
