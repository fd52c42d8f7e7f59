// What soft_similarity and its gradient share: parameters, where a row's results are, and which entries count. The
// importer declares mask where there is one.

struct Params {
    rows: u32,
    n: u32,
    groups: u32,
    // Where the first row's results are, and how far the next group's are from there.
    first: u32,
    stride: u32,
    // The first row's mask.
    mask_first: u32,
    scale: f32,
}
#params Params p

#import row

const LOWEST: f32 = -3.40282347e38;
// Where exp is 0.
const LEAST: f32 = -104.0;

fn place(row: u32) -> u32 {
    return p.first + row / p.groups * p.stride + row % p.groups;
}

fn is_valid(row: u32, c: u32) -> Truth {
#ifdef MASK
    return mask[(p.mask_first + row % p.groups) * p.n + c] > Element(0.5);
#else
    return Truth(true);
#endif
}
