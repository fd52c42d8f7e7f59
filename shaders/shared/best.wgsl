// Entries (key, index) of which one is the best: the higher key, then the lower index. None at all is (0, NONE).

const NONE: u32 = 0xffffffffu;

// Whether entry a comes before b.
fn better(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y < b.y);
}
